"""What floats before cameras, and from where one looks."""

import jax
import jax.numpy as jnp
import numpy as np

from airjax.scene.cameras import look_at, pinhole
from airjax.scene.floating import _MOST, floating, lookouts

SIZE = (16, 24)


def row(places):
    """Cameras at these places of the x axis that look along z: 0.2 to either side at a depth of 1."""
    eyes = jnp.stack([jnp.asarray(places, jnp.float32), *jnp.zeros((2, len(places)))], axis=1)
    along, down = jnp.array([0.0, 0.0, 1.0]), jnp.array([0.0, -1.0, 0.0])
    return jax.vmap(lambda eye: look_at(eye, eye + along, down, pinhole(60.0, SIZE)))(eyes)


def marks(points, places, nearest, *, scale=1e-3):
    """Whether Gaussians at (x, z) float."""
    means = np.float32([[x, 0, z] for x, z in points])
    seen = lookouts(row(places), np.float32(nearest), image_size=SIZE)
    return np.asarray(floating(means, np.full_like(means, scale), seen)).tolist()


def test_one_looks_from_cameras_and_half_way_to_their_neighbors():
    seen = lookouts(row([0, 1, 2.5]), np.float32([3, 2, 1]), image_size=SIZE)
    places = np.asarray(seen.cameras.center)
    assert sorted(places[:, 0].round(5).tolist()) == [0, 0.5, 0.5, 1, 1.25, 1.75, 2.5]  # no way of 1.5 for a depth of 1
    assert seen.size.tolist() == [24, 16] and not places[:, 1:].any()
    assert dict(zip(places[:, 0].round(5).tolist(), seen.nearest.tolist(), strict=True)).get(1.25) == 3
    np.testing.assert_allclose(seen.cameras.rotation, np.tile(np.eye(3), (7, 1, 1)), atol=1e-6)


def test_nothing_is_nearer_than_a_share_of_the_least_depth():
    """In the picture, and before the camera; every camera has a depth of its own."""
    points = [(0, 0.8), (0, -0.8), (0, 1.0), (0.3, 0.8), (0.5, 0.8), (1, 1.4)]
    assert marks(points, [0, 1], [3, 3]) == [True, False, False, False, True, False]
    assert marks(points, [0, 1], [3, 5]) == [True, False, False, False, True, True]
    assert marks(points, [0, 8], [3, 3]) == [True, False, False, False, False, False]


def test_a_large_one_reaches_into_the_picture():
    assert marks([(0.25, 0.4)], [0], [3]) == [False]
    assert marks([(0.25, 0.4)], [0], [3], scale=0.2) == [True]


def test_of_many_cameras_some_are_looked_from():
    places = np.arange(3 * _MOST) / 100
    seen = lookouts(row(places), np.full(len(places), 3.0), image_size=SIZE)
    assert len(seen.nearest) <= 4 * _MOST and np.ptp(np.asarray(seen.cameras.center)[:, 0]) > 0.99 * np.ptp(places)
