"""Training of the scene predictor: where scenes come from, one step, and what starts it."""

import dataclasses
import itertools
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import random_weights

from airjax.errors import AirjaxError
from airjax.scene.captures import random_world_views
from airjax.scene.predictor import Prediction, Scores, config_from_text
from airjax.scene.procedural import Views, random_views
from airjax.weights_file import load_weights, save_weights
from train.main import load_experiment
from train.scene import experiment as module
from train.scene.data import SceneData, batches, draw_scenes, random_sets, split_views, texture_atlas
from train.scene.losses import Vanilla, cross_entropies, depth_error, true_planes

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).resolve().parents[3] / "train" / "configs" / "foresplat.py"


@pytest.fixture(autouse=True)
def standard_promotion():
    """optax raises Python floats to the power of an int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(CONFIG, smoke=True)


def test_test_textures_are_of_other_photographs(tmp_path):
    """Each photograph has one colour: the two atlases share none."""
    for i in range(25):
        Image.new("RGB", (200, 180), (10 * i, i, 255 - i)).save(tmp_path / f"{i:02d}.png")
    data = SceneData(folders=(str(tmp_path),))
    train, test = ({tuple(t[0, 0]) for t in texture_atlas(data, test=test)} for test in (False, True))
    assert len(train) == 22 and len(test) == 3 and not train & test
    assert texture_atlas(data).shape == (44, 64, 64, 3)
    with pytest.raises(AirjaxError, match="none: expected a folder of photographs, found nothing"):
        texture_atlas(SceneData(folders=(str(tmp_path / "none"),)))
    with pytest.raises(AirjaxError, match=r"got none; give --data\.folders"):
        texture_atlas(SceneData())
    with pytest.raises(AirjaxError, match=r"got none; give --data\.scenes SCENE"):
        SceneData(real=1).open_scenes()


def test_scenes_of_a_step_are_the_same_whenever_it_is_reached():
    data = SceneData(batch_size=3)
    stream = batches(data, (), 0)
    first = [next(stream)["seeds"] for _ in range(4)]
    np.testing.assert_array_equal(next(batches(data, (), 3))["seeds"], first[3])
    assert len({int(seed) for seeds in first for seed in seeds}) == 12


def test_the_first_scenes_are_plain_rooms_the_others_of_all_kinds():
    data = SceneData(made_up=4, image_size=(16, 16), batch_size=3, rooms=1)
    atlas = jnp.asarray(texture_atlas(data), jnp.float32) / 255
    seeds = jnp.arange(3, dtype=jnp.uint32)
    drawn = jax.jit(lambda seeds: draw_scenes(data, atlas, seeds, rooms=1))(seeds)
    room = random_views(jax.random.key(0), atlas, image_size=(16, 16), num_views=4)
    np.testing.assert_allclose(drawn.images[0], room.images, atol=1e-3)
    np.testing.assert_allclose(drawn.near[0], np.full(4, room.near), rtol=1e-6)
    options = {"image_size": (16, 16), "num_views": 4, "given": 3}
    world = random_world_views(jax.random.key(2), atlas, **options)
    np.testing.assert_allclose(drawn.images[2], world.images, atol=1e-3)
    np.testing.assert_allclose(drawn.far[2], world.far, rtol=1e-5)
    with pytest.raises(AirjaxError, match="real and rooms: expected at most 2 scenes of a step, got 1 and 2"):
        SceneData(real=1, rooms=2)


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    """(experiment, folder) of a run of fifteen steps, all on the same two scenes; it needs no photographs."""
    loop = {"num_steps": 15, "log_every": 1, "checkpoint_every": 0, "panel_every": 15}
    experiment = experiment.with_(loop=loop, optimizer={"warmup": 1, "learning_rate": 3e-3})
    folder = tmp_path_factory.mktemp("scenes") / "run"
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(module, "batches", lambda *given: itertools.repeat(next(batches(*given))))
        experiment.run(folder)
    return experiment, folder


def test_a_run_learns(finished):
    log = [json.loads(line) for line in (finished[1] / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log]
    assert np.isfinite(losses).all() and losses[-1] < losses[0] - 0.1
    assert log[-1]["overflow"] == 0 and 10 < log[-1]["psnr"] < 50
    (panel,) = finished[1].glob("**/*.png")
    with Image.open(panel) as picture:
        assert picture.size == (6 * 32, 4 * 32) and np.asarray(picture).std() > 10


def test_weights_carry_their_configuration(finished):
    experiment, folder = finished
    params, metadata = load_weights(folder / "weights.safetensors")
    assert config_from_text(metadata["predictor"], source="x") == experiment.predictor
    loaded = experiment.load_params(folder / "weights.safetensors", params)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))


def test_a_view_that_overflows_sends_no_gradient(experiment):
    """Nor does the other one, which fits, since it sees but a corner of the scene."""
    small = experiment.with_(phase=Vanilla(depth=0.0, planes=0.0, capacity=(1024, 16)))
    atlas = jnp.asarray(texture_atlas(small.data), jnp.float32) / 255
    views = jax.jit(lambda key: random_views(key, atlas, image_size=(32, 32), num_views=4))(jax.random.key(0))
    aside = views.cameras.intrinsics.at[3, :2, 2].add(26.0)
    views = views._replace(cameras=dataclasses.replace(views.cameras, intrinsics=aside))
    params = random_weights(small.predictor)
    near, far = (jnp.full(4, bound) for bound in (views.near, views.far))
    parts = split_views(views._replace(near=near, far=far), 2)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params):
        return small.phase.scene_loss({"params": params}, *parts, jax.random.key(0), small)

    grads, metrics = gradient(params)
    assert float(metrics["overflow"]) == 1
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_sets_of_any_number_of_compared_views():
    """No view is compared with itself; one time in three two views are compared, one time in three one is alone."""
    sets, given = jax.jit(jax.vmap(lambda key: random_sets(key, 4)))(jax.random.split(jax.random.key(0), 60))
    sets, given = np.asarray(sets), np.asarray(given)
    assert sets.shape == (60, 4, 4) and np.all(sets[:, :, 0] == np.arange(4))
    assert np.all(sets[:, :, 1:] != np.arange(4)[None, :, None]) and sets.min() == 0 and sets.max() == 3
    pairs, alone = given.sum(axis=1) == 2, given.sum(axis=1) == 1
    assert 8 < pairs.sum() < 32 and 8 < alone.sum() < 32 and np.all(pairs | alone | given.all(axis=1))
    assert np.all(given[:, 0]) and np.all(given[~alone, 1])
    assert np.all(sets[pairs, 0, 1:] == 1) and np.all(sets[pairs, 1, 1:] == 0)
    counts = {len(set(row)) for row in sets[~pairs, :, 1:].reshape(-1, 3).tolist()}
    assert counts == {1, 2, 3}


def test_cross_entropy_of_planes():
    """A depth between two planes asks for both of them, in proportion; one beyond the range for the last plane."""
    depths = np.array([1 / 0.4, 1 / 0.4, 10.0, np.nan], np.float32)  # of the pixels of a cell; near 1, far 5
    views = Views(
        np.zeros((1, 2, 2, 3)), depths.reshape(1, 2, 2), None, np.ones(1, np.float32), np.full(1, 5.0, np.float32)
    )
    found = Prediction(None, None, jnp.full((1, 1, 1), 2.0), None)
    truth = true_planes(views, found, 5)
    np.testing.assert_allclose(truth.planes[0, 0, 0], [1, 1, 0, 0], atol=1e-5)
    np.testing.assert_array_equal(truth.known[0, 0, 0], [True, True, True, False])
    expected = (2 * abs(np.log(2.0 * 0.4)) + np.log(5 / 2)) / 3
    assert float(depth_error(found, truth)) == pytest.approx(expected, rel=1e-5)
    scores = Scores(jnp.arange(5.0)[None, None, None], jnp.array([[[[0.0, 1]]]]), jnp.array([[[[0.5, 1.5]]]]))
    coarse, fine = cross_entropies(scores, truth)
    log_p, log_q = np.arange(5) - np.log(np.exp(np.arange(5)).sum()), np.array([0, 1]) - np.log(1 + np.e)
    assert float(coarse) == pytest.approx(-(2 * log_p[1] + log_p[0]) / 3, rel=1e-5)
    assert float(fine) == pytest.approx(-log_q.mean(), rel=1e-5)  # half of each; the third pixel is out of reach


def test_what_cannot_start_a_run(experiment, tmp_path):
    like = random_weights(experiment.predictor)
    with pytest.raises(AirjaxError, match="expected a run folder or a weights file to start from, found none"):
        experiment.load_params(tmp_path / "none", like)
    save_weights(tmp_path / "w.safetensors", {"other": jnp.zeros(3)})
    with pytest.raises(AirjaxError, match="expected weights of the model of foresplat_smoke, got others"):
        experiment.load_params(tmp_path / "w.safetensors", like)


def test_a_loss_of_ones_own(experiment):
    """Oracle: the loss of the vanilla phase is that of a function with its formula; another one has another value."""
    atlas = jnp.asarray(texture_atlas(experiment.data), jnp.float32) / 255
    views = jax.jit(lambda key: random_views(key, atlas, image_size=(32, 32), num_views=4))(jax.random.key(0))
    near, far = (jnp.full(4, bound) for bound in (views.near, views.far))
    params, parts = random_weights(experiment.predictor), split_views(views._replace(near=near, far=far), 2)

    def logarithm(images, rendered):
        return 0.5 * jnp.log(jnp.mean(jnp.square(images - rendered)) + 1e-4)

    def absolute(images, rendered):
        return jnp.mean(jnp.abs(images - rendered))

    @jax.jit
    def losses(params):
        phases = [dataclasses.replace(experiment.phase, loss_fn=fn) for fn in (None, logarithm, absolute)]
        key = jax.random.key(0)
        return [phase.scene_loss({"params": params}, *parts, key, experiment)[0] for phase in phases]

    plain, same, other = losses(params)
    np.testing.assert_allclose(plain, same, rtol=1e-5)
    assert float(other) > 0 and abs(float(other) - float(plain)) > 0.1
