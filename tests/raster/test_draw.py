"""`render`: against the sum in float64, whatever the set, the size, the tiles, the scale and the way it is called."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import render_dense
from scenes2d import SCENES, SIZE, assert_image, exact, make, parameters, random_set, with_inactive

from airjax import gaussians as containers
from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians2D, join, ladder, on_ladder, pad
from airjax.raster import additive, draw, plan, tiles
from airjax.raster.draw import capacity_of, render, rescale
from airjax.raster.plan import count_pairs
from airjax.raster.tiles import CHUNK, Capacity, Tiling, footprints_of, sorted_lists

pytestmark = pytest.mark.slow

dense = jax.jit(render_dense, static_argnames=("image_size", "smooth_cutoff"))


@pytest.mark.parametrize("name", SCENES)
def test_equals_the_sum(name):
    scene = SCENES[name]()
    rendered = render(scene, image_size=SIZE)
    assert rendered.image.dtype == jnp.float32 and not rendered.overflow
    assert_image(rendered.image, exact(scene, image_size=SIZE))


def test_the_dense_renderer_equals_the_sum():
    """In float32 it is an oracle for the fast one, and the sum in float64 is its own."""
    for name in ("elongated", "huge", "inactive", "empty"):
        scene = SCENES[name]()
        assert_image(dense(scene, image_size=SIZE), exact(scene, image_size=SIZE))


def test_smooth_cutoff_equals_the_smooth_sum():
    scene = SCENES["elongated"]()
    expected = exact(scene, image_size=SIZE, smooth_cutoff=True)
    assert_image(render(scene, image_size=SIZE, smooth_cutoff=True).image, expected)
    assert_image(dense(scene, image_size=SIZE, smooth_cutoff=True), expected)
    # Both cut-offs have the same support: no tile list depends on which is used.
    assert np.all((exact(scene, image_size=SIZE).image == 0) == (expected.image == 0))


@pytest.mark.parametrize("aspect", [30, 100])
def test_needles_at_any_angle(aspect):
    """The conic of such a needle has terms aspect^2 times their sum; the factor of it keeps the digits."""
    scene = random_set(8, 20, SIZE, scales=(1, 1))
    scene = make(scene.means, [[10 / aspect, 10]], scene.angles, scene.colors)
    assert_image(render(scene, image_size=SIZE).image, exact(scene, image_size=SIZE))


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (1000, 37)])
def test_any_image_size(size):
    scene = random_set(9, 300, size, scales=(0.5, 3), margin=4)
    assert_image(render(scene, image_size=size).image, exact(scene, image_size=size))


@pytest.mark.parametrize("tile_size", [1, 13])
def test_the_tile_size_changes_nothing(tile_size):
    """Against tiles of 8 pixels: the terms are the same, their order and the origin of the exponent differ."""
    scene = random_set(10, 25, SIZE, scales=(0.5, 3), margin=3)
    image = render(scene, image_size=SIZE, tile_size=tile_size).image
    assert_image(image, exact(scene, image_size=SIZE))
    np.testing.assert_allclose(image, render(scene, image_size=SIZE).image, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels(channels):
    scene = random_set(11, 50, SIZE, channels=channels)
    image = render(scene, image_size=SIZE).image
    assert image.shape == (*SIZE, channels)
    assert_image(image, exact(scene, image_size=SIZE))


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_scale_draws_the_scaled_set(scale):
    scene = random_set(12, 150, SIZE, scales=(0.8, 4))
    size = (round(SIZE[0] * scale), round(SIZE[1] * scale))
    fields = parameters(scene)
    fields |= {name: np.asarray(fields[name], np.float64) * scale for name in ("means", "scales")}
    expected = exact(fields, image_size=size, active=scene.active)
    assert_image(render(scene, image_size=SIZE, scale=scale).image, expected)
    assert_image(dense(rescale(scene, scale), image_size=size), expected)


def area_averages(image, size, scale):
    """(h, w, c) means of an image over the areas of larger pixels."""
    for axis, (count, side) in enumerate(zip(size, image.shape, strict=False)):
        starts, pixels = np.arange(count)[:, None] / scale, np.arange(side)
        shares = np.clip(np.minimum(starts + 1 / scale, pixels + 1) - np.maximum(starts, pixels), 0, 1)
        image = np.moveaxis(np.tensordot(shares / shares.sum(1, keepdims=True), image, (1, axis)), 0, axis)
    return image


@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_scale_below_one_is_the_average(times):
    """Oracle: the sum at scale 1, averaged; also where capacity is given, and of what is much finer than a pixel."""
    size = (48, 36)
    scene = random_set(12, 300, size, scales=(0.3, 2))
    full = np.asarray(exact(scene, image_size=size).image)
    small = (size[0] // times, size[1] // times)
    expected = full.reshape(small[0], times, small[1], times, 3).mean((1, 3))
    np.testing.assert_allclose(render(scene, image_size=size, scale=1 / times).image, expected, atol=2e-5)
    draw_jitted = jax.jit(lambda g: render(g, image_size=size, scale=1 / times, capacity=5000).image)
    np.testing.assert_allclose(draw_jitted(on_ladder(scene)), expected, atol=2e-5)


@pytest.mark.parametrize("scale", [0.9, 0.7, 0.3, 0.11])
def test_a_small_picture_does_not_alias(scale):
    """Oracle: areas of the picture at scale 1, where no size divides another; points differ several times as much."""
    size = (61, 47)
    scene = random_set(12, 600, size, scales=(0.5, 2))
    small = plan.scaled_size(size, scale)
    expected = area_averages(np.asarray(render(scene, image_size=size).image), small, scale)
    drawn = np.asarray(render(scene, image_size=size, scale=scale).image)
    points = draw._render_at(scene, scale, Tiling(small, 8), None, False, False).image
    errors = [np.sqrt(np.mean((image - expected) ** 2) / np.var(expected)) for image in (drawn, points)]
    assert errors[0] < 0.1 and errors[1] > 1.5 * errors[0]


def test_a_scale_near_zero_leaves_one_pixel():
    """Which is the mean of the picture."""
    scene = random_set(13, 5, SIZE)
    image = render(scene, image_size=SIZE, scale=1e-3).image
    assert image.shape == (1, 1, 3)
    np.testing.assert_allclose(image[0, 0], np.mean(render(scene, image_size=SIZE).image, (0, 1)), atol=1e-5)


def pairs_of(scene):
    return count_pairs(footprints_of(pad(scene, 1024)), Tiling(SIZE, 8))


def test_strips_equal_one_piece(monkeypatch):
    scene = random_set(14, 40, SIZE, scales=(0.5, 6), margin=6)
    whole = render(scene, image_size=SIZE).image
    monkeypatch.setattr(draw, "STRIP_PIXELS", 8 * SIZE[1])  # one row of tiles
    told = []
    strips = render(scene, image_size=SIZE, progress=lambda *count: told.append(count)).image
    rows = -(-SIZE[0] // 8)
    assert told == [(i, rows) for i in range(1, rows + 1)]
    # The terms of a tile are the same in the same order; only the distance to its centre is rounded otherwise.
    np.testing.assert_allclose(strips, whole, atol=1e-5)
    assert_image(strips, exact(scene, image_size=SIZE))
    with pytest.raises(ValueError, match="capacity: expected at least"):
        render(scene, image_size=SIZE, capacity=8)
    # A capacity that is given is that of the whole image.
    np.testing.assert_array_equal(render(scene, image_size=SIZE, capacity=pairs_of(scene)).image, whole)


def test_strips_halve_where_too_many_pairs_meet(monkeypatch):
    """Down to one row of tiles; a row with still more than the limit is an error, not an image with a part missing."""
    scene = SCENES["random"]()
    whole, pairs = render(scene, image_size=SIZE).image, pairs_of(scene)
    monkeypatch.setattr(plan, "MAX_PAIRS", pairs // 3)
    np.testing.assert_allclose(render(scene, image_size=SIZE).image, whole, atol=1e-5)
    monkeypatch.setattr(plan, "MAX_PAIRS", pairs // 20)
    with pytest.raises(AirjaxError, match=f"Gaussians: expected to touch at most {pairs // 20} tiles, got"):
        render(scene, image_size=SIZE)


# --- inactive and impossible values ----------------------------------------------------------------------


def test_inactive_slots_do_not_exist():
    """Equal, bit by bit, to the set without them, in the image and in the gradient, whatever they hold."""
    scene = random_set(15, 40, SIZE)

    def loss(fields, active):
        image = render(Gaussians2D(**fields, active=active), image_size=SIZE, capacity=1024).image
        return jnp.sum(jnp.sin(image)), image

    fn = jax.jit(jax.grad(loss, has_aux=True))
    for value in (np.nan, np.inf, 0.0):
        mixed, order = with_inactive(scene, value)
        kept = np.flatnonzero(order < scene.num_slots)
        alone = make(*(np.asarray(x)[kept] for x in parameters(mixed).values()))  # in the same order
        alone = pad(alone, mixed.num_slots)
        grads, image = fn(parameters(mixed), mixed.active)
        expected_grads, expected_image = fn(parameters(alone), alone.active)
        np.testing.assert_array_equal(image, expected_image)
        for name, grad in grads.items():
            np.testing.assert_array_equal(grad[kept], expected_grads[name][: len(kept)])
            np.testing.assert_array_equal(np.delete(grad, kept, axis=0), 0)
            assert np.abs(grad[kept]).min() > 0


POISON = [
    ("means", np.nan),
    ("means", np.inf),
    ("means", -3e38),
    ("scales", np.nan),
    ("scales", np.inf),
    ("scales", 3e38),
    ("scales", 0.0),
    ("scales", 1e-30),
    ("scales", 1e-42),
    ("angles", np.nan),
    ("angles", np.inf),
]


def test_impossible_geometry_is_not_drawn():
    """A slot whose geometry is not a number, infinite or of no size is left out; the others keep image and gradient.

    Its own gradient is zero or, where its geometry is, not a number.
    """
    scene = random_set(16, 30, SIZE)

    def loss(fields):
        image = render(Gaussians2D(**fields, active=jnp.ones(31, bool)), image_size=SIZE, capacity=1024).image
        return jnp.sum(jnp.sin(image)), image

    fn = jax.jit(jax.grad(loss, has_aux=True))
    blank = make([[9, 9]], 1, 0, np.zeros((1, 3)))
    expected_grads, expected_image = fn(parameters(join([scene, blank])))
    for field, value in POISON:
        fields = parameters(join([scene, make([[9, 9]], 1, 0, np.ones((1, 3)))]))
        fields[field] = jnp.asarray(fields[field]).at[30].set(value)
        grads, image = fn(fields)
        np.testing.assert_array_equal(image, expected_image, err_msg=f"{field} = {value}")
        for name, grad in grads.items():
            np.testing.assert_array_equal(grad[:30], expected_grads[name][:30], err_msg=f"{field} = {value}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_impossible_colour_is_never_hidden(value):
    """It is not finite where the Gaussian is drawn, and leaves the tiles that the Gaussian does not touch alone."""
    scene = random_set(17, 30, SIZE)
    poisoned = join([scene, make([[9, 9]], 1, 0, np.full((1, 3), value))])
    image = np.asarray(render(poisoned, image_size=SIZE).image)
    drawn = exact(make([[9, 9]], 1, 0, np.ones((1, 3))), image_size=SIZE).image > 0
    assert drawn.any() and not np.isfinite(image[drawn]).any()
    clean = np.asarray(render(scene, image_size=SIZE).image)
    np.testing.assert_array_equal(image[16:], clean[16:])
    np.testing.assert_array_equal(image[:, 16:], clean[:, 16:])


# --- capacities and transformations ----------------------------------------------------------------------


def test_a_capacity_that_is_too_small_raises():
    scene = random_set(18, 60, SIZE)
    pairs, chunks = needs_of(scene)
    with pytest.raises(ValueError, match=f"capacity: expected at least {pairs} pairs for this set, got {pairs - 1}"):
        render(scene, image_size=SIZE, capacity=pairs - 1)
    with pytest.raises(ValueError, match=f"capacity: expected at least {chunks} chunks for this set, got {chunks - 1}"):
        render(scene, image_size=SIZE, capacity=Capacity(pairs, chunks - 1))
    enough = render(scene, image_size=SIZE, capacity=Capacity(pairs, chunks))
    assert not enough.overflow
    np.testing.assert_array_equal(enough.image, render(scene, image_size=SIZE).image)


def needs_of(scene):
    """Pairs and chunks, counted in lists that are longer than needed."""
    tiling = Tiling(SIZE, 8)
    lists = sorted_lists(footprints_of(pad(scene, 1024)), tiling, capacity=4096)
    return pairs_of(scene), int(np.sum(np.asarray(lists.tiles) < tiling.num_tiles))


def test_capacity_of_counts_what_the_lists_hold(monkeypatch):
    scene = join([random_set(18, 60, SIZE), make([[9, 9]] * 40, 1.5, 0, np.ones((40, 3)))])
    pairs, chunks = needs_of(scene)
    assert CHUNK < chunks < pairs / 2
    monkeypatch.setattr(draw, "octaves", lambda count: count)
    assert capacity_of(scene, image_size=SIZE) == Capacity(pairs)
    assert capacity_of(scene, image_size=SIZE, headroom=1.5) == Capacity(-(-3 * pairs // 2))


def test_concrete_arrays_with_a_capacity_are_drawn_by_one_program(monkeypatch):
    """Counted where a trace must pass: operation by operation, every call would pass there."""
    traces, original = [], tiles._touches
    monkeypatch.setattr(tiles, "_touches", lambda *args: (traces.append(1), original(*args))[1])
    size = (6, 59)  # its tiles are those of no other test
    for n in (20, 21):
        render(random_set(n, n, size), image_size=size, capacity=512)
    assert len(traces) == 1


def test_a_set_of_a_ladder_size_stays_on_the_device(monkeypatch):
    scene = on_ladder(random_set(20, 30, SIZE))
    assert scene.num_slots == 1024 and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(scene))
    expected = render(scene, image_size=SIZE).image

    class NoHost:
        def __getattr__(self, name):
            raise AssertionError(f"np.{name} was used")

    for module in (draw, containers):
        monkeypatch.setattr(module, "np", NoHost())
    np.testing.assert_array_equal(render(scene, image_size=SIZE).image, expected)
    render(scene, image_size=SIZE, scale=0.5)


def test_vmap_and_overflow():
    """Oracle: the sum, set by set. The capacity is exactly that of the first; the third does not fit and says so."""
    scene = random_set(19, 20, SIZE)
    fewer = make(*parameters(scene).values(), active=np.arange(20) != 3)
    more = replace(scene, scales=scene.scales.at[3].set(9.0))
    assert pairs_of(fewer) < pairs_of(scene) < pairs_of(more)
    batch, capacity = jax.tree.map(lambda *leaves: jnp.stack(leaves), scene, fewer, more), pairs_of(scene)
    rendered = jax.jit(jax.vmap(lambda g: render(g, image_size=SIZE, capacity=capacity)))(batch)
    np.testing.assert_array_equal(rendered.overflow, [False, False, True])
    assert_image(rendered.image[0], exact(scene, image_size=SIZE))
    assert_image(rendered.image[1], exact(fewer, image_size=SIZE))
    assert np.isnan(rendered.image[2]).all()


def test_an_empty_set_inside_jit():
    image = jax.jit(lambda g: render(g, image_size=(7, 9), capacity=4).image)(SCENES["empty"]())
    np.testing.assert_array_equal(image, np.zeros((7, 9, 3)))


def test_sets_of_near_size_share_a_compilation(monkeypatch):
    """Counted where a trace must pass. Sets, pairs and tiles are padded to a ladder, so only many more compile."""
    traces = []
    for module, name in ((tiles, "_touches"), (additive, "gather_slots")):
        original = getattr(module, name)

        def counting(*args, original=original, name=name, **kwargs):
            traces.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counting)
    draw_tiles = partial(render, tile_size=7)  # that of no other test
    for n, size in ((30, (5, 1261)), (31, (93, 20)), (150, (80, 85))):
        draw_tiles(random_set(n, n, size), image_size=size)
    assert traces == ["_touches", "gather_slots"]
    draw_tiles(random_set(0, 1100, size), image_size=size)
    assert traces == 2 * ["_touches", "gather_slots"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (0, 4)}, r"image_size: expected \(h, w\) of at least 1, got \(0, 4\)"),
        pytest.param(
            {"image_size": (4, 4, 3)},
            r"image_size: expected \(h, w\) of at least 1, got \(4, 4, 3\)",
            marks=pytest.mark.forbidden,
        ),
        ({"image_size": (4, 4), "scale": 0.0}, "scale: expected a finite number > 0, got 0.0"),
        ({"image_size": (4, 4), "scale": float("nan")}, "scale: expected a finite number > 0, got nan"),
        ({"image_size": (4, 4), "tile_size": 0}, "tile_size: expected at least 1, got 0"),
        ({"image_size": (4, 4), "capacity": 0}, "capacity: expected at least 1 pair, got 0"),
    ],
)
def test_impossible_options_raise(options, message):
    off_canvas = make([[-50, -50]], 1, 0, np.ones((1, 3)))
    with pytest.raises(ValueError, match=message):
        render(off_canvas, **options)


def test_constants_inside_jit_are_drawn_there():
    scene = random_set(21, 30, SIZE)
    image = jax.jit(lambda: render(scene, image_size=SIZE, capacity=1024).image)()
    np.testing.assert_allclose(image, render(scene, image_size=SIZE).image, atol=1e-6)
    with pytest.raises(ValueError, match="capacity: expected a number of pairs inside a JAX transformation, got None"):
        jax.jit(lambda: render(scene, image_size=SIZE).image)()


def test_inside_a_transformation_a_capacity_is_required():
    with pytest.raises(ValueError, match="capacity: expected a number of pairs inside a JAX transformation, got None"):
        jax.jit(lambda g: render(g, image_size=SIZE).image)(random_set(0, 3, SIZE))


# --- memory ----------------------------------------------------------------------------------------------


def test_memory_of_a_photograph():
    """Forward and backward of 30,000 Gaussians at 768 x 512, as the compiler plans it: below 500 MB."""
    size, n = (512, 768), 30_000
    scene = random_set(22, n, size, scales=(1, 3))
    pairs = count_pairs(jax.jit(footprints_of)(scene), Tiling(size, 8))

    def loss(fields, active):
        image = render(Gaussians2D(**fields, active=active), image_size=size, capacity=ladder(pairs)).image
        return jnp.sum(jnp.square(image))

    compiled = jax.jit(jax.value_and_grad(loss)).lower(parameters(scene), scene.active).compile()
    memory = compiled.memory_analysis()
    total = memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert 1e6 < total < 500e6
