"""The fast renderer's gradients, its transposes in the colours, and sets predicted on a patch grid.

Derivatives are taken in float64 by `jax.enable_x64`: finite differences then have nine digits.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scenes2d import (
    HAND_SIZE,
    SIZE,
    assert_image,
    cast,
    central_differences,
    exact,
    hand_placed,
    parameters,
    predicted,
    random_set,
)

from airjax.gaussians import Gaussians2D
from airjax.image.patches import PatchMap, to_physical
from airjax.raster import additive
from airjax.raster.additive import ColorMap, accumulate, render_lists, render_patches
from airjax.raster.draw import render
from airjax.raster.tiles import Tiling, footprints_of, patch_centers, patch_grid, sorted_lists, tiled, untiled

pytestmark = pytest.mark.slow

TILE = 8
WEIGHTS = np.random.default_rng(0).normal(size=(*HAND_SIZE, 3))


def lists_of(gaussians, size=HAND_SIZE):
    return sorted_lists(footprints_of(gaussians), Tiling(size, TILE), capacity=64)


def functional(image, xp=jnp):
    """A number that depends on the image nonlinearly, so that no second derivative vanishes."""
    return xp.sum(WEIGHTS[..., : image.shape[-1]] * image) + 0.5 * xp.sum(xp.sin(image) ** 2)


def loss(fields, active, *, smooth_cutoff=True, any_order=False):
    gaussians = Gaussians2D(**fields, active=active)
    lists, tiling = lists_of(gaussians), Tiling(HAND_SIZE, TILE)
    return functional(render_lists(gaussians, lists, tiling, smooth_cutoff=smooth_cutoff, any_order=any_order))


def assert_trees_close(actual, expected, tolerance):
    """Relative to the largest number of each field."""
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(actual[name], value, atol=tolerance * scale, rtol=0, err_msg=name)


# --- derivatives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("smooth_cutoff", [True, False])
def test_gradients_of_every_parameter(smooth_cutoff):
    """Both paths against central differences of the sum written out in numpy.

    With the step at the cut-off the differences hold too as long as no pixel lies within their reach of it.
    """
    scene = hand_placed(np.float64)
    oracle = partial(exact, image_size=HAND_SIZE, smooth_cutoff=smooth_cutoff, active=scene.active)
    assert not oracle(parameters(scene)).slack.any()
    expected = central_differences(lambda f: functional(oracle(f).image, np), parameters(scene))
    for value in expected.values():  # each has something to check; the fifth is round, the sixth inactive
        assert np.abs(value[:4]).min() > 1e-3
        np.testing.assert_array_equal(value[5], 0)

    @jax.jit
    def grads(fields, active):
        return [
            jax.grad(loss)(fields, active, smooth_cutoff=smooth_cutoff, any_order=any_order)
            for any_order in (False, True)
        ]

    with jax.enable_x64(True):
        scene = cast(scene, np.float64)
        own, plain = grads(parameters(scene), scene.active)
        assert own["means"].dtype == jnp.float64
        assert_trees_close(own, expected, 1e-7)  # truncation, where the ramp bends
        assert_trees_close(plain, expected, 1e-7)
        for value in own.values():
            np.testing.assert_array_equal(value[5], 0)


def test_gradients_in_float32():
    """The same in float32, which users run: rounding of 6e-8 in sums of some hundred terms."""
    scene = hand_placed()
    oracle = partial(exact, image_size=HAND_SIZE, smooth_cutoff=False, active=scene.active)
    expected = central_differences(lambda f: functional(oracle(f).image, np), parameters(scene))
    own = jax.jit(partial(jax.grad(loss), smooth_cutoff=False))(parameters(scene), scene.active)
    assert_trees_close(own, expected, 2e-5)


def test_derivatives_of_the_gradient(monkeypatch):
    """jvp of grad, and reverse over reverse: both against differences of the gradient, which the test above checks."""
    monkeypatch.setattr(additive, "_UNROLL", 1)  # compiles in a fifth of the time
    scene = hand_placed(np.float64)
    scene = scene.with_colors(scene.colors[:, :1])  # one channel: a third of the time
    direction = {k: np.random.default_rng(1).normal(size=v.shape) for k, v in parameters(scene).items()}

    @jax.jit
    def products(fields, active, direction):
        def inner(fields):
            grad = jax.grad(partial(loss, any_order=True))(fields, active)
            return jnp.vdot(ravel_pytree(grad)[0], ravel_pytree(direction)[0]), grad

        reverse = jax.grad(inner, has_aux=True)(fields)[0]
        forward = jax.jvp(lambda fields: inner(fields)[1], (fields,), (direction,))[1]
        step = 1e-6  # the ramp has two derivatives: where it bends, truncation is of first order in the step
        ends = jax.vmap(lambda t: jax.grad(loss)(jax.tree.map(lambda x, d: x + t * d, fields, direction), active))(
            jnp.array([step, -step])
        )
        return forward, reverse, jax.tree.map(lambda a: (a[0] - a[1]) / (2 * step), ends)

    with jax.enable_x64(True):
        scene = cast(scene, np.float64)
        forward, reverse, expected = products(parameters(scene), scene.active, jax.tree.map(jnp.asarray, direction))
        assert_trees_close(forward, expected, 1e-6)
        assert_trees_close(reverse, expected, 1e-6)
        for value in (*forward.values(), *reverse.values()):
            np.testing.assert_array_equal(value[5], 0)


def test_the_default_gradient_is_reverse_mode_only():
    """It says so instead of giving something else."""
    slots = jnp.ones((1, 6, 1))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(partial(accumulate, tile_size=2), (slots,), (slots,))


# --- linear in the colours -------------------------------------------------------------------------------


def test_adjoint_in_the_colours():
    """<A c, y> = <c, A^T y> and A itself, by vjp, by linear_transpose and by stored weights.

    Oracle: the matrix of weights, from the sum in numpy.
    """
    n, channels = 20, 5
    scene = random_set(1, n, SIZE, channels=channels)
    out = exact(parameters(scene) | {"colors": np.eye(n)}, image_size=SIZE, active=scene.active)
    assert not out.slack.any()
    matrix = np.moveaxis(out.image, -1, 0)
    y = np.random.default_rng(2).normal(size=(*SIZE, channels)).astype(np.float32)
    expected_image = np.einsum("nhw,nc->hwc", matrix, np.asarray(scene.colors))
    expected_adjoint = np.einsum("nhw,hwc->nc", matrix, y)

    in_tiles = tiled(y, TILE)

    @jax.jit
    def run(scene, y, in_tiles):
        def draw(colors, any_order):
            return render(scene.with_colors(colors), image_size=SIZE, capacity=256, any_order=any_order).image

        image, vjp = jax.vjp(partial(draw, any_order=False), scene.colors)
        transpose = jax.linear_transpose(partial(draw, any_order=True), scene.colors)
        tiling = in_tiles.tiling(TILE)
        there = ~jnp.isnan(in_tiles.tiles[:, : TILE**2])
        lists = sorted_lists(footprints_of(scene), tiling, capacity=256)
        color_map = ColorMap.of(scene, lists, tiling, there.astype(jnp.float32))
        tiles, tiles_vjp = jax.vjp(color_map.draw, scene.colors)
        adjoints = [vjp(y)[0], transpose(y)[0], tiles_vjp(jnp.nan_to_num(in_tiles.tiles))[0]]
        return [image, draw(scene.colors, True)], tiles, color_map.norms(scene.num_slots), adjoints

    images, tiles, norms, adjoints = run(scene, y, in_tiles)
    images = [*images, untiled(np.asarray(tiles), SIZE, TILE)]
    np.testing.assert_allclose(norms, np.einsum("nhw,nhw->n", matrix, matrix), rtol=1e-4, atol=1e-5)
    assert not np.any(np.asarray(tiles)[np.isnan(in_tiles.tiles)])
    for image, adjoint in zip(images, adjoints, strict=True):
        np.testing.assert_allclose(image, expected_image, atol=2e-5)
        # Sums of some hundred products of size 1 in float32.
        np.testing.assert_allclose(adjoint, expected_adjoint, atol=5e-5)
        left = np.vdot(np.asarray(image, np.float64), y)
        right = np.vdot(np.asarray(scene.colors, np.float64), adjoint)
        assert left == pytest.approx(right, rel=1e-5)


def test_a_patch_grid_transposes_in_the_colours(monkeypatch):
    monkeypatch.setattr(additive, "_UNROLL", 1)  # compiles in a fifth of the time
    patch_map = PatchMap(4, offset=0.75, min_scale=0.5, max_scale=2.1)
    scene, grid = predicted((9, 13), patch_map)
    y = jnp.asarray(np.random.default_rng(0).normal(size=(12, 16, 3)), jnp.float32)

    def draw(colors, any_order=True):
        return render_patches(scene.with_colors(colors), patches=patch_map.layout(grid), any_order=any_order)

    image, transposed = jax.jit(lambda c: (draw(c), jax.linear_transpose(draw, c)(y)[0]))(scene.colors)
    own = jax.jit(lambda c: jax.vjp(partial(draw, any_order=False), c)[1](y)[0])(scene.colors)
    np.testing.assert_allclose(transposed, own, atol=1e-5)
    assert np.vdot(image, y) == pytest.approx(np.vdot(scene.colors, transposed), rel=1e-5)


# --- the kernel ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_slots", [0, 1, 8, 19])
def test_accumulate_takes_any_number_of_slots(num_slots):
    """Whole groups of the unrolled loop, a rest, both or nothing. Oracle: the formula in numpy."""
    rng = np.random.default_rng(num_slots)
    diagonal = rng.uniform(0.3, 2, (2, num_slots, 3))
    rows = [*rng.uniform(-4, 4, (2, num_slots, 3)), diagonal[0], rng.normal(size=(num_slots, 3)), diagonal[1]]
    slots = np.stack([*rows, *rng.uniform(-1, 1, (2, num_slots, 3))], axis=1)
    y, x = np.mgrid[:5, :5] - 2.0
    dx, dy = (x.reshape(1, -1, 1) - slots[:, None, 0], y.reshape(1, -1, 1) - slots[:, None, 1])
    p, r, s = (slots[:, None, i] for i in (2, 3, 4))
    weight = np.exp(-0.5 * ((p * dx + r * dy) ** 2 + (s * dy) ** 2))
    expected = np.einsum("lqt,lct->cqt", np.where(weight < 1 / 255, 0, weight), slots[:, 5:])
    actual = jax.jit(partial(accumulate, tile_size=5))(slots.astype(np.float32))
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("smooth_cutoff", [False, True])
@pytest.mark.parametrize("used", [0, 5, 16, 19])
def test_blocks_of_chunks(monkeypatch, used, smooth_cutoff):
    """Sum and gradient in blocks that do not divide the chunks are those of one block, for tiles of one chunk and of
    several; chunks not in use give nothing."""
    rng, count, room = np.random.default_rng(0), 19, 7
    slots = rng.uniform(0.3, 1, (3, 8, count)).astype(np.float32)
    slots[:, 5:, used:] = 0  # empty
    tiles = np.append(np.sort(rng.integers(0, room, used)), np.full(count - used, room)).astype(np.int32)
    target = rng.normal(size=(room, 3 * 16)).astype(np.float32)
    of_chunks = np.append(target, np.zeros((1, 3 * 16), np.float32), axis=0)[tiles].T.reshape(3, 16, count)

    def each(slots):
        drawn = accumulate(slots, tile_size=4, smooth_cutoff=smooth_cutoff)
        return jnp.sum(drawn * of_chunks), drawn

    def together(slots):
        options = additive._Options(4, smooth_cutoff, room)
        drawn = additive._accumulate(slots, jnp.asarray(tiles), jnp.int32(used), options)
        return jnp.sum(drawn * target), drawn

    gradient, drawn = jax.jit(jax.grad(each, has_aux=True))(slots)
    expected = np.zeros((room + 1, 3 * 16), np.float32)
    np.add.at(expected, tiles, np.asarray(drawn).reshape(3 * 16, count).T)
    monkeypatch.setattr(additive, "_BLOCK", 16 * 8)
    monkeypatch.setattr(additive, "_LARGE_BLOCK", 16 * 8)
    in_blocks, drawn_in_blocks = jax.jit(jax.grad(each, has_aux=True))(slots)
    np.testing.assert_allclose(drawn_in_blocks, drawn, rtol=1e-6)
    np.testing.assert_allclose(in_blocks, gradient, rtol=1e-5, atol=5e-6)  # sums of products of size 1
    in_tiles, drawn_in_tiles = jax.jit(jax.grad(together, has_aux=True))(slots)
    np.testing.assert_allclose(drawn_in_tiles, expected[:room], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        in_tiles[..., :used], gradient[..., :used], rtol=1e-5, atol=5e-6
    )  # another order of sums
    if used == 5:  # two whole blocks are not looked at
        assert not np.any(in_tiles[..., 8:])


# --- predicted sets --------------------------------------------------------------------------------------

MAPS = [
    ((33, 50), PatchMap.air(7)),
    ((19, 30), PatchMap(8, 0.75, 0.5, 4.2)),
    ((1, 1), PatchMap(8, 0.75, 0.5, 4.2)),
    ((5, 7), PatchMap(1, 1.5, 0.3, 0.8)),
    ((70, 50), PatchMap(32, 1.0, 0.5, 32.5)),
]


@pytest.mark.parametrize(("size", "patch_map"), MAPS, ids=[f"{s[0]}x{s[1]}-{m.patch_size}" for s, m in MAPS])
def test_patch_lists_hold_everything_the_map_can_draw(size, patch_map):
    """Against the sum, for rows anywhere in the map and at its very bounds (raw = +-20)."""
    grid = patch_grid(size, patch_map.patch_size)
    n = grid[0] * grid[1]
    draw = jax.jit(partial(render_patches, patches=patch_map.layout(grid)))
    rng = np.random.default_rng(1)
    farthest = np.where(rng.uniform(size=(n, 8)) < 0.5, -20, 20)
    farthest[:, 2:4] = 20  # the largest scales
    for raw in (rng.normal(0, 2, (n, 8)), np.where(rng.uniform(size=(n, 8)) < 0.5, -20, 20), farthest):
        scene, _ = predicted(size, patch_map, raw=raw)
        expected = exact(scene, image_size=tuple(side * patch_map.patch_size for side in grid))
        assert_image(draw(scene), expected)


def test_patch_lists_equal_sorted_lists():
    """At the bounds of the map too; the image is no whole number of patches."""
    patch_map = PatchMap.air(7)
    raw = np.where(np.random.default_rng(1).uniform(size=(40, 8)) < 0.5, -20, 20)
    scene, grid = predicted(SIZE, patch_map, raw=raw)
    patches = jax.jit(partial(render_patches, patches=patch_map.layout(grid)))(scene)
    image = render(scene, image_size=SIZE).image
    np.testing.assert_allclose(patches[: SIZE[0], : SIZE[1]], image, atol=2e-5)


def test_gradients_of_a_predicted_set():
    """By raw rows, in float64, against central differences of the map and the sum in numpy; under vmap."""
    patch_map, size = PatchMap(4, offset=0.75, min_scale=0.5, max_scale=2.1), (8, 12)
    raws = np.random.default_rng(3).normal(size=(2, 6, 8))
    active = np.array([True, True, False, True, True, True])
    weights = np.random.default_rng(4).normal(size=(*size, 3))
    centers = np.asarray(patch_centers((2, 3), 4), np.float64)

    def oracle(raw):
        u, sigmoid = raw["raw"], lambda x: 1 / (1 + np.exp(-x))
        fields = {
            "means": centers + 3 * np.tanh(u[:, :2]),
            "scales": 0.5 + 1.6 * sigmoid(u[:, 2:4]),
            "angles": 2 * np.pi * sigmoid(u[:, 4]),
            "colors": np.tanh(u[:, 5:]),
        }
        out = exact(fields, image_size=size, active=active)
        assert not out.slack.any()
        return np.sum(weights * out.image)

    with jax.enable_x64(True):

        @jax.jit
        @jax.vmap
        @jax.grad
        def grad(raw):
            scene = to_physical(raw, jnp.asarray(centers), jnp.asarray(active), patch_map)
            return jnp.sum(weights * render_patches(scene, patches=patch_map.layout((2, 3))))

        actual = np.asarray(grad(jnp.asarray(raws)))
    for raw, value in zip(raws, actual, strict=True):
        expected = central_differences(oracle, {"raw": raw})["raw"]
        np.testing.assert_allclose(value, expected, atol=1e-8 * np.abs(expected).max())
        np.testing.assert_array_equal(value[2], 0)


def test_poison_in_a_predicted_set():
    """Inactive: exactly nothing, in image and gradient. Active: NaN where it may be drawn, and nowhere far away."""
    patch_map = PatchMap(4, offset=0.75, min_scale=0.5, max_scale=2.1)
    scene, grid = predicted((16, 40), patch_map, seed=5)
    on, off = np.ones(40, bool), np.arange(40) != 5

    @jax.jit
    def run(fields, active):
        def draw(fields):
            scene = Gaussians2D(**fields, active=active)
            image = render_patches(scene, patches=patch_map.layout(grid))
            return jnp.sum(jnp.sin(image)), image

        return jax.grad(draw, has_aux=True)(fields)

    clean = parameters(scene)
    bad = {name: x.at[5].set(jnp.nan) for name, x in clean.items()}
    expected_grad, expected_image = run(clean, off)
    grad, image = run(bad, off)
    np.testing.assert_array_equal(image, expected_image)
    for name, value in grad.items():
        np.testing.assert_array_equal(value, expected_grad[name])
        np.testing.assert_array_equal(value[5], 0)
    _, image = run(bad, on)
    assert np.isnan(image[0:4, 20:24]).all()
    far = np.s_[:, 36:]  # three patches away and more, beyond the two rings of this map
    np.testing.assert_array_equal(image[far], expected_image[far])


def test_memory_of_a_predicted_set():
    """Forward and backward of more than 30,000 Gaussians on one 768 x 512 grid, as the compiler plans it."""
    patch_map = PatchMap(3, offset=0.75, min_scale=0.5, max_scale=1.6)
    grid = patch_grid((512, 768), 3)
    n = grid[0] * grid[1]
    assert n > 30_000

    def energy(raw):
        scene = to_physical(raw, patch_centers(grid, 3), jnp.ones(n, bool), patch_map)
        return jnp.sum(jnp.square(render_patches(scene, patches=patch_map.layout(grid))))

    compiled = jax.jit(jax.value_and_grad(energy)).lower(jax.ShapeDtypeStruct((n, 8), jnp.float32)).compile()
    memory = compiled.memory_analysis()
    total = memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert 1e6 < total < 500e6
