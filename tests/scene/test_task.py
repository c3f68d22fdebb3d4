"""The refinement of a scene as a task: coordinates and back, losses whatever the unit of the world, views of a step."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes3d import FIELDS, SIZE, front_camera, random_set, stack

from airjax.inner.task import State
from airjax.metrics import l1, psnr
from airjax.raster.tiles import Capacity
from airjax.scene.cameras import Camera
from airjax.scene.floating import lookouts
from airjax.scene.render import capacity_of, render
from airjax.scene.task import (
    COARSE_SHARE,
    COARSE_STEPS,
    RATES,
    RELOCATION,
    Coordinates,
    SceneTask,
    view_loss,
)

pytestmark = pytest.mark.slow

CAMERAS = stack(front_camera(), front_camera(center=(1.0, 0.2, -3.2)))


def test_coordinates_and_back():
    gaussians = random_set(0, 10, degree=2, opacities=(0.1, 0.9))
    found = Coordinates.of(gaussians, unit=3.0).gaussians(gaussians.active, unit=3.0)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(found, name), getattr(gaussians, name), rtol=1e-5)


def test_ends_of_the_ranges_stay_finite():
    gaussians = random_set(1, 3)
    edge = replace(gaussians, opacities=jnp.array([0.0, 1.0, 0.5]), scales=jnp.zeros((3, 3)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(Coordinates.of(edge, unit=1.0)))


@pytest.fixture(scope="module")
def refined():
    """Losses of 15 steps from a disturbed set towards its views, in a world of size 1 and one of 100."""
    target = random_set(2, 60, opacities=(0.3, 0.9))
    capacity = capacity_of(target, CAMERAS, image_size=SIZE, headroom=2.0)
    images = jnp.stack([render(target, CAMERAS[i], image_size=SIZE).image for i in range(2)])

    @jax.jit
    def run(unit):
        cameras = Camera(CAMERAS.intrinsics, CAMERAS.rotation, CAMERAS.translation * unit)
        start = replace(target, means=(target.means + 0.02) * unit, scales=target.scales * 1.2 * unit)
        task = SceneTask(images, cameras, unit)
        problem = task.problem(target.active, capacity=capacity)
        return problem.refine(task.coordinates(start), RATES, num_steps=15).losses

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
        task = SceneTask(images, wide, 1.0, loss_fn=l1)
        problem = task.problem(gaussians.active, capacity=capacity)
        return jax.jit(jax.grad(problem.loss_fn))(task.coordinates(gaussians))

    small, large = grads(0), grads(16)
    np.testing.assert_allclose(large.base, small.base, rtol=1e-4, atol=1e-5)


def test_the_losses_are_those_of_the_renderer():
    """One view, the other one and both; judged by target views, or by the views themselves."""
    gaussians = random_set(4, 20, opacities=(0.3, 0.9))
    capacity = capacity_of(gaussians, CAMERAS, image_size=SIZE)
    views = jnp.stack([render(gaussians, CAMERAS[i], image_size=SIZE).image for i in range(2)])
    images = views.at[0].add(0.1).at[1].add(-0.2)
    task = SceneTask(images, CAMERAS, 2.0)
    coordinates, options = task.coordinates(gaussians), {"capacity": capacity}
    by_view = SIZE[0] * SIZE[1] * jax.jit(jax.vmap(view_loss))(images, views)
    for batch, expected in ((jnp.array([0]), by_view[0]), (jnp.array([1]), by_view[1]), (None, sum(by_view) / 2)):
        loss = jax.jit(partial(task.loss, **options))(coordinates, gaussians.active, batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
    decibels = [psnr(images[i], views[i]) for i in range(2)]
    judged = replace(task, target_images=images[1:], target_cameras=CAMERAS[1:])
    for judge, expected in ((task, -sum(decibels) / 2), (judged, -decibels[1])):
        loss = jax.jit(partial(judge.outer_loss, **options))(coordinates, gaussians.active)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_a_masked_pixel_does_not_pull():
    """Oracle: the mean difference over the other pixels, and its gradient; what stands behind the mask is not used."""
    gaussians = random_set(4, 20, opacities=(0.3, 0.9))
    capacity = capacity_of(gaussians, CAMERAS, image_size=SIZE)
    rng = np.random.default_rng(0)
    images, masks = rng.random((2, *SIZE, 3), np.float32), rng.random((2, *SIZE)) < 0.6
    task = SceneTask(images, CAMERAS, 2.0, loss_fn=l1, masks=jnp.asarray(masks))
    coordinates = task.coordinates(gaussians)

    @jax.jit
    def by_hand(coordinates):
        drawn = [
            task._render(task.gaussians(coordinates, gaussians.active), CAMERAS[i], capacity, False) for i in (0, 1)
        ]
        return jnp.sum(jnp.where(masks[..., None], jnp.abs(jnp.stack(drawn) - images), 0.0)) / 6

    def masked(images, coordinates):
        return replace(task, images=images).loss(coordinates, gaussians.active, jnp.array([1, 0]), capacity=capacity)

    expected = jax.value_and_grad(by_hand)(coordinates)
    found = jax.jit(jax.value_and_grad(masked, argnums=1))
    for behind in (0.0, 5.0):
        result = found(jnp.where(masks[..., None], images, np.float32(behind)), coordinates)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), result, expected)


def test_the_plan_looks_at_the_target_views_too():
    gaussians = random_set(5, 40)
    far, blank = stack(front_camera(center=(0.3, -0.5, -14.0))), jnp.zeros((1, *SIZE, 3))
    task = SceneTask(blank, far, 1.0, None, blank, CAMERAS[:1])
    sample, thorough = (task.plan(gaussians, headroom=100.0, thorough=flag) for flag in (False, True))
    assert sample == capacity_of(gaussians, far, image_size=SIZE, headroom=100.0)
    assert thorough.pairs > sample.pairs


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_pass_sees_every_view(count):
    """However the steps are divided among calls."""
    views = SceneTask(np.zeros((count, 2, 2, 3)), CAMERAS, 1.0).batches
    whole = views(0, 15)
    assert whole.shape == (15, min(2, count))
    np.testing.assert_array_equal(np.concatenate([views(0, 4), views(4, 11)]), whole)
    passes = whole.ravel()[: 15 * min(2, count) // count * count].reshape(-1, count)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(count), (len(passes), 1)))


# --- on the way ----------------------------------------------------------------------------------------------


def scheduled(**options):
    views = np.zeros((2, 4, 6, 3), np.float32)
    coarse = SceneTask(views[:, ::2, ::2], CAMERAS, 1.0, pixels=24)
    return SceneTask(views, CAMERAS, 1.0, coarse=coarse, pixels=24, **options)


def test_small_views_come_first_and_small_rates_last():
    task = scheduled()
    assert task.at(0, 0.0).images.shape == (2, 2, 3, 3) and task.at(0, 0.0).pixels == 24
    assert task.at(COARSE_STEPS, 0.1).images.shape == task.at(10, COARSE_SHARE).images.shape == (2, 4, 6, 3)
    assert replace(task, coarse=None).at(0, 0.0).images.shape == (2, 4, 6, 3)
    shares = [float(task.at(100, share).rates.means) / RATES.means for share in (0.0, 0.6, 0.8, 0.9, 1.0)]
    assert shares == pytest.approx([1.0, 1.0, 0.55, 0.1 + 0.45 * (1 - np.sqrt(0.5)), 0.1], abs=1e-6)


def test_views_of_three_sizes():
    """The smallest for some steps, the middle ones until six tenths, then all of the pixels; or by time alone."""
    smallest = SceneTask(np.zeros((2, 1, 2, 3), np.float32), CAMERAS, 1.0)
    task = scheduled()
    task = replace(task, coarse=replace(task.coarse, coarse=smallest))
    places = (0, 0.0), (10, 0.29), (10, 0.3), (COARSE_STEPS, 0.1), (100, 0.59), (100, 0.6), (10, 0.99)
    heights = [task.at(*place).images.shape[1] for place in places]
    assert heights == [1, 1, 2, 2, 2, 4, 4]
    assert all(task.at(*place).coarse is None for place in places)


def test_small_views_count_like_large_ones():
    """Flat pictures: the loss is the same at either size."""
    gaussians, task = random_set(5, 40), scheduled()
    blank = replace(gaussians, opacities=gaussians.opacities * 0)
    white = replace(task, images=np.ones((2, 4, 6, 3), np.float32), loss_fn=l1)
    small = replace(white, images=np.ones((2, 2, 3, 3), np.float32))
    for part in (white, small):
        loss = jax.jit(partial(part.loss, capacity=Capacity(2048)))
        assert float(loss(part.coordinates(blank), blank.active)) == pytest.approx(24, rel=1e-3)


def test_relocation_moves_what_floats_before_a_camera():
    gaussians = random_set(5, 40, opacities=(0.3, 0.9))
    means = gaussians.means.at[3].set(jnp.asarray(CAMERAS.center[0]) + 0.1 * CAMERAS.forward[0])
    task = scheduled(lookouts=lookouts(CAMERAS, np.ones(2), image_size=SIZE))
    coordinates = task.coordinates(replace(gaussians, means=means))
    state = State(RELOCATION, coordinates, gaussians.active, task.make_tx(task.rates).init(coordinates))
    found = task.rearrange(state, 0.2, most=40)
    gone = np.linalg.norm(np.asarray(found.coordinates.means[3]) - np.asarray(CAMERAS.center[0]))
    assert gone > 0.3 and found.active.all()
    others = np.arange(40) != 3
    np.testing.assert_array_equal(found.coordinates.means[others], coordinates.means[others])
    for untouched in (state._replace(step=RELOCATION + 10), state):
        share = 0.2 if untouched is not state else 0.9
        assert task.rearrange(untouched, share, most=40) is untouched
    assert replace(task, lookouts=None).rearrange(state, 0.2, most=40) is state
    ended = task.rearrange(state, 1.0, most=40)
    assert not ended.active[3] and ended.active[others].all() and ended.coordinates is state.coordinates
