"""Refinement of a scene: coordinates and back, a loss that falls whatever the unit of the world, and the loop."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes3d import FIELDS, SIZE, front_camera, random_set, scale_world, stack

from airjax.errors import AirjaxError
from airjax.inner.refine import refine
from airjax.raster.tiles import Capacity
from airjax.scene.render import capacity_of, render
from airjax.scene.task import RATES, _order, advance, coordinates_of, refinement_adam, start_state, views_loss
from airjax.scene.task import refine_gaussians as refined_set

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


def test_the_gradient_does_not_depend_on_the_size_of_the_image():
    """A wide image shows the same set in its middle, far from the border, and differs from its target there only."""
    gaussians, camera = random_set(3, 5, opacities=(0.3, 0.9)), front_camera()
    gaussians = replace(gaussians, means=0.2 * gaussians.means)
    height, width = SIZE

    def grads(margin):
        shift = jnp.zeros((3, 3)).at[:2, 2].set(float(margin))
        wide = stack(replace(camera, intrinsics=camera.intrinsics + shift))
        size = (height + 2 * margin, width + 2 * margin)
        drawn = render(gaussians, wide[0], image_size=size).image
        inside = (slice(margin, margin + height), slice(margin, margin + width))
        images = drawn.at[inside].add(0.1)[None]
        capacity = capacity_of(gaussians, wide, image_size=size)
        loss_fn = views_loss(images, wide, gaussians.active, unit=1.0, capacity=capacity, l1=1.0, ssim=0.0)
        return jax.jit(jax.grad(loss_fn))(coordinates_of(gaussians, unit=1.0))

    small, large = grads(0), grads(16)
    np.testing.assert_allclose(large.base, small.base, rtol=1e-4, atol=1e-5)


# --- the loop --------------------------------------------------------------------------------------------------------

BACKGROUND = jnp.array([0.2, 0.4, 0.6])


@pytest.fixture(scope="module")
def task():
    """(disturbed set, images of the true one, cameras)."""
    target = random_set(2, 60, opacities=(0.3, 0.9))
    draw = [render(target, CAMERAS[i], image_size=SIZE, background=BACKGROUND).image for i in range(2)]
    return replace(target, harmonics=target.harmonics + 0.3), jnp.stack(draw), CAMERAS


def test_refining_in_one_go_or_in_parts(task):
    gaussians, images, cameras = task
    told = []
    options = {"unit": 1.0, "background": BACKGROUND}
    whole = refined_set(gaussians, images, cameras, num_steps=15, progress=told.append, **options)
    assert told == [10, 15]
    state = start_state(gaussians, unit=1.0)
    for _ in range(3):
        state = advance(state, images, cameras, num_steps=5, background=BACKGROUND)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), state.gaussians, whole)

    def error(gaussians):
        drawn = [render(gaussians, cameras[i], image_size=SIZE, background=BACKGROUND).image for i in range(2)]
        return float(jnp.mean(jnp.abs(jnp.stack(drawn) - images)))

    assert error(whole) < 0.9 * error(gaussians)


def test_a_set_that_outgrows_its_lists_is_planned_again(task):
    gaussians, images, cameras = task
    start = start_state(gaussians, unit=1.0)
    small = start._replace(capacity=Capacity(pairs=16, chunks=2))
    options = {"num_steps": 5, "background": BACKGROUND}
    found, expected = (advance(state, images, cameras, **options) for state in (small, start))
    assert found.capacity == expected.capacity != small.capacity
    jax.tree.map(np.testing.assert_array_equal, found.coordinates, expected.coordinates)


def test_what_does_not_stay_finite_is_said(task):
    gaussians, images, cameras = task
    wild = RATES._replace(means=float("nan"))
    with pytest.raises(AirjaxError, match="expected finite Gaussians"):
        options = {"num_steps": 5, "background": BACKGROUND, "rates": wild}
        advance(start_state(gaussians, unit=1.0), images, cameras, **options)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_pass_sees_every_view(count):
    """However the steps are divided among calls."""
    whole = _order(0, 15, count)
    assert whole.shape == (15, min(2, count))
    np.testing.assert_array_equal(np.concatenate([_order(0, 4, count), _order(4, 11, count)]), whole)
    passes = whole.ravel()[: 15 * min(2, count) // count * count].reshape(-1, count)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(count), (len(passes), 1)))
