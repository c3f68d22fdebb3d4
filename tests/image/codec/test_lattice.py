"""The quantiser inside JAX: against the exact one, its gradients, and codes that networks predict."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes2d as scenes
from codec_rows import CODES, GRID, P, quantised, random_gaussians, select

from airjax.gaussians import Gaussians2D
from airjax.image.codec import quantise as q
from airjax.image.codec.lattice import gaussians_at, lattice_of, predicted_codes, shape_of, straight_through, symbols_of
from airjax.image.codec.quantise import CODE_RANGE, DROP_BELOW, dequantise, geometry_of, round_colors
from airjax.raster.tiles import patch_centers


def rows_of(codes) -> jax.Array:
    """(n, 6): the same codes for every patch."""
    return jnp.broadcast_to(jnp.asarray(codes, jnp.float32), (GRID[0] * GRID[1], 6))


_straight_through = jax.jit(straight_through)


def _near_tie(lattice) -> np.ndarray:
    """Rows in which a number is so close to a decision that float32, or an unrounded scale, may take the other side.

    `straight_through` does not round scales to 1/256 octave. So the aspect is off by up to 1/512 octave, what is
    divided by a scale by up to 2^(1/256) - 1 < 0.3%, and the ideal number of angles, which goes with the ratio, by 1%.
    """
    v = np.asarray(lattice.values, np.float64)
    margin = np.full(v.shape, 1e-3)
    margin[:, 4] += 1 / 512 / np.asarray(lattice.scale_step)
    margin[:, 6:] += 0.003 * np.abs(v[:, 6:])
    middle = np.where(np.arange(8) < 3, 0.6, 0.5)
    near = np.abs(np.abs(v) % 1 - middle) <= margin
    norm = np.linalg.norm(v[:, :3], axis=1)
    aspect, limits = np.asarray(lattice.aspect, np.float64), np.array(q.LEVELS_FROM[1:])
    between = (np.abs(aspect[:, None] / limits - 1) < 0.02).any(axis=1)
    return near.any(axis=1) | (np.abs(norm - DROP_BELOW) < 1e-3) | between


@pytest.mark.parametrize("codes", [CODES, [-40, -40, -4, 4, 0, 30], [-16, -8, 8, 16, 12, 40]])
def test_straight_through_is_quantise_and_dequantise(codes):
    """Oracle: the exact pair, for all rows but near ties (see `_near_tie`).

    Then integers agree, and floats within the 0.3% by which the rounding of scales to 1/256 octave moves them.
    """
    codes, compared = np.asarray(codes), 0
    centers = patch_centers(GRID, P)
    for seed in range(12):
        gaussians = random_gaussians(seed)
        drawn, lattice = _straight_through(gaussians, centers, rows_of(codes))
        near, used = _near_tie(lattice), np.asarray(lattice.used)
        rows = quantised(gaussians, codes)
        kept = np.isin(np.arange(len(used)), rows.patches)
        np.testing.assert_array_equal(used[~near], kept[~near])
        assert not np.asarray(drawn.colors)[~used].any()

        both = ~near & kept
        index = np.searchsorted(rows.patches, np.flatnonzero(both))
        symbols, stored = rows.symbols[index], select(dequantise(rows, columns=GRID[1]), index)
        values = np.asarray(lattice.values)[both]
        np.testing.assert_array_equal(round_colors(values[:, :3], xp=np), symbols[:, :3])
        np.testing.assert_array_equal(np.rint(values[:, [3, 4, 6, 7]]), symbols[:, [3, 4, 6, 7]])
        long = symbols[:, 4] > 0  # round ones have a test of their own
        levels = np.asarray(lattice.levels)[both][long]
        np.testing.assert_array_equal(levels, geometry_of(rows.symbols, codes).levels[index][long])
        np.testing.assert_array_equal(np.rint(values[long, 5]) % levels, symbols[long, 5])

        np.testing.assert_allclose(np.asarray(drawn.scales)[both], stored.scales, rtol=0.003)
        np.testing.assert_allclose(np.asarray(drawn.colors)[both], stored.colors, rtol=0.003, atol=1e-6)
        turn = ((np.asarray(drawn.angles)[both] - stored.angles + 1) % math.pi - 1)[long]
        np.testing.assert_allclose(turn, 0, atol=1e-5)
        shift = np.abs(stored.means - np.asarray(centers)[both])
        assert np.all(np.abs(np.asarray(drawn.means)[both] - stored.means) <= 0.003 * shift + 1e-4)
        compared += both.sum()
    assert compared > 100  # of some 700 that are used: most have a number near a tie


def test_round_gaussians_have_one_angle():
    """Oracle: the definition; a = b has nothing to turn, even where a / b is a rounding below 1."""
    for seed in range(12):
        _, lattice = _straight_through(random_gaussians(seed), patch_centers(GRID, P), rows_of(CODES))
        assert np.all(np.asarray(lattice.levels)[np.rint(lattice.values[:, 4]) == 0] == 1)


def test_gradients_are_those_of_the_identity():
    """Oracle: the random cotangent, for means of all rows; for colours times sqrt(a b) before over after rounding.

    Dropped rows too get the gradient of their colour.
    """
    gaussians, centers = random_gaussians(1), patch_centers(GRID, P)
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(len(centers), k)).astype(np.float32) for name, k in (("means", 2), ("colors", 3))}

    def loss(fields):
        drawn, lattice = straight_through(replace(gaussians, **fields), centers, rows_of(CODES))
        return sum(jnp.sum(getattr(drawn, name) * w) for name, w in weights.items()), (drawn, lattice)

    fields = {name: jnp.asarray(getattr(gaussians, name)) for name in weights}
    gradient, (drawn, lattice) = jax.jit(jax.grad(loss, has_aux=True))(fields)
    assert not np.asarray(lattice.used).all()
    np.testing.assert_allclose(gradient["means"], weights["means"], rtol=1e-5)
    ratio = np.sqrt(np.prod(gaussians.scales, axis=1) / np.prod(np.asarray(drawn.scales), axis=1))
    np.testing.assert_allclose(gradient["colors"], weights["colors"] * ratio[:, None], rtol=1e-4, atol=1e-5)


def _gradients(gaussians):
    centers = patch_centers(GRID, P)
    active = jnp.asarray(gaussians.active)

    def loss(fields, codes):
        drawn, lattice = straight_through(Gaussians2D(*fields, active), centers, rows_of(codes))
        parts = (drawn.means, drawn.scales, drawn.angles[:, None], drawn.colors, lattice.values)
        return sum(jnp.sum(jnp.where(active[:, None], jnp.sin(part), 0)) for part in parts)

    fields = tuple(jnp.asarray(getattr(gaussians, name)) for name in scenes.FIELDS)
    return jax.jit(jax.grad(loss, (0, 1)))(fields, jnp.asarray(CODES, jnp.float32))


@pytest.mark.parametrize("held", [0.0, 1e30, "nan"])
def test_inactive_rows_have_no_gradient(held):
    """Property: zero for the inactive rows, and for the codes the same as without these rows."""
    gaussians = random_gaussians(2)
    active = np.arange(len(gaussians.means)) % 3 > 0
    value = np.float32(held)

    def put(leaf):
        return np.where(active.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, value)

    fields = [put(getattr(gaussians, name)) for name in scenes.FIELDS]
    got, codes = _gradients(Gaussians2D(*fields, active))
    _, expected = _gradients(replace(gaussians, active=active))
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-4)
    for leaf in got:
        assert np.isfinite(leaf).all()
        assert not np.asarray(leaf)[~active].any()


def test_needles_and_points_have_finite_gradients():
    """Property: scales of 2^-5 to 2^12 pixels, colours of zero and of 1e4, means far outside."""
    n = GRID[0] * GRID[1]
    rng = np.random.default_rng(0)
    scales = 2.0 ** rng.choice([-5, -4.9, 0, 11.9, 12], (n, 2))
    colors = rng.choice([0, 1e-6, 1, -1e4], (n, 3))
    gaussians = Gaussians2D(
        rng.choice([-1e5, 0, 100], (n, 2)).astype(np.float32),
        scales.astype(np.float32),
        rng.uniform(-7, 7, n).astype(np.float32),
        colors.astype(np.float32),
        np.ones(n, bool),
    )
    fields, codes = _gradients(gaussians)
    assert all(np.isfinite(leaf).all() for leaf in (*fields, codes))


def test_a_lattice_rounds_nothing():
    """Oracle: steps of the quantiser's own formulas; the values times the steps are the set."""
    gaussians, centers, codes = random_gaussians(3), np.asarray(patch_centers(GRID, P)), rows_of(CODES)
    lattice = jax.tree.map(np.asarray, jax.jit(lattice_of)(gaussians, centers, codes))
    values, (a, b, angle) = lattice.values, q.canonical(gaussians, xp=np)
    np.testing.assert_allclose(centers + values[:, 6:] * lattice.offset_step[:, None], gaussians.means, atol=1e-4)
    log_a = CODES[5] / q.CENTER_UNITS + values[:, 3] * lattice.scale_step
    np.testing.assert_allclose(log_a, np.log2(a), atol=1e-5)
    np.testing.assert_allclose(log_a - values[:, 4] * lattice.scale_step, np.log2(b), atol=1e-5)
    np.testing.assert_allclose(values[:, 5] / lattice.levels * np.pi, angle, atol=1e-5)
    n = q.amplitudes_of(gaussians) / q.bin_widths(CODES)[[0, 1, 1]]
    np.testing.assert_allclose(values[:, :3], n, rtol=1e-4, atol=1e-5)


