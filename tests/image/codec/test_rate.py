"""The estimate of the rate: masses, neighbors, the file itself, and what pushes a row out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from codec_rows import random_gaussians
from scenes2d import empty

from airjax.gaussians import Gaussians2D, join, pad, take
from airjax.image.codec.lattice import Lattice, lattice_of, shape_of, straight_through
from airjax.image.codec.payload import Quantised, attribute_bits
from airjax.image.codec.places import Layout, places_at, places_of
from airjax.image.codec.quantise import amplitudes_of, quantise
from airjax.image.codec.rate import (
    MASK_BITS,
    _around,
    estimated_bits,
    existence,
    laplace_bits,
    row_bits,
    spreads_of,
)

LAYOUT = Layout((120, 200), (16, 8, 8))  # whose first stage is the grid of `codec_rows`
CODES = ((-44, -40, 4, 8, 6, 36), (-44, -42, 4, 6, 6, 24), (-46, -40, 6, 8, 4, 20))


def codes_of_stages() -> list[jax.Array]:
    return [jnp.asarray(codes, jnp.float32) for codes in CODES]


def random_set() -> Gaussians2D:
    """Three stages in the slots of the layout: rows of all magnitudes, one in three stages' slots not in use."""
    rng = np.random.default_rng(0)
    parts = [random_gaussians(seed) for seed in range(9)]
    union = take(join(parts), slice(LAYOUT.num_slots))
    away = rng.normal(0, 3, union.means.shape).astype(np.float32)
    return replace(union, means=np.asarray(LAYOUT.centers()) + away, active=rng.random(LAYOUT.num_slots) < 0.8)


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.5, 1.0, 3.0, 50.0])
def test_laplace_masses_sum_to_one(spread):
    """Oracle: the bins of all integers cover the line; those beyond 40 spreads hold e^-40 of it."""
    far = int(np.ceil(40 * spread)) + 2
    masses = 2.0 ** -np.asarray(laplace_bits(jnp.arange(-far, far + 1, dtype=jnp.float32), jnp.float32(spread)), float)
    np.testing.assert_allclose(masses.sum(), 1, rtol=1e-5)  # float32 logarithms


@pytest.mark.parametrize("spread", [0.1, 0.5, 3.0, 50.0])
def test_laplace_bits_against_the_closed_form(spread):
    """Oracle: the difference of the distribution function in float64, and of its tails above 1/2."""

    def below(x):
        return np.where(x < 0, 0.5 * np.exp(np.minimum(x, 0) / spread), 1 - 0.5 * np.exp(-np.maximum(x, 0) / spread))

    values = np.concatenate([np.linspace(-0.5, 0.5, 21), np.linspace(-6, 6, 25) * spread])
    low = -np.abs(values)  # the same bin on the side where nothing cancels
    want = -np.log2(below(low + 0.5) - below(low - 0.5))
    got = laplace_bits(jnp.asarray(values, jnp.float32), jnp.float32(spread))
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)  # float32


def test_laplace_bits_are_continuous_and_their_gradients_finite():
    """Oracle: both formulas at |v| = 1/2, a float32 step apart; both slopes to the left and right of it agree."""
    for spread in (0.05, 0.5, 3.0, 50.0):
        edge = np.float32(0.5)
        inside, outside = np.nextafter(edge, np.float32([0, 1]))
        values = jnp.asarray([inside, edge, outside])
        bits = laplace_bits(values, jnp.float32(spread))
        np.testing.assert_allclose(bits, bits[0], rtol=1e-5, atol=1e-5)
    grad = jax.vmap(jax.grad(laplace_bits, (0, 1)))
    values = jnp.asarray([0.0, 1e-8, 0.5, 0.500001, 1.0, -1e3, 6e4], jnp.float32)
    for spread in (0.05, 0.5, 1e4):
        for slope in grad(values, jnp.full_like(values, spread)):
            assert np.isfinite(slope).all()


