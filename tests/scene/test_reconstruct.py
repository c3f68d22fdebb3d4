"""Photographs to Gaussians: the whole is its stages, views are split as promised.

Oracles: the stages taken one by one from the library, and scores by their definition.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from table_top import table_top
from tiny import NUM_VIEWS, VIEW_SIZE, blank_scene, random_weights, room_views

from airjax.errors import AirjaxError
from airjax.gaussians import only_active
from airjax.inner.task import run
from airjax.metrics import ssim
from airjax.scene import view_selection
from airjax.scene.files.camera_file import from_comments, origin_in
from airjax.scene.files.photographs import scene_of
from airjax.scene.files.ply import read_ply
from airjax.scene.floating import floating, lookouts
from airjax.scene.judgement import Scores, judge
from airjax.scene.model import Model
from airjax.scene.predictor import PredictorConfig
from airjax.scene.reconstruct import (
    begin,
    predict,
    prepare,
    reconstruct,
    split_views,
)
from airjax.scene.render import render
from airjax.scene.task import MANY_VIEWS

pytestmark = pytest.mark.slow

CONFIG = PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16))
FIELDS = ("means", "scales", "quats", "opacities", "harmonics")


@pytest.fixture(scope="module")
def model():
    return Model(CONFIG, random_weights(CONFIG), "random")


@pytest.fixture(scope="module")
def views():
    """A procedural room with its depths."""
    return room_views()


@pytest.fixture
def scene(views):
    return scene_of(views.images, views.cameras, bounds=(float(views.near), float(views.far)))


def to_8bit(image):
    return np.rint(255 * np.clip(np.asarray(image, np.float64), 0, 1)) / 255


# --- the whole -----------------------------------------------------------------------------------------------


def test_it_is_its_stages(model, scene, tmp_path):
    """Predicted and refined Gaussians, scores of the view that is held out, and the file that is written."""
    steps = []
    made = reconstruct(scene, model=model, views=3, refine_steps=10, progress=lambda *line: steps.append(line))
    given, held = scene.take([1, 2, 3, 4, 5]), scene.take([0])
    near, far = scene.bounds
    chosen = view_selection.spread(given.cameras, 3)
    sets = view_selection.comparisons(given.cameras, chosen, depths=np.full(5, 2 / (1 / near + 1 / far)))
    predicted = model.predict(given.images, given.cameras, near, far, sets=sets, most=60 * VIEW_SIZE[1])
    task = prepare(scene, views=3).refinement(MANY_VIEWS)
    for found, wanted in zip(
        (task.images, *jax.tree.leaves(task.cameras)), (given.images, *jax.tree.leaves(given.cameras)), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    assert (
        task.coarse.images.shape == (5, VIEW_SIZE[0] // 2, VIEW_SIZE[1] // 2, 3)
        and task.coarse.pixels == VIEW_SIZE[0] * VIEW_SIZE[1]
    )
    start, count = begin(prepare(scene, views=3), model), predicted.num_slots
    np.testing.assert_array_equal(start.means[:count], predicted.means)  # and what surrounds it
    expected = only_active(run(task, start, num_steps=10))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(made.gaussians, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    shown = to_8bit(render(expected, held.cameras[0], image_size=VIEW_SIZE).image)
    error = np.mean((to_8bit(held.images[0]) - shown) ** 2)
    assert made.held_out.names == ("0",) and made.names == ("1", "2", "3", "4", "5")
    assert made.held_out.mean_psnr == pytest.approx(-10 * np.log10(error), abs=0.02)
    similarity = ssim(jnp.asarray(held.images[0]), jnp.asarray(shown, jnp.float32))
    assert made.held_out.ssim == pytest.approx([float(similarity)], abs=2e-3)
    assert (made.near, made.far, made.image_size, made.num_views) == (near, far, VIEW_SIZE, 3)
    assert steps == [("refine", 10, 10)] and set(made.seconds) == {"prepare", "predict", "refine", "score"}
    decibels = f"PSNR {made.held_out.mean_psnr:.2f} dB of 1 held-out views"
    assert repr(made) == f"Reconstruction({expected.num_slots} Gaussians from 3 of 5 views, {decibels})"

    made.save(tmp_path / "a.ply")
    found = read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(found.gaussians.means, made.gaussians.means)
    view = from_comments(found.comments)
    middle = given.cameras[int(view_selection.spread(given.cameras, 1)[0])]
    np.testing.assert_array_equal(view.camera.translation, middle.translation)
    assert not origin_in(found.comments).any()
    replace(made, origin=np.array([1e6, 2e6, 0.1])).save(tmp_path / "far.ply")
    np.testing.assert_array_equal(origin_in(read_ply(tmp_path / "far.ply").comments), [1e6, 2e6, 0.1])
    assert view.image_size == VIEW_SIZE and view.focus == pytest.approx(2 / (1 / near + 1 / far))


def test_small_photographs_and_no_scores(model, scene):
    """The predictor sees 24 pixels, as if the photographs had that size; nothing is held out, or nothing compared."""
    made = reconstruct(scene, model=model, views=2, predict_size=24, hold_out=0)
    assert made.held_out == Scores() and made.held_out.mean_psnr is None and made.held_out.mean_ssim is None
    assert made.image_size == VIEW_SIZE and len(made.names) == NUM_VIEWS
    assert repr(made) == f"Reconstruction({made.gaussians.num_slots} Gaussians from 2 of 6 views)"
    small = scene.shrunk(24)
    again = reconstruct(small, model=model, views=2, hold_out=0, score=False)
    np.testing.assert_array_equal(made.gaussians.means, again.gaussians.means)
    whole = reconstruct(scene, model=model, views=2, max_size=24, hold_out=0, score=False)
    assert whole.image_size == (16, 24)
    np.testing.assert_array_equal(made.gaussians.means, whole.gaussians.means)


def test_large_photographs_are_halved_to_the_smallest():
    """And so many Gaussians fit them."""
    sizes = {}
    for longest in (16, 256, 512, 600):
        images = np.zeros((3, longest // 2, longest, 3), np.float32)
        given = replace(blank_scene(3), images=images, alphas=None)
        task = prepare(given, hold_out=0, near=1.0, far=9.0)
        part, sizes[longest] = task.refinement(MANY_VIEWS, exposure=True), []
        assert task.fitting == 64 * longest
        while part is not None:
            assert part.exposure and part.pixels == longest * longest // 2 and len(part.lookouts.nearest) >= 3
            sizes[longest].append(part.images.shape[2])
            part = part.coarse
    assert sizes == {16: [16, 8], 256: [256, 128], 512: [512, 256, 128], 600: [600, 300, 150]}


def test_what_is_masked_does_not_matter(model, scene):
    """Noise behind the masks changes neither Gaussians nor scores; PSNR is that of the known pixels alone."""
    masks = np.ones(scene.images.shape[:3], bool)
    masks[:, 20:] = False
    made = []
    for seed in (0, 1):
        noise = np.random.default_rng(seed).random(scene.images.shape, np.float32)
        small = np.where(masks[..., None], scene.images, scene.images[:, 19:20])  # what the networks see
        known = replace(scene, images=small, masks=masks)
        task = prepare(known, views=2)
        task = replace(
            task, given=replace(task.given, images=np.where(task.given.masks[..., None], small[1:], noise[1:]))
        )
        gaussians = run(task.refinement(MANY_VIEWS), predict(model, task), num_steps=10)
        held = replace(task.held_out, images=np.where(masks[:1, ..., None], small[:1], noise[:1]))
        made.append((gaussians, judge(gaussians, held, near=1.0, far=9.0).scores))
    (first, scores), (second, others) = made
    assert scores == others
    np.testing.assert_array_equal(first.means, second.means)
    shown = to_8bit(render(first, scene.cameras[0], image_size=VIEW_SIZE).image)[:20]
    assert scores.psnr[0] == pytest.approx(-10 * np.log10(np.mean((shown - scene.images[0, :20]) ** 2)), abs=0.02)


def test_a_scene_of_nothing(model, scene):
    """All of it is known to be empty."""
    nothing = replace(scene, alphas=np.zeros(scene.images.shape[:3], np.float32), source="room")
    with pytest.raises(AirjaxError, match=r"room: no Gaussian survived .* try more views, or give near and far"):
        reconstruct(nothing, model=model, views=2, predict_size=24, hold_out=0)


def test_options_out_of_range(scene):
    with pytest.raises(ValueError, match="views: expected at least 1, got 0"):
        prepare(scene, views=0)
    with pytest.raises(ValueError, match="hold_out: expected 0 or more, got -1"):
        split_views(scene, hold_out=-1)
    with pytest.raises(AirjaxError, match="nowhere: expected a folder of photographs"):
        reconstruct("nowhere")


def test_scores_are_one_for_each_view(model, views, scene):
    """Of two views and a white background; both at once are both apart."""
    gaussians = model.predict(views.images[:3], views.cameras[:3], *scene.bounds)
    white = replace(scene, alphas=np.ones(scene.images.shape[:3], np.float32))
    both = judge(gaussians, white.take([3, 4]), near=1.0, far=9.0).scores
    apart = [judge(gaussians, white.take([i]), near=1.0, far=9.0).scores for i in (3, 4)]
    assert both.names == ("3", "4") and both.psnr == tuple(score.psnr[0] for score in apart)
    assert both.mean_ssim == pytest.approx(np.mean([score.ssim[0] for score in apart]))
    black = judge(gaussians, scene.take([3]), near=1.0, far=9.0).scores
    assert black.psnr != apart[0].psnr


# --- fog -----------------------------------------------------------------------------------------------------


def is_there(drawn, photograph, things) -> tuple[bool, bool]:
    """Whether a picture shows the things of a photograph, by their pixels, and has its edges and texture, by detail.

    PSNR of the whole picture says neither: that of one color is not bad. Detail is what a blur takes away.
    """
    error = np.mean(np.square(drawn - photograph)[things])
    detail = [(image - gaussian_filter(image, (2, 2, 0))).ravel() for image in (drawn, photograph)]
    norms = [max(np.linalg.norm(part), 1e-9) for part in detail]
    return -10 * np.log10(error) > 20, detail[0] @ detail[1] / (norms[0] * norms[1]) > 0.65


def test_no_fog_over_a_table():
    """By the shipped weights and 20 steps: the view that is held out shows what lies on the table, and nothing floats.

    What is fog fails: the Gaussians four times as large and as faint, or spread about; one color; another photograph.
    """
    capture = table_top()
    held = len(capture.images) // 2
    scene = scene_of(capture.images, capture.cameras, bounds=capture.bounds)
    scene = replace(scene, splits=tuple("test" if i == held else "train" for i in range(len(scene.names))))
    made = reconstruct(scene, views=3, refine_steps=20)
    camera, photograph, things = capture.cameras[held], capture.images[held], capture.things[held]
    assert made.held_out.names == (str(held),) and 0.2 < things.mean() < 0.5

    def found(gaussians):
        drawn = render(gaussians, camera, image_size=capture.images.shape[1:3]).image
        return is_there(np.clip(np.asarray(drawn), 0, 1), photograph, things)

    gaussians = made.gaussians
    assert found(gaussians) == (True, True) and made.near_cameras < 0.01
    large = replace(gaussians, scales=4 * gaussians.scales, opacities=gaussians.opacities / 4)
    noise = np.random.default_rng(0).normal(0, 0.2, gaussians.means.shape).astype(np.float32)
    assert found(large) == found(replace(gaussians, means=gaussians.means + noise)) == (False, False)
    for other in (np.broadcast_to(photograph.mean(axis=(0, 1)), photograph.shape), capture.images[held + 1]):
        assert is_there(other, photograph, things) == (False, False)
    eye = np.asarray(capture.cameras.center[0])
    before = eye + 0.1 * (gaussians.means - eye)
    seen = lookouts(capture.cameras, np.full(len(scene.names), made.near), image_size=capture.images.shape[1:3])
    assert np.mean(floating(before, gaussians.scales, seen)) > 0.5


# --- views ---------------------------------------------------------------------------------------------------


def split_names(scene, **options):
    given, held, notices = split_views(scene, **options)
    return [int(i) for i in given.names], [int(i) for i in held.names], notices


def test_marked_views_are_held_out_unless_a_number_is_given():
    """F10: a number wins over the marks, and says so."""
    scene = blank_scene(splits=("train", "test", "train", "test", "train", "train", "train", "train", "train"))
    assert split_names(scene) == ([0, 2, 4, 5, 6, 7, 8], [1, 3], ())
    given, held, notices = split_names(scene, hold_out=4)
    assert (given, held) == ([1, 2, 3, 5, 6, 7], [0, 4, 8])
    (line,) = notices
    assert line.endswith("is held out, not the 2 that the pose file marks as test") and "multiple of 4" in line
    given, held, notices = split_names(scene, hold_out=0)
    assert (given, held) == (list(range(9)), []) and notices[0].startswith("no view is held out, not the 2 ")
    assert split_names(blank_scene(), hold_out=4) == ([1, 2, 3, 5, 6, 7], [0, 4, 8], ())


def test_validation_views_are_left_out():
    """F9."""
    scene = blank_scene(splits=("val", "train", "val", "test", "train", "train", "train", "train", "train"))
    said = ("2 validation views are neither used nor measured",)
    assert split_names(scene) == ([1, 4, 5, 6, 7, 8], [3], said)
    assert split_names(scene, hold_out=4)[:2] == ([3, 4, 5, 7, 8], [1, 6])
    assert split_names(blank_scene(3, splits=("val", "val", "val")), hold_out=0)[0] == [0, 1, 2]
