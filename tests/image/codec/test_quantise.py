"""The quantiser: rounding errors, the canonical form, and the formulas behind the steps."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes2d as scenes
from codec_rows import CODES, GRID, OPTIONS, SIZE, P, quantised, random_gaussians, select
from dense import render_dense
from fuzz import random_rows

from airjax.gaussians import Gaussians2D
from airjax.image.codec import quantise as q
from airjax.image.codec.quantise import (
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
    quantise,
    round_colors,
)

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


# --- canonical form ---------------------------------------------------------------------------------------


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
    for low, high, limit in zip(LEVELS[:-1], LEVELS[1:], q.LEVELS_FROM[1:], strict=True):
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