def test_whole_symbols_are_found_again():
    """Oracle: the exact quantiser; its integers stand for a set that has the same ones."""
    rows = quantised(random_gaussians(4))
    count = len(rows.patches)
    centers, codes = np.asarray(patch_centers(GRID, P))[rows.patches], rows_of(CODES)[:count]
    symbols = jnp.asarray(rows.symbols, jnp.float32)
    shape = shape_of(symbols, codes)
    exact, stored = geometry_of(rows.symbols, CODES), dequantise(rows, columns=GRID[1])
    np.testing.assert_array_equal(shape.levels, exact.levels)
    np.testing.assert_allclose(shape.offset_step, exact.offset_step, rtol=1e-5)
    gaussians = gaussians_at(symbols, shape, codes, centers, jnp.ones(count, bool))
    for name in ("means", "scales", "colors"):
        np.testing.assert_allclose(getattr(gaussians, name), getattr(stored, name), rtol=1e-5, atol=1e-5)
    again, _ = jax.jit(symbols_of)(gaussians, symbols[:, :3], centers, codes)
    np.testing.assert_array_equal(again, rows.symbols)


def test_predicted_codes_of_no_votes_are_the_defaults():
    """Oracle: 8 log2 of the default widths, 16 log2 of 0.3 P, on paper; an octave of colour step is 8 codes."""
    codes = predicted_codes(jnp.zeros(6), jnp.float32(1), patch_size=16)
    np.testing.assert_array_equal(codes, [0, 3, 5, 8, 5, 36])
    codes = predicted_codes(jnp.zeros(6), jnp.float32(2**-5), patch_size=8)
    np.testing.assert_array_equal(codes, [-40, -37, 5, 8, 5, 20])


