"""Refinement of a scene: coordinates and back, and a loss that falls whatever the unit of the world."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes3d import FIELDS, SIZE, front_camera, random_set, stack

from airjax.refine import refine
from airjax.scene.cameras import scale_world
from airjax.scene.refinement import coordinates_of, refinement_adam, views_loss
from airjax.scene.render import capacity_of, render

CAMERAS = stack(front_camera(), front_camera(center=(1.0, 0.2, -3.2)))


def test_coordinates_and_back():
    gaussians = random_set(0, 10, degree=2, opacities=(0.1, 0.9))
    found = coordinates_of(gaussians, unit=3.0).gaussians(gaussians.active, 3.0)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(found, name), getattr(gaussians, name), rtol=1e-5)


def test_ends_of_the_ranges_stay_finite():
    gaussians = random_set(1, 3)
    edge = replace(gaussians, opacities=jnp.array([0.0, 1.0, 0.5]), scales=jnp.zeros((3, 3)))
    assert all(np.isfinite(leaf).all() for leaf in coordinates_of(edge, unit=1.0))


@pytest.fixture(scope="module")
def refined():
    """Losses of 15 steps from a disturbed set towards its views, in a world of size 1 and one of 100."""
    target = random_set(2, 60, opacities=(0.3, 0.9))
    capacity = capacity_of(target, CAMERAS, image_size=SIZE, headroom=2.0)
    images = jnp.stack([render(target, CAMERAS[i], image_size=SIZE).image for i in range(2)])

    @jax.jit
    def run(unit):
        cameras = jax.vmap(lambda camera: scale_world(camera, unit))(CAMERAS)
        start = replace(target, means=(target.means + 0.02) * unit, scales=target.scales * 1.2 * unit)
        loss_fn = views_loss(images, cameras, target.active, unit=unit, capacity=capacity)
        return refine(loss_fn, coordinates_of(start, unit=unit), refinement_adam(), num_steps=15).losses

    with jax.numpy_dtype_promotion("standard"):
        return {unit: np.asarray(run(jnp.float32(unit))) for unit in (1.0, 100.0)}


def test_the_loss_falls(refined):
    assert np.isfinite(refined[1.0]).all() and refined[1.0][-1] < 0.8 * refined[1.0][0]


def test_the_unit_of_the_world_does_not_matter(refined):
    np.testing.assert_allclose(refined[100.0], refined[1.0], rtol=2e-3)
