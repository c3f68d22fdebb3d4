"""The quantiser: rounding errors, the straight-through version against the exact one, the formulas behind the steps."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes2d as scenes
from dense import render_dense
from fuzz import random_rows

from airjax.gaussians import Gaussians2D
from airjax.image.codec import quantise as q
from airjax.image.codec.quantise import (
    CODE_RANGE,
    DROP_BELOW,
    LEVELS,
    LUMA_CHROMA,
    SCALE_UNITS,
    amplitudes_of,
    bin_widths,
    canonical,
    classes_of,
    dequantise,
    geometry_of,
    predicted_codes,
    quantise,
    round_colors,
    straight_through,
)
from airjax.raster.tiles import patch_centers, patch_grid

P = 16
SIZE = (120, 200)
GRID = patch_grid(SIZE, P)
OPTIONS = {"patch_size": P, "columns": GRID[1]}
CODES = np.array([-24, -20, 4, 8, 6, 36])


def random_gaussians(seed: int) -> Gaussians2D:
    """One Gaussian per patch as networks give them: scales of 0.5 to 12 pixels, colours of all magnitudes up to 1."""
    rng, n = np.random.default_rng(seed), GRID[0] * GRID[1]
    magnitude = 10 ** rng.uniform(-3, 0, (n, 1))
    return Gaussians2D(
        (np.asarray(patch_centers(GRID, P)) + rng.uniform(-P, P, (n, 2))).astype(np.float32),
        np.exp(rng.uniform(np.log(0.5), np.log(12), (n, 2))).astype(np.float32),
        rng.uniform(-7, 7, n).astype(np.float32),
        (magnitude * rng.uniform(-1, 1, (n, 3))).astype(np.float32),
        np.ones(n, bool),
    )


def quantised(gaussians: Gaussians2D, codes=CODES):
    patches = np.arange(len(gaussians.means))
    return quantise(gaussians, patches, amplitudes_of(gaussians), codes=codes, **OPTIONS)


def select(gaussians: Gaussians2D, index) -> Gaussians2D:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], gaussians)


# --- rounding --------------------------------------------------------------------------------------------


def test_round_colors_by_hand():
    """Oracle: worked out by hand: up from 0.6 on, either sign; all zero where the norm is below DROP_BELOW."""
    values = [[3.59, -3.59, 3.61], [-0.61, 0.59, 5.0], [DROP_BELOW - 1e-3, 0, 0], [0, -DROP_BELOW, 0], [0, 0, 0]]
    edge = -math.floor(DROP_BELOW + 0.4)
    expected = [[3, -3, 4], [-1, 0, 5], [0, 0, 0], [0, edge, 0], [0, 0, 0]]
    for xp in (np, jnp):
        np.testing.assert_array_equal(round_colors(xp.asarray(np.array(values, np.float32)), xp=xp), expected)


@pytest.mark.parametrize(
    "codes", [CODES, [-40, -40, -16, -8, -8, 20], [-8, 0, 16, 20, 20, 50], [-60, -60, -30, -40, -30, 36]]
)
def test_rounding_errors_are_bounded_by_the_bins(codes):
    """Oracle: closed form. Half a bin, 0.6 of one for colours; logarithms of scales are rounded to 1/256 octave on top.

    Scales are compared in octaves, angles modulo pi, means up to float32 rounding.
    """
    codes = np.asarray(codes)
    for seed in range(3):
        gaussians = random_gaussians(seed)
        rows = quantised(gaussians, codes)
        source, stored = select(gaussians, rows.patches), dequantise(rows, columns=GRID[1])
        geometry, widths = geometry_of(rows.symbols, codes), bin_widths(codes)
        n = amplitudes_of(source) / widths[[0, 1, 1]]
        assert np.all(np.abs(n - rows.symbols[:, :3]) <= 0.6 + 1e-9)
        np.testing.assert_allclose(amplitudes_of(stored) / widths[[0, 1, 1]], rows.symbols[:, :3], rtol=1e-5, atol=1e-5)

        a, b, angle = canonical(jax.tree.map(lambda x: x.astype(np.float64), source), xp=np)
        bound = 0.5 * np.ldexp(widths[3], -classes_of(rows.symbols[:, :3])) + 0.5 / SCALE_UNITS + 1e-6
        assert np.all(np.abs(np.log2(stored.scales[:, 0] / a)) <= bound)
        assert np.all(np.abs(np.log2(stored.scales[:, 1] / b)) <= bound)
        turn = np.abs((stored.angles - angle + math.pi / 2) % math.pi - math.pi / 2)
        assert np.all(turn <= math.pi / geometry.levels / 2 + 1e-6)
        error = np.abs(stored.means - source.means).max(axis=1)
        assert np.all(error <= geometry.offset_step / 2 + 2e-5)  # 2^-16, the float32 spacing below 256


def test_dropped_rows_are_the_faint_ones():
    """Oracle: the norm of the amplitude in bins against DROP_BELOW."""
    gaussians = random_gaussians(0)
    norm = np.linalg.norm(amplitudes_of(gaussians) / bin_widths(CODES)[[0, 1, 1]], axis=1)
    rows = quantised(gaussians)
    assert 0 < len(rows.patches) < len(norm)
    np.testing.assert_array_equal(rows.patches, np.flatnonzero(norm >= DROP_BELOW))
    assert np.any(rows.symbols[:, :3], axis=1).all()


def _stable(rows) -> np.ndarray:
    """Rows bright enough to be kept again, whose steps of scale and offset are above those of what stores them."""
    geometry, widths = geometry_of(rows.symbols, rows.codes), bin_widths(rows.codes)
    bright = np.sum(np.square(rows.symbols[:, :3]), axis=1) >= DROP_BELOW**2 + 1e-3
    step = np.ldexp(widths[3] * SCALE_UNITS, -classes_of(rows.symbols[:, :3]))
    means = np.abs(dequantise(rows, columns=GRID[1]).means).max(axis=1)
    return bright & (step > 1) & (geometry.offset_step > 4 * np.spacing(means))


def test_quantising_again_gives_the_same_symbols():
    """Oracle: the symbols. It holds exactly with three exceptions, which are left out here:

    rounding may push a colour below DROP_BELOW, so that it is dropped the second time; scale steps below 1/256 octave,
    the unit of a stored scale, have several symbols for one scale; offset steps below float32's resolution likewise.
    """
    count = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        codes = [*rng.integers(-24, 25, 5), 36]
        made = [quantised(random_gaussians(seed)), random_rows(rng, SIZE, P, codes=codes, largest=200)]
        for rows in made:
            keep = _stable(rows)
            rows = replace(rows, patches=rows.patches[keep], symbols=rows.symbols[keep])
            stored = dequantise(rows, columns=GRID[1])
            again = quantise(stored, rows.patches, amplitudes_of(stored), codes=rows.codes, **OPTIONS)
            np.testing.assert_array_equal(again.patches, rows.patches)
            np.testing.assert_array_equal(again.symbols, rows.symbols)
            count += len(again.patches)
    assert count > 300


def test_quantising_again_gives_the_same_scales_even_below_their_unit():
    """Oracle: the Gaussians. With scale steps under 1/256 octave symbols may change, what they stand for does not."""
    rng, differ = np.random.default_rng(0), 0
    for code in (-72, -69, -66):
        rows = random_rows(rng, SIZE, P, fill=1, codes=[0, 0, 0, code, 0, 36], largest=200)
        rows.symbols[:, 6:] = 0
        keep = np.sum(np.square(rows.symbols[:, :3]), axis=1) >= DROP_BELOW**2 + 1e-3
        rows = replace(rows, patches=rows.patches[keep], symbols=rows.symbols[keep])
        stored = dequantise(rows, columns=GRID[1])
        again = quantise(stored, rows.patches, amplitudes_of(stored), codes=rows.codes, **OPTIONS)
        differ += np.sum(again.symbols != rows.symbols)
        np.testing.assert_array_equal(dequantise(again, columns=GRID[1]).scales, stored.scales)
    assert differ > 0


def test_classes_by_hand():
    """Oracle: limits 2, 8, 32, ... of the squared norm."""
    colors = [[0, 0, 0], [1, 0, 0], [1, -1, 0], [2, 1, 1], [2, 2, 0], [181, 0, 0], [182, 0, 0], [-(2**40), 0, 0]]
    np.testing.assert_array_equal(classes_of(np.array(colors)), [0, 0, 1, 1, 2, 7, 8, 8])


# --- straight through ------------------------------------------------------------------------------------


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
    aspect, limits = np.asarray(lattice.aspect, np.float64), np.array(q._LEVELS_FROM[1:])
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
        drawn, lattice = _straight_through(gaussians, centers, jnp.asarray(codes, jnp.float32))
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
        _, lattice = _straight_through(random_gaussians(seed), patch_centers(GRID, P), jnp.asarray(CODES, jnp.float32))
        assert np.all(np.asarray(lattice.levels)[np.rint(lattice.values[:, 4]) == 0] == 1)


def test_gradients_are_those_of_the_identity():
    """Oracle: the random cotangent, for means of all rows; for colours times sqrt(a b) before over after rounding.

    Dropped rows too get the gradient of their colour.
    """
    gaussians, centers = random_gaussians(1), patch_centers(GRID, P)
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(len(centers), k)).astype(np.float32) for name, k in (("means", 2), ("colors", 3))}

    def loss(fields):
        drawn, lattice = straight_through(replace(gaussians, **fields), centers, jnp.asarray(CODES, jnp.float32))
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
        drawn, lattice = straight_through(Gaussians2D(*fields, active), centers, codes)
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


# --- codes and canonical form ----------------------------------------------------------------------------


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


def test_canonical_keeps_the_image():
    """Oracle: the dense renderer; float32 angles up to 9 are off by 1e-6, times a slope < 30."""
    gaussians = scenes.random_set(3, 60, (40, 50), scales=(0.5, 8))
    a, b, angle = canonical(gaussians)
    assert np.all(a >= b) and np.all((angle >= 0) & (angle <= np.float32(math.pi)))
    same = Gaussians2D(gaussians.means, jnp.stack([a, b], axis=-1), angle, gaussians.colors, gaussians.active)
    options = {"image_size": (40, 50), "smooth_cutoff": True}
    np.testing.assert_allclose(render_dense(same, **options), render_dense(gaussians, **options), atol=1e-4)


def test_luma_chroma_is_a_rotation():
    """Oracle: orthonormal rows."""
    np.testing.assert_allclose(LUMA_CHROMA @ LUMA_CHROMA.T, np.eye(3), atol=1e-15)


def test_level_table_is_the_nearest_number():
    """Property: limits lie halfway between neighbouring numbers, where both are equally far."""
    for low, high, limit in zip(LEVELS[:-1], LEVELS[1:], q._LEVELS_FROM[1:], strict=True):
        assert limit == (low + high) / 2


# --- why these steps -------------------------------------------------------------------------------------

# a, b, angle and colour of an isolated Gaussian on 128 x 128 pixels; the means of the pixels are far finer than it.
A, B, ANGLE, COLOR = 7.0, 3.5, 0.4, (0.5, -0.3, 0.8)


def _one(shift=0.0, log_a=0.0, turn=0.0, color=0.0):
    along = np.array([math.cos(ANGLE), math.sin(ANGLE)])
    colors = np.array(COLOR) + np.array([color, 0, 0])
    means, scales = np.array([64.3, 63.8]) + shift * along, [[A * math.exp(log_a), B]]
    return scenes.make(means, scales, ANGLE + turn, [colors], None, float)


@pytest.mark.parametrize("change", ["color", "log_a", "shift", "turn"])
def test_distortion_formulas(change):
    """Oracle: central differences of the dense renderer in float64, of an isolated Gaussian; the sum over all pixels.

    The formulas integrate to infinity; the cut-off at 1/255 leaves out under 1% of the squares. Step 1e-3, so that the
    next term of the expansion is below 1e-5.
    """
    norm = np.sum(np.square(COLOR)) * A * B  # |n|^2
    expected = {
        "color": math.pi * A * B,
        "log_a": math.pi * norm * 3 / 4,
        "shift": math.pi * norm / (2 * A**2),
        "turn": math.pi * norm * (A / B - B / A) ** 2 / 4,
    }
    with jax.enable_x64(True):
        options = {"image_size": (128, 128), "smooth_cutoff": True}
        low, high = (np.asarray(render_dense(_one(**{change: step}), **options)) for step in (-1e-3, 1e-3))
    slope = (high - low) / 2e-3
    np.testing.assert_allclose(np.sum(np.square(slope)), expected[change], rtol=0.03)