def test_neighbors_are_those_of_the_grid():
    """Oracle: a loop over the eight patches around each, of every stage; rows in any order, one of them nowhere."""
    rng = np.random.default_rng(1)
    patches = [rng.permutation(size)[: size // 2] for size in np.diff(LAYOUT.ends)]
    places = places_at(patches, [*map(np.array, CODES)], LAYOUT)
    slots = places.slots  # those of the last rows are nowhere
    assert slots[-1] == LAYOUT.num_slots > slots[0]
    values = rng.normal(size=(len(slots), 2)).astype(np.float32)
    where = {int(slot): row for row, slot in enumerate(slots) if slot < LAYOUT.num_slots}
    expected = np.zeros_like(values)
    for row, slot in enumerate(slots[slots < LAYOUT.num_slots].tolist()):
        stage = np.searchsorted(LAYOUT.ends, slot, side="right") - 1
        rows, columns = LAYOUT.grids[stage]
        y, x = divmod(slot - LAYOUT.ends[stage], columns)
        for i in range(max(0, y - 1), min(rows, y + 2)):
            for j in range(max(0, x - 1), min(columns, x + 2)):
                other = where.get(LAYOUT.ends[stage] + i * columns + j)
                if other is not None and (i, j) != (y, x):
                    expected[row] += values[other]
    found = np.asarray(_around(jnp.asarray(values), places))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_estimate_is_about_what_the_file_takes():
    """Oracle: the file's own tables, which start without knowing anything: they need up to a sixth more."""
    gaussians, stages, rows = random_set(), [], []
    for start, end, codes, size, grid in zip(
        LAYOUT.ends, LAYOUT.ends[1:], CODES, LAYOUT.patch_sizes, LAYOUT.grids, strict=False
    ):
        patches = np.flatnonzero(gaussians.active[start:end])
        part = take(gaussians, start + patches)
        rows.append(
            quantise(part, patches, amplitudes_of(part), codes=np.array(codes), patch_size=size, columns=grid[1])
        )
        stages.append(rows[-1].patches)
    taken = sum(bits for kind, bits in attribute_bits(Quantised(tuple(rows), LAYOUT.image_size), 1).items())
    symbols = np.concatenate([part.symbols for part in rows]).astype(np.float32)
    places, count = places_at(stages, [*map(np.array, CODES)], LAYOUT), len(symbols)
    symbols = np.pad(symbols, ((0, len(places.slots) - count), (0, 0)))
    shape = shape_of(jnp.asarray(symbols), places.codes)
    steps = shape.scale_step, shape.offset_step
    lattice = Lattice(
        jnp.asarray(symbols), shape.classes, shape.levels, *steps, shape.levels - 1, places.slots < LAYOUT.num_slots
    )
    bits = row_bits(lattice, spreads_of(lattice, places), places)
    assert count > 300
    assert 0.85 * taken < float(jnp.sum(bits)) < 1.02 * taken


def test_order_and_rows_that_are_nowhere_change_nothing():
    """Property: bits of permuted rows, and with unused rows added, are the same."""
    gaussians, places = jax.tree.map(jnp.asarray, random_set()), places_of(codes_of_stages(), LAYOUT)
    bits = jax.jit(lambda g, p: estimated_bits(lattice_of(g, p.centers, p.codes), p))
    expected = float(bits(gaussians, places))
    n = LAYOUT.num_slots
    order = np.random.default_rng(2).permutation(n)
    turned, moved = (jax.tree.map(lambda leaf: leaf[order], tree) for tree in (gaussians, places))
    row_now = np.append(np.argsort(order), n).astype(np.int32)  # the last one: none stays none
    assert float(bits(turned, moved._replace(around=row_now[moved.around]))) == pytest.approx(expected, rel=1e-5)
    more = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:5]]), places)
    nowhere = jnp.where(more.around == n, n + 5, more.around).at[-5:].set(n + 5)
    more = more._replace(slots=more.slots.at[-5:].set(n), around=nowhere)
    padded = jax.tree.map(jnp.asarray, pad(jax.tree.map(np.asarray, gaussians), n + 5))
    assert float(bits(padded, more)) == pytest.approx(expected, rel=1e-5)


def test_weak_rows_are_pushed_out_with_all_their_bits():
    """Oracle: existence by hand; the slope of the bits of a weak row by its amplitude is that of existence at least."""
    n = jnp.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.0, 30.0, 40.0]])
    np.testing.assert_allclose(existence(n), [0, 1 - np.exp(-0.5), 1], atol=1e-6)
    gaussians, places = jax.tree.map(jnp.asarray, random_set()), places_of(codes_of_stages(), LAYOUT)

    def bits(gain):
        scaled = gaussians.with_colors(gaussians.colors * gain[:, None])
        return estimated_bits(lattice_of(scaled, places.centers, places.codes), places)

    lattice = lattice_of(gaussians, places.centers, places.codes)
    slope = np.asarray(jax.jit(jax.grad(bits))(jnp.ones(LAYOUT.num_slots)))
    size = np.linalg.norm(np.asarray(lattice.values[:, :3]), axis=1)
    weak = np.asarray(gaussians.active) & (size > 0.5) & (size < 2)
    assert weak.sum() > 20 and np.all(slope[weak] > MASK_BITS * (size**2 / 1.5**2 * np.exp(-(size**2) / 4.5))[weak])
    assert not slope[~np.asarray(gaussians.active)].any()


@pytest.mark.parametrize("held", [{}, dict.fromkeys(("means", "scales", "angles", "colors"), np.nan), {"means": 1e30}])
def test_nothing_used_costs_nothing(held):
    """Oracle: 0 bits; every gradient is finite, whatever the slots hold."""
    slots = empty(LAYOUT.num_slots)
    slots = replace(slots, **{name: jnp.full_like(getattr(slots, name), value) for name, value in held.items()})

    def bits(gaussians, codes):
        places = places_of(codes, LAYOUT)
        _, lattice = straight_through(gaussians, places.centers, places.codes)
        return estimated_bits(lattice, places)

    value, gradients = jax.jit(jax.value_and_grad(bits, (0, 1), allow_int=True))(slots, codes_of_stages())
    assert value == 0
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == jax.dtypes.float0 or np.isfinite(leaf).all()
