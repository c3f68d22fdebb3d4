"""Which Gaussians of a prediction the other views contradict, and which they repeat."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import noise_atlas, random_weights

from airjax.gaussians import Gaussians3D
from airjax.scene import model as model_module
from airjax.scene.cameras import Camera, look_at, pinhole, project_points, unproject
from airjax.scene.fusion import TOLERANCE, consistent, fused
from airjax.scene.model import Model
from airjax.scene.predictor import PredictorConfig, predict
from airjax.scene.procedural import random_views

pytestmark = pytest.mark.slow

SIZE, DISTANCE = (16, 24), 4.0
CENTERS = (np.stack(np.meshgrid(np.arange(12), np.arange(8)), axis=-1).reshape(-1, 2) * 2 + 1).astype(np.float32)


def wall(count: int):
    """Cameras side by side that look straight at a wall, and the depths that each sees."""
    eyes = jnp.stack([0.25 * jnp.arange(count, dtype=jnp.float32), jnp.zeros(count), jnp.zeros(count)], axis=1)
    down = jnp.array([0.0, -1.0, 0.0])
    look = jax.vmap(lambda eye: look_at(eye, eye + jnp.array([0.0, 0.0, DISTANCE]), down, pinhole(60.0, SIZE)))
    return look(eyes), np.full((count, SIZE[0] // 2, SIZE[1] // 2), DISTANCE, np.float32)


def found(cameras, depths, **options):
    """(v, a, b) what is kept of a Gaussian in every cell of every view."""
    views = range(len(depths))
    means = [unproject(cameras[i], jnp.asarray(CENTERS), jnp.asarray(depths[i].ravel())) for i in views]
    options = {"empty": jnp.zeros((len(depths), *SIZE), bool), **options}
    pixels = jnp.asarray(np.tile(CENTERS, (len(depths), 1)))
    kept = jax.jit(consistent)(jnp.concatenate(means), pixels, jnp.asarray(depths), cameras, **options)
    return np.asarray(kept).reshape(depths.shape)


def test_views_that_agree_keep_everything():
    assert found(*wall(4)).all()


def test_what_most_views_see_through_is_dropped():
    """One view takes a cell for much nearer than it is; that hides nothing of what the others found."""
    cameras, depths = wall(4)
    depths[1, 4, 6] = DISTANCE / 2
    kept = found(cameras, depths)
    assert not kept[1, 4, 6] and kept.sum() == kept.size - 1


@pytest.mark.parametrize("factor, dropped", [(1 / TOLERANCE + 0.02, False), (1 / TOLERANCE - 0.02, True)])
def test_depths_within_the_tolerance_are_the_same(factor, dropped):
    cameras, depths = wall(4)
    depths[2, 4, 6] *= factor
    assert found(cameras, depths)[2, 4, 6] != dropped


def test_what_is_hidden_from_the_others_is_kept():
    cameras, depths = wall(4)
    depths[1, 4, 6] = DISTANCE * 2
    assert found(cameras, depths).all()


def test_one_view_alone_contradicts_nothing():
    """Of two views either may be wrong; of three, two that confirm each other outvote the third."""
    cameras, depths = wall(2)
    depths[1] = DISTANCE / 2
    assert found(cameras, depths).all()
    cameras, depths = wall(3)
    depths[1, 4, 6] = DISTANCE / 2
    assert not found(cameras, depths)[1, 4, 6]


def test_confirmations_weigh_against_contradictions():
    """Three of six views find the same thing near: none of them is dropped where as many confirm it as do not."""
    cameras, depths = wall(6)
    cameras = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), cameras)  # all at one place
    depths[:3] = DISTANCE / 2
    assert not found(cameras, depths)[:3].any()  # 3 see through, 2 confirm
    depths[:4] = DISTANCE / 2
    assert found(cameras, depths).all()


def test_nothing_stands_outside_a_silhouette():
    """The view's own, and that of any other."""
    cameras, depths = wall(3)
    empty = np.zeros((3, *SIZE), bool)
    empty[0, :, :8] = True
    kept = found(cameras, depths, empty=jnp.asarray(empty))
    assert not kept[0, :, :4].any() and kept[0, :, 5:].all()
    focal = float(cameras.intrinsics[0, 0, 0])
    column = CENTERS[:12, 0] + 0.25 * focal / DISTANCE  # where the cells of the second view are seen in the first
    assert np.array_equal(kept[1, 4], column >= 8)


