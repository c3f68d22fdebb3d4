"""The plane sweep: what it matches, what it must not depend on, and that its weights can be trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes3d import scale_world
from tiny import noise_atlas, random_weights

from airjax.errors import AirjaxError
from airjax.scene.cameras import Camera, project_points, unproject
from airjax.scene.placing import inverse_depth_at, inverse_depths
from airjax.scene.predictor import PredictorConfig, config_from_text, config_to_text, predict
from airjax.scene.procedural import random_views
from airjax.scene.single_sweep import SingleSweepConfig
from airjax.scene.sweep import PATCH_SCALES, match_planes, normalize, patch_features, pool
from airjax.scene.windows import windowed

pytestmark = pytest.mark.slow

SMALL = PredictorConfig(planes=(12, 4), matching=16, coarse=(16, 16), fine=(16, 16))


@pytest.fixture(scope="module")
def views():
    atlas = noise_atlas()
    return jax.jit(lambda key: random_views(key, atlas, image_size=(32, 48), num_views=3))(jax.random.key(3))


@pytest.fixture(scope="module")
def params():
    return random_weights(SMALL)


def run(params, images, cameras, near, far, config=SMALL):
    return _predict(params, images, cameras, near, far, config=config)


_predict = jax.jit(predict, static_argnames="config")
_compare = jax.jit(lambda *args: predict(*args[:-1], config=SMALL, sets=args[-1]))


def test_every_plane_looks_where_its_depth_projects(views):
    """Features of the other view that say where they are: a match is then the point at which a plane looks.

    Its oracle goes through the world: unprojected at the plane's depth, and projected.
    """
    rows, columns, planes = 16, 24, 10
    y, x = jnp.meshgrid(jnp.arange(1.0, 2 * rows, 2), jnp.arange(1.0, 2 * columns, 2), indexing="ij")
    own = jnp.ones((rows, columns, 2))
    features = jnp.stack([own, jnp.stack([x, y], axis=-1)])
    inverse = inverse_depths(views.near, views.far, planes)
    size = 2 * rows, 2 * columns
    matches = match_planes(features, views.cameras[:2], 0, jnp.array([1]), inverse, groups=2, image_size=size)
    found = np.asarray(matches).reshape(-1, 2, planes).transpose(0, 2, 1)
    compared = 0
    for d in range(planes):
        depths = jnp.full(rows * columns, 1.0) / inverse[d]
        points = unproject(views.cameras[0], jnp.stack([x.ravel(), y.ravel()], axis=-1), depths)
        seen, depth = (np.asarray(a) for a in project_points(views.cameras[1], points))
        # Half a cell within the border, where the linear map is not cut off.
        inside = (depth > 0) & (seen > 1).all(axis=1) & (seen < [2 * columns - 1, 2 * rows - 1]).all(axis=1)
        np.testing.assert_allclose(found[inside, d], seen[inside], atol=2e-3)
        compared += inside.sum()
    assert compared > 0.3 * rows * columns * planes


def test_patches_are_compared_by_cross_correlation():
    """Against numpy's correlation of the colours of 3 x 3 cells, the mean of each colour taken off."""
    images = jax.random.uniform(jax.random.key(5), (2, 16, 20, 3))
    found = np.asarray(normalize(patch_features(images), groups=PATCH_SCALES))
    assert found.shape == (2, 8, 10, 48)
    cells = np.asarray(images).reshape(2, 8, 2, 10, 2, 3).mean(axis=(2, 4))
    tap = np.array([0.25, 0.5, 0.25])
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = sum(tap[i] * tap[j] * padded[:, i : i + 8, j : j + 10] for i in range(3) for j in range(3))
    for group, picture, spread in ((0, cells, 1), (1, blurred, 2)):
        a = picture[0, 4 - spread : 5 + spread : spread, 3 - spread : 4 + spread : spread]
        b = picture[1, 3 - spread : 4 + spread : spread, 6 - spread : 7 + spread : spread]
        a, b = (part - part.mean(axis=(0, 1)) for part in (a, b))
        expected = np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))
        part = slice(24 * group, 24 * (group + 1))
        np.testing.assert_allclose(found[0, 4, 3, part] @ found[1, 3, 6, part], expected, atol=1e-4)


def test_it_does_not_depend_on_the_unit_or_the_frame_of_the_world(views, params):
    context = views.images[:2], views.cameras[:2]
    base = run(params, *context, views.near, views.far).gaussians
    scaled = run(params, context[0], scale_world(context[1], 7.0), 7 * views.near, 7 * views.far).gaussians
    np.testing.assert_allclose(scaled.means / 7, base.means, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scaled.scales / 7, base.scales, rtol=1e-2)
    np.testing.assert_allclose(scaled.harmonics, base.harmonics, atol=1e-2)
    turn = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32)
    camera = context[1]
    turned = Camera(camera.intrinsics, camera.rotation @ turn.T, camera.translation)
    found = run(params, context[0], turned, views.near, views.far).gaussians
    np.testing.assert_allclose(found.means, base.means @ turn.T, rtol=1e-3, atol=1e-3)


def test_every_view_has_a_range_of_its_own(views, params):
    """Of three views, each as it is where all have its range."""
    near, far = views.near * np.float32([1, 0.8, 1.3]), views.far * np.float32([1, 2, 1.5])
    found = run(params, views.images, views.cameras, near, far)
    for i in range(3):
        alone = run(params, views.images, views.cameras, np.full(3, near[i]), np.full(3, far[i]))
        np.testing.assert_allclose(found.depths[i], alone.depths[i], rtol=1e-4)
        assert near[i] * 0.99 < found.depths[i].min() and found.depths[i].max() < far[i] * 1.01
    scalars = run(params, views.images, views.cameras, near[0], far[0])
    np.testing.assert_allclose(scalars.depths[0], found.depths[0], rtol=1e-4)


