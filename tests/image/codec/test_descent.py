"""Descent on integers: what a move is said to gain against what it gains, and where sweeps lead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.gaussians import Gaussians2D, join, only_active
from airjax.image.codec.descent import _curvature, _lattice, _overlap, sweep
from airjax.image.codec.lattice import gaussians_at, shape_of
from airjax.image.codec.places import Layout, Places, places_of, rows_at
from airjax.image.codec.quantise import dequantise, geometry_of
from airjax.raster.draw import capacity_of, render
from airjax.raster.tiles import Capacity

LAYOUT = Layout((96, 128), (16, 8))
CODES = [jnp.array([-24.0, -20, 4, 8, 6, 36]), jnp.array([-24.0, -20, 4, 6, 6, 22])]


def random_rows(seed: int, share: float) -> tuple[jax.Array, jax.Array, Places]:
    """(symbols, active, places) of all slots of the layout, a share of them in use, none near the border."""
    rng, places = np.random.default_rng(seed), places_of(CODES, LAYOUT)
    n, centers = LAYOUT.num_slots, np.asarray(places.centers)
    symbols = np.zeros((n, 8), np.float32)
    symbols[:, 0] = rng.integers(3, 9, n) * rng.choice([-1, 1], n)
    symbols[:, 1:3] = rng.integers(-3, 4, (n, 2))
    symbols[:, 3] = rng.integers(-1, 2, n)
    symbols[:, 4] = rng.integers(0, 2, n)
    shape = shape_of(jnp.asarray(symbols), places.codes)
    symbols[:, 5] = np.floor(rng.random(n) * np.asarray(shape.levels))
    symbols[:, 6:] = rng.integers(-1, 2, (n, 2))
    height, width = LAYOUT.image_size
    inside = np.all((centers > 24) & (centers < np.array([width - 24, height - 24])), axis=1)
    active = inside & (rng.random(n) < share)
    return jnp.asarray(symbols), jnp.asarray(active), places


def gaussians_of(symbols, active, places) -> Gaussians2D:
    return gaussians_at(symbols, shape_of(symbols, places.codes), places.codes, places.centers, active)


def swept(symbols, active, image, places, slope, seed=0):
    stored = gaussians_of(symbols, active, places)
    capacity = capacity_of(stored, image_size=LAYOUT.image_size, headroom=2.0)
    key = jax.random.key(seed)
    return sweep(symbols, active, image, places, jnp.float32(slope), key, layout=LAYOUT, capacity=capacity)


def error_of(symbols, active, image, places) -> float:
    drawn = render(gaussians_of(symbols, active, places), image_size=LAYOUT.image_size).image
    return float(0.5 * jnp.sum(jnp.square(image - drawn)))


def target(seed: int) -> jax.Array:
    """An image that random rows of the same kind would show."""
    return render(gaussians_of(*random_rows(seed, 0.3)), image_size=LAYOUT.image_size).image


@pytest.mark.parametrize("seed", range(4))
def test_a_move_gains_what_it_is_said_to(seed):
    """Oracle: both images, drawn; one row alone, so that nothing else moves. Bits are free."""
    symbols, active, places = random_rows(seed, 1.0)
    chosen = int(np.flatnonzero(np.asarray(active))[7 * seed + 3])
    alone = jnp.arange(len(active)) == chosen
    image = target(seed + 10)
    for sweeps in range(6):
        after = swept(symbols, alone, image, places, 0.0, sweeps)
        before = error_of(symbols, alone, image, places)
        assert float(after.error) == pytest.approx(before, rel=1e-5)
        gained = before - error_of(after.symbols, after.active, image, places)
        assert gained == pytest.approx(float(after.gain), rel=0.02, abs=2e-4)
        assert gained >= -1e-4
        symbols, alone = after.symbols, after.active


def test_sweeps_lower_the_sum_and_stay_on_integers():
    """Property: error + slope * bits falls, by a half in all; symbols are whole and in range."""
    symbols, active, places = random_rows(0, 0.5)
    image, slope, sums = target(1), 0.002, []
    for seed in range(25):
        after = swept(symbols, active, image, places, slope, seed)
        sums.append(float(after.error + slope * after.bits))
        symbols, active = after.symbols, after.active
    assert sums[-1] < 0.5 * sums[0] and max(np.diff(sums)) < 0.01 * sums[0]
    found = np.asarray(symbols)[np.asarray(active)]
    levels = np.asarray(shape_of(symbols, places.codes).levels)[np.asarray(active)]
    np.testing.assert_array_equal(found, np.rint(found))
    assert found[:, 4].min() >= 0 and np.all((found[:, 5] >= 0) & (found[:, 5] < levels))
    assert np.any(found[:, :3] != 0, axis=1).all()


def test_rows_that_are_not_worth_their_bits_leave():
    """Oracle: with bits that cost more than any image holds nothing stays, one row of a neighborhood after another."""
    symbols, active, places = random_rows(0, 0.3)
    count = int(active.sum())
    for seed in range(30):
        after = swept(symbols, active, target(1), places, 100.0, seed)
        symbols, active = after.symbols, after.active
    assert count > 20 and not active.any()


def test_lists_that_overflow_are_seen():
    symbols, active, places = random_rows(0, 0.5)
    key = jax.random.key(0)
    capacity = Capacity(8, 8)
    after = sweep(symbols, active, target(1), places, jnp.float32(0), key, layout=LAYOUT, capacity=capacity)
    assert np.isnan(after.error)


def test_overlaps_of_weights():
    """Oracle: sums over a fine grid of pixels."""
    rng, n = np.random.default_rng(0), 20
    sets = [
        Gaussians2D(
            rng.uniform(-2, 2, (n, 2)).astype(np.float32),
            rng.uniform(0.7, 3, (n, 2)).astype(np.float32),
            rng.uniform(0, 3, n).astype(np.float32),
            np.ones((n, 1), np.float32),
            np.ones(n, bool),
        )
        for _ in range(2)
    ]
    y, x = np.meshgrid(*[np.arange(-20, 20, 0.1)] * 2, indexing="ij")

    def weights(g, i):
        cos, sin = np.cos(g.angles[i]), np.sin(g.angles[i])
        dx, dy = x - g.means[i, 0], y - g.means[i, 1]
        u, v = (cos * dx + sin * dy) / g.scales[i, 0], (-sin * dx + cos * dy) / g.scales[i, 1]
        return np.exp(-0.5 * (u * u + v * v))

    expected = [np.sum(weights(sets[0], i) * weights(sets[1], i)) * 0.01 for i in range(n)]
    np.testing.assert_allclose(_overlap(*jax.tree.map(jnp.asarray, sets)), expected, rtol=1e-4)


def test_curvatures_are_those_of_the_image():
    """Oracle: finite differences of half the squared error of one row, moved by a tenth of each of its symbols."""
    symbols, active, places = random_rows(3, 1.0)
    for chosen in np.flatnonzero(np.asarray(active))[::9].tolist():
        alone = jnp.arange(len(active)) == chosen
        own = gaussians_of(symbols, alone, places)
        lattice = _lattice(symbols, shape_of(symbols, places.codes), alone)
        curvature = np.asarray(_curvature(own, lattice, places))[chosen]
        shown = render(own, image_size=LAYOUT.image_size).image
        for symbol in range(8):
            if symbol == 5 and lattice.levels[chosen] < 2:
                continue
            step = jnp.zeros_like(symbols).at[chosen, symbol].set(0.1)
            shape = shape_of(symbols + step, places.codes)._replace(levels=lattice.levels, classes=lattice.classes)
            moved = gaussians_at(symbols + step, shape, places.codes, places.centers, alone)
            difference = render(moved, image_size=LAYOUT.image_size).image - shown
            found = float(jnp.sum(jnp.square(difference))) / 0.1**2
            assert found == pytest.approx(float(curvature[symbol]), rel=0.35, abs=1e-4), (chosen, symbol)


FINE = [np.array([-60, -56, -30, -34, -20, 36]), np.array([-60, -56, -30, -36, -20, 22])]


def test_whole_symbols_are_drawn_as_the_file_will_be():
    """Oracle: the decoder; bins of the scale are finer than what a file can say of it."""
    symbols, active, places = random_rows(3, 0.7)
    codes = LAYOUT.of_stages(np.stack(FINE).astype(np.float32))
    symbols = symbols.at[:, 3].multiply(7).at[:, 4].multiply(9)
    shape = shape_of(symbols, codes)
    stages = rows_at(symbols, shape.levels, active, places, LAYOUT, FINE)
    pairs = zip(stages, LAYOUT.grids, strict=True)
    stored = join([dequantise(rows, columns=grid[1]) for rows, grid in pairs])
    drawn = only_active(gaussians_at(symbols, shape, codes, places.centers, active))
    np.testing.assert_allclose(stored.scales, drawn.scales, rtol=1e-5)
    np.testing.assert_allclose(stored.means, drawn.means, atol=1e-3)
    np.testing.assert_allclose(stored.colors, drawn.colors, rtol=1e-4, atol=1e-6)


def test_angles_are_turned_to_those_of_the_file():
    """Where float32 saw 12 angles and the file has another number: the same direction, and one that can be written."""
    symbols, active, places = random_rows(4, 0.7)
    symbols = symbols.at[:, 4].add(2)
    codes = [np.asarray(c).astype(np.int64) for c in CODES]
    stages = rows_at(symbols.at[:, 5].set(11), jnp.full(len(symbols), 12.0), active, places, LAYOUT, codes)
    for rows in stages:
        levels = geometry_of(rows.symbols, rows.codes).levels
        assert len(np.unique(levels)) > 1 and np.all(rows.symbols[:, 5] < levels)
        apart = np.abs(rows.symbols[:, 5] / levels - 11 / 12)
        assert np.all(np.minimum(apart, 1 - apart) <= 0.5 / levels + 1e-9)