def test_a_masked_pixel_says_nothing():
    """No Gaussian of its own, no vote on others: neither of what is seen through, nor of what is outside."""
    cameras, depths = wall(4)
    depths[1, 4, 6] = DISTANCE / 2
    masks = np.ones((4, *SIZE), bool)
    masks[1, 8:10, 12:14] = False  # that cell
    kept = found(cameras, depths, masks=jnp.asarray(masks))
    assert not kept[1, 4, 6] and kept.sum() == kept.size - 1
    masks = np.ones((4, *SIZE), bool)
    masks[[0, 2, 3]] = False  # all that could contradict it
    kept, empty = found(cameras, depths, masks=jnp.asarray(masks)), np.ones((4, *SIZE), bool)
    assert kept[1].all() and not kept[[0, 2, 3]].any()
    empty[1] = False  # and what the others hold for background is not known
    np.testing.assert_array_equal(found(cameras, depths, masks=jnp.asarray(masks), empty=jnp.asarray(empty)), kept)


def test_an_offset_does_not_carry_a_gaussian_out_of_its_empty_pixel():
    """Shown at an empty pixel, placed over a full one."""
    cameras, depths = wall(2)
    pixels = jnp.asarray(np.tile(CENTERS, (2, 1)))
    means = jnp.concatenate([unproject(cameras[i], pixels[:96] + 2.0, jnp.asarray(depths[i].ravel())) for i in (0, 1)])
    empty = np.zeros((2, *SIZE), bool)
    empty[0, 1, 1] = True
    kept = consistent(means, pixels, jnp.asarray(depths), cameras, empty=jnp.asarray(empty))
    assert not kept[0] and kept.sum() == len(kept) - 1


def test_a_model_leaves_out_what_is_contradicted():
    """With sets: the views that get Gaussians are the ones that are asked, not those that are only compared with."""
    config = PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16))
    model = Model(config, random_weights(config), "random")
    atlas = noise_atlas()
    made = jax.jit(lambda key: random_views(key, atlas, image_size=(32, 32), num_views=5))(jax.random.key(1))
    images, cameras, near, far = jax.tree.map(np.asarray, (made.images, made.cameras, made.near, made.far))
    sets = np.array([[4, 0], [1, 3], [3, 1]])
    empty = np.zeros((5, 32, 32), bool)
    empty[[0, 4], :, :16] = True
    found = model.predict(images, cameras, near, far, sets=sets, empty=empty)
    whole = jax.jit(lambda *args: predict(*args, config=config, sets=sets))(model.params, images, cameras, near, far)
    order = sets[:, 0]
    kept = consistent(
        whole.gaussians.means, whole.pixels, whole.depths, cameras[order], empty=jnp.asarray(empty[order])
    )
    assert 0 < found.num_slots == int(kept.sum()) < len(kept)
    np.testing.assert_allclose(found.means, whole.gaussians.means[kept], rtol=1e-5, atol=1e-5)


# --- fusion --------------------------------------------------------------------------------------------------


