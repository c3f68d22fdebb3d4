"""The alpha renderer against plain loops in numpy float64 (`oracle3d`), its gradients against finite differences."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle3d import render_exact
from scenes3d import FIELDS, SIZE, cast, front_camera, make, parameters, random_set, stack, with_parameters

from airjax.raster import plan
from airjax.raster.tiles import Capacity, Tiling, num_pairs, sorted_lists
from airjax.scene import render as scene_render
from airjax.scene.project import PRESETS, project
from airjax.scene.render import capacity_of, render

pytestmark = pytest.mark.slow

BACKGROUND = (0.1, 0.5, 0.9)


def assert_view(gaussians, camera, *, size=SIZE, preset="gsplat", tolerance=1e-5, **options):
    """`render` equals the oracle; returns the view."""
    view = render(
        gaussians, camera, image_size=size, preset=preset, background=jnp.array(BACKGROUND, jnp.float32), **options
    )
    exact = render_exact(gaussians, camera, image_size=size, preset=PRESETS[preset], background=BACKGROUND, **options)
    for found, expected, unit in zip(view, exact, (1.0, 1.0, 4.0), strict=False):
        np.testing.assert_allclose(found, expected, atol=tolerance * unit)
    return view


# --- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("antialiased", [False, True])
def test_image_alpha_and_depth_equal_the_plain_loops(preset, antialiased):
    view = assert_view(random_set(0, 200, degree=2), front_camera(), preset=preset, antialiased=antialiased)
    assert 0.3 < float(jnp.mean(view.alpha)) < 0.97


@pytest.mark.parametrize("degree", range(5))
def test_every_degree_of_harmonics(degree):
    assert_view(random_set(1, 60, degree=degree), front_camera())


def test_presets_differ_where_they_should():
    """Bright opaque Gaussians: at the clamp of alpha, at the border of three standard deviations, at the near plane."""
    # Standard deviation 4.93 pixels at x = 32.3: three of them end at 47.1, alpha 1/255 is reached at 48.7, and a tile
    # begins at 48. The second is 0.1 before the camera.
    gaussians = make([[0.03, 0, 0], [0.01, 0.02, -2.9]], [[0.49] * 3, [0.01] * 3], [1.0, 0.9])
    camera = front_camera(size=(48, 64), center=(0, 0, -3.0))
    views = {name: assert_view(gaussians, camera, size=(48, 64), preset=name) for name in PRESETS}
    images = {name: np.asarray(view.image) for name, view in views.items()}
    for a, b in (("gsplat", "gsplat-1.4"), ("gsplat", "gsplat-1.6"), ("gsplat-1.4", "inria")):
        assert np.abs(images[a] - images[b]).max() > 1e-3


def test_nothing_is_drawn_once_the_pixel_is_full():
    """Four equal Gaussians of alpha 0.95: after three 1.25e-4 are left, and the fourth would leave 6e-6."""
    gaussians = make([[0, 0, z] for z in range(4)], 5.0, 0.95)
    view = assert_view(gaussians, front_camera(center=(0, 0, -3.0)))
    assert float(view.alpha[13, 19]) == pytest.approx(1 - 0.05**3, abs=1e-5)


def test_ties_in_depth_go_by_index():
    red, blue = np.array([[1, -1, -1]]), np.array([[-1, -1, 1]])
    camera = front_camera(center=(0, 0, -3.0))
    one = make([[0, 0, 0]] * 2, 0.3, 0.8, harmonics=[red, blue])
    other = make([[0, 0, 0]] * 2, 0.3, 0.8, harmonics=[blue, red])
    assert_view(one, camera), assert_view(other, camera)
    first, second = (np.asarray(render(g, camera, image_size=SIZE).image) for g in (one, other))
    assert first[13, 19, 0] > 2 * first[13, 19, 2] > 0
    np.testing.assert_array_equal(second, first[..., ::-1])


def test_near_plane_and_behind_the_camera():
    """At, before and behind the near plane; behind the camera; far off the axis, where the projection is clamped."""
    z = np.float32(0.01) - np.float32(3)
    means = [[0, 0, z], [0.01, 0, -2.98], [0, 0, -2.995], [0, 0, -4], [30, 0, 1], [0, -8, -2.9]]
    gaussians = make(means, [[0.002] * 3] * 3 + [[0.5] * 3, [8, 0.5, 0.5], [3, 3, 3]], 0.7)
    view = assert_view(gaussians, front_camera(center=(0, 0, -3.0)))
    assert np.isfinite(view.image).all() and float(view.alpha.max()) > 0.1
    gradient = gradient_of(gaussians, front_camera(center=(0, 0, -3.0)))
    for name in FIELDS:
        assert np.isfinite(gradient[name]).all()
        assert not np.any(gradient[name][2:4])


@pytest.mark.parametrize("antialiased", [False, True])
def test_degenerate_shapes(antialiased):
    """Points, lines and planes: nothing but the dilation is left of them, and their gradients are finite."""
    scales = [[0, 0, 0], [0.5, 0, 0], [0.5, 0.5, 0], [1e-8] * 3, [3, 1e-9, 1e-9]]
    gaussians = make([[x, 0.1, 0] for x in (-1, -0.5, 0, 0.5, 1)], scales, 0.9, quats=[[1, 0.1, 0.2, 0.3]] * 5)
    camera = front_camera()
    assert_view(gaussians, camera, antialiased=antialiased)
    gradient = gradient_of(gaussians, camera, antialiased=antialiased)
    assert all(np.isfinite(gradient[name]).all() for name in FIELDS)


def test_slots_not_in_use_and_broken_ones_add_nothing():
    """Whatever an inactive slot holds; and what is not finite is not drawn, and has no gradient."""
    whole = random_set(2, 30)
    broken = random_set(3, 10)
    fields = {name: np.array(value) for name, value in parameters(broken).items()}
    for i, name in enumerate(FIELDS):
        fields[name][i] = np.nan
        fields[name][i + 5] = np.inf
    active = np.arange(10) < 5
    broken = replace(make(fields["means"], fields["scales"], fields["opacities"], active=active), **fields)
    both = jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a), jnp.asarray(b)]), whole, broken)
    camera = front_camera()
    view = render(both, camera, image_size=SIZE)
    np.testing.assert_array_equal(view.image, render(whole, camera, image_size=SIZE).image)
    gradient = gradient_of(both, camera, capacity=Capacity(2048, 1024))
    for name in FIELDS:
        assert np.isfinite(gradient[name]).all() and not np.any(gradient[name][30:])


def test_an_empty_view_is_background():
    gaussians = make([[0, 0, -9]], 0.1, 0.5)
    view = render(gaussians, front_camera(), image_size=SIZE, background=jnp.array(BACKGROUND, jnp.float32))
    np.testing.assert_allclose(view.image, np.broadcast_to(np.float32(BACKGROUND), view.image.shape))
    assert not np.any(view.alpha) and not np.any(view.expected_depth)


def test_expected_depth_is_that_of_a_wall():
    gaussians = make(
        [[x, y, 1] for x in np.arange(-3, 3, 0.2) for y in np.arange(-3, 3, 0.2)], [0.15, 0.15, 0.001], 0.9
    )
    view = render(gaussians, front_camera(center=(0, 0, -3.0)), image_size=SIZE)
    np.testing.assert_allclose(view.expected_depth, 4.0, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 5), (40, 100)])
def test_any_image_size(size):
    assert_view(random_set(4, 50), front_camera(size=size), size=size)


# --- under transformations ---------------------------------------------------------------------------------


def loss_of(gaussians, camera, *, capacity=None, size=SIZE, **options):
    """Fields -> a scalar in which every pixel of image, alpha and depth counts differently."""
    dtype = np.asarray(gaussians.means).dtype
    weights = np.random.default_rng(5).normal(size=(*size, 5)).astype(dtype)
    if capacity is None:
        capacity = capacity_of(cast(gaussians, np.float32), stack(cast(camera, np.float32)), image_size=size)

    def loss(fields):
        view = render(with_parameters(gaussians, fields), camera, image_size=size, capacity=capacity, **options)
        image, alpha, depth = (
            jnp.sum(w * v)
            for w, v in zip(
                np.split(weights, [3, 4], -1), (view.image, view.alpha[..., None], view.depth[..., None]), strict=True
            )
        )
        return image + alpha + depth

    return loss


def gradient_of(gaussians, camera, **options):
    """Of `loss_of`, at the set itself."""
    return jax.jit(jax.grad(loss_of(gaussians, camera, **options)))(parameters(gaussians))


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_against_finite_differences(antialiased):
    """Central differences in float64, each field in a random direction, both gradients of the renderer.

    The step of 1e-6 leaves an error of about 1e-9; no threshold of this scene lies in its way.
    """
    with jax.enable_x64(True):
        gaussians, camera = cast(random_set(6, 40, degree=2), np.float64), cast(front_camera(), np.float64)
        fields = parameters(gaussians)
        rng = np.random.default_rng(7)
        losses = [
            jax.jit(jax.value_and_grad(loss_of(gaussians, camera, antialiased=antialiased, any_order=any_order)))
            for any_order in (False, True)
        ]
        gradients = [loss(fields)[1] for loss in losses]
        for name in FIELDS:
            direction = rng.normal(size=fields[name].shape)
            ends = [losses[0](fields | {name: fields[name] + sign * 1e-6 * direction})[0] for sign in (1, -1)]
            numeric = (ends[0] - ends[1]) / 2e-6
            for gradient in gradients:
                np.testing.assert_allclose(np.sum(gradient[name] * direction), numeric, rtol=1e-6)


@pytest.mark.parametrize("preset", ["gsplat", "inria"])
def test_both_gradients_agree(preset):
    """Own backward pass and autodiff of the sums, float32, on a scene where clamps, skips and stops are reached."""
    gaussians = random_set(8, 300, opacities=(0.5, 1.0))
    options = {"preset": preset, "capacity": Capacity(8192, 2048)}
    first, second = (
        gradient_of(gaussians, front_camera(), any_order=any_order, **options) for any_order in (False, True)
    )
    for name in FIELDS:
        scale = np.abs(second[name]).max()
        np.testing.assert_allclose(first[name], second[name], atol=1e-4 * scale)


def test_second_derivatives_and_forward_mode():
    """jvp of the gradient equals the difference of gradients (float64)."""
    with jax.enable_x64(True):
        gaussians, camera = cast(random_set(9, 12), np.float64), cast(front_camera(), np.float64)
        fields = parameters(gaussians)
        gradient = jax.grad(loss_of(gaussians, camera, any_order=True))
        both = jax.jit(lambda fields, direction: jax.jvp(gradient, (fields,), (direction,)))
        direction = {name: np.random.default_rng(10).normal(size=fields[name].shape) for name in FIELDS}
        _, product = both(fields, direction)
        moved = ({name: fields[name] + s * 1e-6 * direction[name] for name in FIELDS} for s in (1, -1))
        ends = [both(end, direction)[0] for end in moved]
        for name in FIELDS:
            numeric = (ends[0][name] - ends[1][name]) / 2e-6
            np.testing.assert_allclose(product[name], numeric, atol=1e-5 * np.abs(numeric).max())


def test_vmap_over_views_and_overflow():
    gaussians = random_set(11, 60)
    cameras = stack(front_camera(), front_camera(center=(1, 0, -3.0)), front_camera(center=(-2, 1, 2.5)))
    capacity = capacity_of(gaussians, cameras, image_size=SIZE)

    @partial(jax.jit, static_argnums=1)
    def draw(cameras, capacity):
        return jax.vmap(lambda camera: render(gaussians, camera, image_size=SIZE, capacity=capacity))(cameras)

    views = draw(cameras, capacity)
    assert not np.any(views.overflow)
    for i in range(3):
        np.testing.assert_allclose(views.image[i], render(gaussians, cameras[i], image_size=SIZE).image, atol=1e-6)
    small = draw(cameras, Capacity(capacity.pairs, 4))
    assert np.all(small.overflow) and np.all(np.isnan(small.image)) and np.all(np.isnan(small.depth))


def test_what_is_refused():
    gaussians, camera = random_set(12, 3), front_camera()
    with pytest.raises(ValueError, match="preset: expected one of gsplat"):
        render(gaussians, camera, image_size=SIZE, preset="nerf")
    with pytest.raises(ValueError, match="image_size"):
        render(gaussians, camera, image_size=(0, 4))
    with pytest.raises(ValueError, match="capacity: expected a number of pairs inside a JAX transformation, got None"):
        jax.jit(lambda g: render(g, camera, image_size=SIZE).image)(gaussians)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale: expected a finite number > 0, got 0.0"),
        ({"tile_size": 0}, "tile_size: expected at least 1, got 0"),
        ({"tile_size": 5}, "tile_size: expected a divisor of 16, got 5"),
        ({"capacity": 0}, "capacity: expected at least 1 pair, got 0"),
    ],
)
def test_impossible_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        render(random_set(12, 3), front_camera(), image_size=SIZE, **options)


# --- sizes and capacities ----------------------------------------------------------------------------------


def test_scale_draws_a_larger_image():
    """Oracle: the plain loops with a camera whose intrinsics are larger, written out."""
    gaussians, camera = random_set(13, 60), front_camera()
    view = render(gaussians, camera, image_size=SIZE, scale=1.5)
    larger = replace(camera, intrinsics=camera.intrinsics * np.array([[1.5], [1.5], [1]], np.float32))
    exact = render_exact(gaussians, larger, image_size=(39, 57), preset=PRESETS["gsplat"])
    np.testing.assert_allclose(view.image, exact[0], atol=1e-5)


@pytest.mark.parametrize("preset", ["gsplat", "inria"])
def test_the_tile_size_changes_nothing(preset):
    gaussians, camera = random_set(13, 60), front_camera()
    views = [render(gaussians, camera, image_size=SIZE, preset=preset, tile_size=size) for size in (8, 16)]
    np.testing.assert_allclose(views[0].image, views[1].image, atol=1e-6)


@jax.jit
def needs_of(gaussians, camera):
    """Pairs and chunks of one view, counted in lists that are longer than needed."""
    tiling = Tiling(SIZE, 8)
    footprints = project(gaussians, camera, image_size=SIZE).footprints
    lists = sorted_lists(footprints, tiling, capacity=8192)
    return num_pairs(footprints, tiling), jnp.sum(lists.tiles < tiling.num_tiles)


def test_capacity_of_is_what_the_hungriest_camera_needs(monkeypatch):
    gaussians = random_set(14, 60)
    cameras = [front_camera(), front_camera(center=(0.1, 0, -1.2)), front_camera(center=(-2, 1, 5.0))]
    pairs, chunks = (int(max(column)) for column in zip(*(needs_of(gaussians, c) for c in cameras), strict=True))
    for module in (scene_render, plan):  # off the ladder
        monkeypatch.setattr(module, "ladder", lambda count: count)
    assert capacity_of(gaussians, stack(*cameras), image_size=SIZE) == Capacity(pairs, chunks)


def test_a_capacity_that_is_too_small_raises():
    gaussians, camera = random_set(15, 60), front_camera()
    pairs, chunks = map(int, needs_of(gaussians, camera))
    with pytest.raises(ValueError, match=f"capacity: expected at least {pairs} pairs for this set, got {pairs - 1}"):
        render(gaussians, camera, image_size=SIZE, capacity=pairs - 1)
    with pytest.raises(ValueError, match=f"capacity: expected at least {chunks} chunks for this set, got {chunks - 1}"):
        render(gaussians, camera, image_size=SIZE, capacity=Capacity(pairs, chunks - 1))


def test_concrete_arrays_are_drawn_by_few_programs(monkeypatch):
    """Counted where a trace must pass; sets of about the same size share it, with a capacity or without."""
    traces = []

    def counting(*args, **options):
        traces.append(1)
        return project(*args, **options)

    monkeypatch.setattr(scene_render, "project", counting)
    size = (9, 37)  # the image size of no other test
    for n in (20, 21):
        planned = render(random_set(n, n), front_camera(size=size), image_size=size)
    assert len(traces) == 1
    for n in (20, 21):
        given = render(random_set(n, n), front_camera(size=size), image_size=size, capacity=512)
    assert len(traces) == 2 and not given.overflow
    for a, b in zip(given, planned, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_set_without_slots():
    gaussians = make(np.zeros((0, 3)), 1, 1)
    camera = front_camera()
    view = render(gaussians, camera, image_size=SIZE, background=BACKGROUND)
    np.testing.assert_allclose(view.image, np.broadcast_to(np.float32(BACKGROUND), view.image.shape))
    inside = jax.jit(lambda g: render(g, camera, image_size=SIZE, capacity=4).alpha)(gaussians)
    np.testing.assert_array_equal(inside, np.zeros(SIZE))


def test_splats_come_front_to_back_with_the_invisible_last():
    gaussians = make([[0, 0, 1], [0, 0, -5], [0, 0, 0]], 0.1, [0.1, 0.2, 0.3])
    splats = jax.jit(partial(project, image_size=SIZE))(gaussians, front_camera(center=(0, 0, -3.0)))
    np.testing.assert_allclose(splats.opacities, [0.3, 0.1, 0.0])
    assert splats.active.tolist() == [True, True, False]
