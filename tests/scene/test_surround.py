"""What lies beyond a prediction."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import blank_scene

from airjax.gaussians import join
from airjax.scene.cameras import Camera, project_points
from airjax.scene.harmonics import to_rgb
from airjax.scene.points import at_points
from airjax.scene.surround import CELL, surround

SIZE, FAR = (16, 32), 10.0


def views(**fields):
    """Two cameras side by side that look along z, at pictures that are red on the left and green on the right."""
    scene = blank_scene(2)
    cameras = Camera(
        np.tile(np.float32([[40, 0, 16], [0, 40, 8], [0, 0, 1]]), (2, 1, 1)),
        scene.cameras.rotation,
        np.float32([[0, 0, 0], [-0.1, 0, 0]]),
    )
    images = np.zeros((2, *SIZE, 3), np.float32)
    images[:, :, :16, 0] = images[:, :, 16:, 1] = 0.75
    return replace(scene, images=images, alphas=None, cameras=cameras, **fields)


def points(*, left=False):
    """Gaussians all over the pictures at a depth of 2, or over their left half."""
    pixels = np.stack(np.meshgrid(np.arange(0.5, 16 if left else 34, 1), np.arange(0.5, 16)), axis=-1).reshape(-1, 2)
    places = np.concatenate([(pixels - [16, 8]) / 40 * 2, np.full((len(pixels), 1), 2.0)], axis=1)
    return at_points(places.astype(np.float32), np.zeros((len(places), 3), np.float32))


def around(gaussians, scene):
    return surround(gaussians, scene, np.full(2, FAR), chosen=[0])


def test_around_a_picture_are_the_colors_of_its_edges():
    scene = views()
    found = around(points(), scene)
    pixels, z = map(np.asarray, project_points(scene.cameras[0], found.means))
    np.testing.assert_allclose(z, FAR, rtol=1e-5)
    outside = ((pixels < 0) | (pixels > np.float32([[32, 16]]))).any(axis=1)
    assert found.active.all() and outside.all() and len(z) == 8 * 4 - 4 * 2  # half of a side more on either side
    np.testing.assert_allclose([pixels.min(axis=0), pixels.max(axis=0)], [[-12, -4], [44, 20]], rtol=1e-5)
    colors = np.asarray(to_rgb(jnp.asarray(found.harmonics), jnp.tile(jnp.array([0.0, 0.0, 1.0]), (len(z), 1))))
    expected = np.where(pixels[:, :1] < 16, np.float32([[0.75, 0, 0]]), np.float32([[0, 0.75, 0]]))
    np.testing.assert_allclose(colors, expected, atol=1e-6)
    np.testing.assert_allclose(found.scales[:, 1], 0.6 * CELL * FAR / 40, rtol=1e-5)


def test_holes_are_filled_unless_another_view_shows_something_there():
    scene = views()
    everywhere, half = around(points(), scene), around(points(left=True), scene)
    pixels = np.asarray(project_points(scene.cameras[0], half.means)[0])
    inside = ((pixels > 0) & (pixels < np.float32([[32, 16]]))).all(axis=1)
    assert half.num_slots == everywhere.num_slots + 4 and sorted(pixels[inside, 0].tolist()) == [20, 20, 28, 28]
    there = np.tile(
        np.float32([(24.5 - 16) / 40 * 2, -0.2, 2]), (4, 1)
    )  # in the last column here, in that before it there
    known = join([points(left=True), at_points(there, np.zeros((4, 3), np.float32))])
    assert around(known, scene).num_slots == half.num_slots - 2


def test_masked_pixels_say_nothing():
    masks = np.ones((2, *SIZE), bool)
    masks[:, :, 24:] = False
    found = around(points(), views(masks=masks))
    assert np.asarray(project_points(views().cameras[0], found.means)[0])[:, 0].max() < 24


@pytest.mark.parametrize("size", [(4, 32), (7, 7)])
def test_pictures_that_are_too_small_have_no_surroundings(size):
    scene = views()
    assert around(points(), replace(scene, images=np.zeros((2, *size, 3), np.float32))).num_slots == 0