def fuse(cameras, depths, active=None):
    """`fused` of a Gaussian in every cell of every view, whose color is the number of its view."""
    views = range(len(depths))
    means = [unproject(cameras[i], jnp.asarray(CENTERS), jnp.asarray(depths[i].ravel())) for i in views]
    m = depths.size
    colors = jnp.repeat(jnp.arange(len(depths), dtype=jnp.float32), m // len(depths))
    gaussians = Gaussians3D(
        jnp.concatenate(means),
        jnp.full((m, 3), 0.1),
        jnp.tile(jnp.array([1.0, 0, 0, 0]), (m, 1)),
        jnp.full(m, 0.5),
        jnp.broadcast_to(colors[:, None, None], (m, 1, 3)),
        jnp.ones(m, bool) if active is None else jnp.asarray(active.ravel()),
    )
    found = jax.jit(fused, static_argnames="image_size")(gaussians, jnp.asarray(depths), cameras, image_size=SIZE)
    return gaussians, found


def test_of_what_views_repeat_one_is_left():
    """Of a wall that two views show, the first has all it sees; of the second, what only that sees is left."""
    cameras, depths = wall(2)
    before, found = fuse(cameras, depths)
    active = np.asarray(found.active).reshape(depths.shape)
    assert active[0].all()
    seen = np.asarray(project_points(cameras[0], before.means)[0][:, 0]).reshape(depths.shape)[1]
    np.testing.assert_array_equal(active[1], (seen < 0) | (seen >= SIZE[1]))
    given = np.asarray(found.harmonics[:, 0, 0]).reshape(depths.shape)[0]
    assert set(np.unique(given)) == {0.0, 0.5}  # the mean of both views, where both saw it
    opacities = np.asarray(found.opacities).reshape(depths.shape)[0]
    np.testing.assert_allclose(opacities[given == 0.5], 1 - 0.5**1.5, rtol=1e-5)
    np.testing.assert_allclose(opacities[given == 0], 0.5, rtol=1e-5)
    np.testing.assert_allclose(found.means[..., 2], DISTANCE, rtol=1e-5)


def test_the_view_that_resolves_it_best_keeps_it():
    """The second camera stands nearer: what both see is that one's."""
    cameras, depths = wall(2)
    translation = cameras.translation.at[1, 2].add(-0.5 * DISTANCE)
    cameras = Camera(cameras.intrinsics, cameras.rotation, translation)
    depths[1] = 0.5 * DISTANCE
    active = np.asarray(fuse(cameras, depths)[1].active).reshape(depths.shape)
    assert active[1].all() and not active[0].all()


def test_surfaces_apart_and_unused_slots_are_left_alone():
    cameras, depths = wall(3)
    depths[1], depths[2] = 0.8 * DISTANCE, 0.5 * DISTANCE
    assert fuse(cameras, depths)[1].active.all()
    cameras, depths = wall(2)
    active = np.ones(depths.shape, bool)
    active[0] = False
    before, found = fuse(cameras, depths, active)
    np.testing.assert_array_equal(np.asarray(found.active), active.ravel())
    np.testing.assert_array_equal(np.asarray(found.means)[active.ravel()], np.asarray(before.means)[active.ravel()])


def test_a_model_fuses_what_four_views_repeat(monkeypatch):
    """Of three it keeps all."""
    asked = []

    def spy(gaussians, depths, cameras, *, image_size):
        asked.append((depths.shape[0], image_size))
        return fused(gaussians, depths, cameras, image_size=image_size)

    monkeypatch.setattr(model_module, "fused", spy)
    config = PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16))
    params, cameras = random_weights(config), wall(5)[0]
    views = np.zeros((5, 32, 32, 3), np.float32), cameras, np.zeros((5, 32, 32), bool), np.ones((5, 32, 32), bool)
    bounds = np.full(5, 1.0, np.float32), np.full(5, 9.0, np.float32)
    for count, expected in ((3, []), (4, [(4, (32, 32))])):
        rows = tuple((i, 4) for i in range(count))
        program = partial(model_module._predict.__wrapped__, config=config, rows=rows)
        found, _ = jax.eval_shape(program, params, *views, *bounds)  # traced, not compiled
        assert found.means.shape == (count * 32 * 32, 3) and asked == expected
