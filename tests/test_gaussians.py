"""The container and its maps, against the formulas of the AIR release written in numpy and against brute force."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes3d
from dense import conics
from scenes2d import empty, make, parameters, random_set, to_raw

from airjax.gaussians import CUTOFF, CUTOFF_RADIUS, extents, factors, join, on_ladder, only_active, pad, take
from airjax.image.patches import PatchMap, to_physical
from airjax.raster.tiles import patch_centers, patch_grid

SIZE = (20, 30)


def covariances(gaussians):
    """R diag(scales^2) R^T in float64."""
    scales, angles = np.asarray(gaussians.scales, np.float64), np.asarray(gaussians.angles, np.float64)
    cos, sin = np.cos(angles), np.sin(angles)
    rotations = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    return rotations @ (scales[:, :, None] ** 2 * np.swapaxes(rotations, -1, -2))


def test_cutoff_radius_is_where_the_weight_reaches_the_cutoff():
    assert np.exp(-0.5 * CUTOFF_RADIUS**2) == pytest.approx(CUTOFF, rel=1e-12)


def test_conics_invert_the_covariances():
    scene = random_set(0, 50, SIZE, scales=(0.5, 8))
    inverse = np.linalg.inv(covariances(scene))
    expected = np.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], -1)
    # float32 rounding relative to the larger of the two terms that may cancel.
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert np.max(np.abs(conics(scene) - expected) / scale) < 5e-7


def test_factors_are_the_upper_triangular_roots_of_the_conics():
    """U^T U, by numpy in float64, is the conic of the same set; its diagonal is positive."""
    scene = random_set(0, 50, SIZE, scales=(0.5, 8))
    p, r, s = np.asarray(factors(scene), np.float64).T
    assert min(p.min(), s.min()) > 0
    conic = np.asarray(conics(scene), np.float64)
    np.testing.assert_allclose(np.stack([p * p, p * r, r * r + s * s], axis=1), conic, rtol=2e-5, atol=1e-6)


def test_conics_repeat_every_pi():
    scene = random_set(1, 20, SIZE)
    turned = make(scene.means, scene.scales, np.asarray(scene.angles) + np.pi, scene.colors)
    # Angles of about 10 are rounded by 5e-7.
    np.testing.assert_allclose(conics(turned), conics(scene), atol=1e-5)


def test_extents_bound_the_ellipse_tightly():
    """Oracle: the cut-off ellipse walked around in 10,000 steps."""
    scene = random_set(2, 20, SIZE, scales=(0.5, 8))
    turn = np.linspace(0, 2 * np.pi, 10_001)
    points = CUTOFF_RADIUS * np.linalg.cholesky(covariances(scene)) @ np.stack([np.cos(turn), np.sin(turn)])
    np.testing.assert_allclose(extents(scene), np.abs(points).max(axis=-1), rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_inactive_slots_have_no_shape_and_no_gradient(value):
    scene = make([[value] * 2] * 2, value, value, np.full((2, 3), value), active=[False, False])
    np.testing.assert_array_equal(conics(scene), [[1, 0, 1]] * 2)
    np.testing.assert_array_equal(extents(scene), np.zeros((2, 2)))
    grad = jax.jit(jax.grad(lambda f: jnp.sum(conics(type(scene)(**f, active=scene.active)))))(parameters(scene))
    for leaf in grad.values():
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_the_union_keeps_order_and_slots():
    scene = random_set(3, 4, SIZE, channels=2)
    union = join([empty(3, 2), scene])
    assert union.num_slots == 7
    np.testing.assert_array_equal(union.means[3:], scene.means)
    np.testing.assert_array_equal(union.active, [False] * 3 + [True] * 4)
    assert np.all(np.asarray(union.scales[:3]) > 0)


def test_with_colors_keeps_the_geometry():
    scene = random_set(4, 4, SIZE)
    other = scene.with_colors(jnp.zeros((4, 1)))
    assert other.colors.shape == (4, 1) and other.means is scene.means and other.active is scene.active


def test_the_container_is_a_pytree():
    scene = random_set(5, 4, SIZE)
    leaves, structure = jax.tree.flatten(scene)
    assert len(leaves) == 5
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(scene)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), leaves, strict=True))


# --- the algebra of both kinds ---------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("kind", ["2D", "3D"])


def some_set(kind, n=5):
    """Slots 1 and 3 are not in use."""
    scene = random_set(6, n, SIZE) if kind == "2D" else scenes3d.random_set(6, n)
    return replace(scene, active=jnp.asarray(~np.isin(np.arange(n), (1, 3))))


def assert_same(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@BOTH
def test_take_join_and_only_active(kind):
    scene = some_set(kind)
    assert_same(join([take(scene, slice(0, 2)), take(scene, np.array([2, 3, 4]))]), scene)
    used = only_active(scene)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(used))
    assert_same(used, take(scene, np.array([0, 2, 4])))
    assert isinstance(join([used, used]).means, np.ndarray)


@BOTH
def test_pad_adds_slots_that_are_not_in_use(kind):
    scene = some_set(kind)
    padded = pad(scene, 8)
    assert isinstance(padded.means, np.ndarray)  # JAX would compile for every n
    assert_same(take(padded, slice(0, 5)), scene)
    assert not padded.active[5:].any() and (padded.scales[5:] > 0).all()
    assert_same(jax.jit(lambda g: pad(g, 8))(scene), padded)
    assert pad(scene, 5) is scene
    with pytest.raises(ValueError, match="num_slots: expected at least 5, got 4"):
        pad(scene, 4)


@BOTH
def test_on_ladder_moves_nothing_that_is_there(kind):
    scene = on_ladder(some_set(kind))
    assert scene.num_slots == 1024 and isinstance(scene.means, jax.Array)
    assert on_ladder(scene).means is scene.means


@BOTH
def test_a_set_is_shown_in_one_line(kind):
    """Whatever its leaves are: JAX puts placeholders into trees."""
    scene = some_set(kind, 2000)
    assert repr(scene) == f"Gaussians{kind}(1,998 of 2,000 slots)"
    lines = []
    jax.jit(jax.vmap(lambda g: lines.append(repr(g))))(jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), scene))
    jax.eval_shape(lambda g: lines.append(repr(g)), scene)
    lines += [repr(jax.tree.map(lambda leaf: None, scene)), repr(jax.eval_shape(lambda g: g, scene))]
    name = f"Gaussians{kind}"
    assert lines == [f"{name}(2,000 slots)"] * 2 + [f"{name}(NoneType)", f"{name}(2,000 slots)"]


@BOTH
def test_sets_are_compared_by_identity(kind):
    """Arrays have no single truth value."""
    scene = some_set(kind)
    assert scene == scene and scene != take(scene, slice(None))


# --- the patch grid --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "patch_size", "grid"), [((1, 1), 7, (1, 1)), ((14, 15), 7, (2, 3)), ((16, 8), 8, (2, 1))]
)
def test_patch_grid_covers_the_image(size, patch_size, grid):
    assert patch_grid(size, patch_size) == grid


def test_patch_centers_go_row_by_row():
    np.testing.assert_array_equal(patch_centers((2, 3), 5), [[x, y] for y in (2.5, 7.5) for x in (2.5, 7.5, 12.5)])


# --- raw and physical ------------------------------------------------------------------------------------


def raw_rows(n, spread=2.0, channels=3):
    return np.random.default_rng(0).normal(0, spread, (n, 5 + channels)).astype(np.float32)


def test_physical_is_the_map_of_air():
    """Oracle: the formulas of the release (facts: means, scales, rotation, colour), patch size 7, in numpy."""
    raw, grid = raw_rows(6), (2, 3)
    u = raw.astype(np.float64)
    centers = np.array([[x, y] for y in (3.5, 10.5) for x in (3.5, 10.5, 17.5)])
    active = np.arange(6) % 2 == 0
    out = to_physical(jnp.asarray(raw), patch_centers(grid, 7), jnp.asarray(active), PatchMap.air(7))
    np.testing.assert_allclose(out.means, centers + 7 * np.tanh(u[:, 0:2]), rtol=1e-6)
    np.testing.assert_allclose(out.scales, 7 / (1 + np.exp(-u[:, 2:4])) + 0.5, rtol=1e-6)
    np.testing.assert_allclose(out.angles, 2 * np.pi / (1 + np.exp(-u[:, 4])), rtol=1e-6)
    np.testing.assert_allclose(out.colors, np.tanh(u[:, 5:8]), rtol=1e-6)
    np.testing.assert_array_equal(out.active, active)


@pytest.mark.parametrize("patch_map", [PatchMap.air(7), PatchMap(8, 0.75, 0.5, 4.2), PatchMap(1, 2.5, 0.1, 0.2)])
def test_round_trip(patch_map):
    raw, grid = jnp.asarray(raw_rows(6, channels=2)), (2, 3)
    centers = patch_centers(grid, patch_map.patch_size)
    gaussians = to_physical(raw, centers, jnp.ones(6, bool), patch_map)
    # The slope of the inverse is 1 / (1 - x^2), up to 1e4 at raw = 5, against rounding of 1e-7 to 1e-6 in x.
    np.testing.assert_allclose(to_raw(gaussians, centers, patch_map), raw, atol=2e-2)
    again = to_physical(to_raw(gaussians, centers, patch_map), centers, gaussians.active, patch_map)
    for name, value in parameters(again).items():
        np.testing.assert_allclose(value, getattr(gaussians, name), rtol=1e-5, atol=1e-5)


def test_to_raw_of_values_outside_the_map_is_finite_and_at_the_bound():
    patch_map, centers = PatchMap(8, 0.75, 0.5, 4.2), patch_centers((1, 2), 8)
    outside = make([[100, -100], [4, 4]], [[9, 0.01], [1, 1]], [-1.0, 20.0], [[2, -2, 0], [1, -1, 0]])
    raw = to_raw(outside, centers, patch_map)
    assert np.isfinite(raw).all()
    inside = to_physical(raw, centers, outside.active, patch_map)
    np.testing.assert_allclose(inside.means[0], [4 + 6, 4 - 6], atol=1e-4)
    np.testing.assert_allclose(inside.scales[0], [4.2, 0.5], atol=1e-4)
    np.testing.assert_allclose(inside.angles, [2 * np.pi - 1, 20 - 6 * np.pi], atol=1e-5)
    np.testing.assert_allclose(inside.colors[0], [1, -1, 0], atol=1e-5)


@pytest.mark.parametrize("extreme", [-1e30, -20.0, 20.0, 1e30])
def test_any_real_row_is_valid(extreme):
    """Values within the bounds of the map, value and gradient finite."""
    patch_map, raw = PatchMap(8, 0.75, 0.5, 4.2), jnp.full((1, 8), extreme, jnp.float32)

    def flat(raw):
        g = to_physical(raw, patch_centers((1, 1), 8), jnp.ones(1, bool), patch_map)
        return sum(jnp.sum(x) for x in parameters(g).values()), g

    grad, g = jax.jit(jax.grad(flat, has_aux=True))(raw)
    assert np.isfinite(grad).all()
    assert np.all(np.abs(g.means - 4) <= 6)
    assert np.all((g.scales >= 0.5) & (g.scales <= np.float32(4.2)))
    assert np.all(np.abs(g.colors) <= 1)


def test_rings_reach_as_far_as_a_gaussian_is_drawn():
    """Oracle: the pixel centres of every patch of a row against the farthest mean and the largest scale."""
    rng = np.random.default_rng(0)
    maps = [PatchMap.air(size) for size in (1, 5, 6, 7, 14)]
    for _ in range(200):
        low, high = np.sort(rng.uniform(0.05, 12, 2))
        maps.append(PatchMap(int(rng.integers(1, 20)), rng.uniform(0.05, 3), low, high))
    for patch_map in maps:
        size = patch_map.patch_size
        reach = patch_map.offset * size + CUTOFF_RADIUS * patch_map.max_scale
        pixels = np.arange(100 * size) + 0.5 - size / 2  # from the centre of patch 0
        touched = (np.arange(100 * size) // size)[pixels <= reach].max()
        # The bound may count one patch whose first pixel centre lies just beyond the ellipse.
        assert touched <= patch_map.rings <= touched + 1
    assert PatchMap.air(7).rings == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "patch_size: expected at least 1, got 0"),
        ((8, 0.0), "offset: expected > 0, got 0.0"),
        ((8, 1.0, 2.0, 1.0), "scales: expected 0 < min < max, got 2.0 and 1.0"),
        ((8, 1.0, 0.0, 1.0), "scales: expected 0 < min < max, got 0.0 and 1.0"),
    ],
)
def test_impossible_maps_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchMap(*arguments)


def test_raw_needs_a_colour():
    with pytest.raises(ValueError, match=r"raw: expected \(n, 5 \+ channels\), got \(3, 5\)"):
        to_physical(jnp.zeros((3, 5)), jnp.zeros((3, 2)), jnp.ones(3, bool), PatchMap(8))