def test_any_number_of_views_and_any_size(views, params):
    """Three views; sides that are no multiples of 16: padded cells are inactive and the others stay in the image."""
    found = run(params, views.images, views.cameras, views.near, views.far)
    assert np.sum(found.gaussians.active) == 3 * 32 * 48
    odd = views.images[:2, :21, :37]
    gaussians = run(params, odd, views.cameras[:2], views.near, views.far).gaussians
    assert gaussians.num_slots == 2 * 32 * 48 and np.sum(gaussians.active) == 2 * 21 * 37
    first = gaussians.active & (jnp.arange(gaussians.num_slots) < 32 * 48)
    seen, depth = project_points(views.cameras[0], gaussians.means)
    assert np.all(np.asarray(depth)[first] > 0) and np.all(np.asarray(seen)[first] < np.array([39, 23]))
    with pytest.raises(ValueError, match="expected at least 2 views, got 1"):
        predict(params, views.images[:1], views.cameras[:1], views.near, views.far, config=SMALL)


def test_a_view_that_is_named_twice_counts_once(views, params):
    bounds = views.near, views.far
    once = _compare(params, views.images, views.cameras, *bounds, np.array([[0, 1, 1], [2, 0, 0]]))
    twice = _compare(params, views.images, views.cameras, *bounds, np.array([[0, 1, 1], [2, 0, 1]]))
    alone = predict_pair(params, views)
    np.testing.assert_allclose(once.depths[0], twice.depths[0], rtol=1e-4)
    np.testing.assert_allclose(once.depths[0], alone.depths[0], rtol=1e-3)
    assert np.abs(once.depths[1] / twice.depths[1] - 1).max() > 1e-4


def predict_pair(params, views):
    """The first view, compared with the second."""
    return _compare(params, views.images, views.cameras, views.near, views.far, np.array([[0, 1]]))


def test_pooled_agreements():
    """Against means and maxima by hand: of the views that see the plane, none, or a view named twice."""
    products = np.array([0.5, -0.2, 0.8], np.float32).reshape(3, 1, 1, 1) * np.ones((3, 1, 4, 2), np.float32)
    inside = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], bool).reshape(3, 1, 4)
    found = np.asarray(pool(jnp.asarray(products), jnp.asarray(inside), jnp.array([4, 1, 7])))[0]
    expected = [[1.1 / 3, 0.8, 1], [0.15, 0.5, 2 / 3], [-0.2, -0.2, 1 / 3], [0, 0, 0]]
    np.testing.assert_allclose(found[:, [0, 2, 4]], expected, atol=1e-6)
    np.testing.assert_allclose(found[:, [1, 3]], found[:, [0, 2]], atol=1e-6)
    again = np.array([0, 1, 2, 2])
    twice = pool(jnp.asarray(products[again]), jnp.asarray(inside[again]), jnp.array([4, 1, 7, 7]))[0]
    np.testing.assert_allclose(twice, found, atol=1e-6)


def test_a_depth_at_an_edge_is_one_of_two_surfaces():
    """Two equal peaks: the mean of the planes around the first, with half of the probability."""
    scores = jnp.array([0.0, 9, 10, 9, 0, 0, 0, 9, 10, 9, 0])
    plane, mass = windowed(scores, jnp.arange(11.0))
    assert float(plane) == pytest.approx(2, abs=1e-3) and float(mass) == pytest.approx(0.5, abs=1e-3)


def test_depths_far_apart_stay_ahead(views, params):
    """Half a plane beyond `far` lies behind the camera where far is a hundred times near."""
    assert float(inverse_depth_at(jnp.float32(-0.5), jnp.float32(1), jnp.float32(100), 32)) == pytest.approx(0.005)
    found = run(params, views.images, views.cameras, views.near, 100 * views.near)
    _, depth = project_points(views.cameras[0], found.gaussians.means[: 32 * 48])
    assert np.all(np.asarray(depth) > 0)


def test_confidence(views, params):
    found = run(params, views.images, views.cameras, views.near, views.far)
    assert found.confidence.shape == found.depths.shape == (3, 16, 24)
    assert np.all(found.confidence >= 0) and np.all(found.confidence <= 1)


def test_every_weight_gets_a_gradient(views, params):
    def loss(params):
        found = predict(params, views.images[:2], views.cameras[:2], views.near, views.far, config=SMALL)
        parts = [found.gaussians.means, found.gaussians.scales, found.gaussians.quats, found.gaussians.opacities]
        parts += [found.gaussians.harmonics, found.depths, found.confidence]
        rng = np.random.default_rng(0)
        return sum(jnp.sum(part * rng.normal(size=part.shape).astype(np.float32)) for part in parts)

    gradient = jax.jit(jax.grad(loss))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.any(leaf), path


def test_unprojection_inverts_projection(views):
    camera = views.cameras[1]
    pixels = jnp.array([[3.0, 4.0], [40.0, 20.0]])
    points = unproject(camera, pixels, jnp.array([1.5, 3.0]))
    seen, depths = project_points(camera, points)
    np.testing.assert_allclose(seen, pixels, atol=1e-3)
    np.testing.assert_allclose(depths, [1.5, 3.0], rtol=1e-5)


def test_configuration_as_text():
    for config in (SMALL, SingleSweepConfig(planes=8, grid=2)):
        assert config_from_text(config_to_text(config), source="x") == config
    for bad in ("", "[]", "3", '{"planes": 3, "what": 2}', '{"widths": [1, 2], "what": 3}'):
        with pytest.raises(AirjaxError, match="weights: expected a scene predictor's configuration"):
            config_from_text(bad, source="weights")