def test_predicted_codes_stay_in_range():
    """Property: whole numbers of a signed byte, at most two octaves from the defaults; gradients are finite."""
    base = predicted_codes(jnp.zeros(6), jnp.float32(1), patch_size=16)
    for sign in (-1, 1):
        votes = jnp.full(6, sign * 1e6)
        shift = np.asarray(predicted_codes(votes, jnp.float32(1), patch_size=16) - base)
        np.testing.assert_allclose(shift, sign * np.array([16, 16, 16, 16, 16, 32]), atol=1)
        for step in (1e-30, 1e-9, 1e9, 1e30):
            codes = np.asarray(predicted_codes(votes, jnp.float32(step), patch_size=64))
            assert codes.min() >= CODE_RANGE[0] and codes.max() <= CODE_RANGE[1]
            np.testing.assert_array_equal(codes, np.rint(codes))
            slope = jax.grad(lambda v, s=step: predicted_codes(v, jnp.float32(s), patch_size=64).sum())(votes)
            assert np.isfinite(slope).all()


def test_predicted_codes_pass_gradients_straight_through():
    """Oracle: the derivative of 2 tanh, times 8 codes an octave for widths and 16 for the centre."""
    votes = jnp.linspace(-0.5, 0.5, 6)
    slope = jax.grad(lambda v: predicted_codes(v, jnp.float32(0.1), patch_size=16).sum())(votes)
    units = np.array([8, 8, 8, 8, 8, 16])
    np.testing.assert_allclose(slope, 2 * units * (1 - np.tanh(votes) ** 2), rtol=1e-5)
