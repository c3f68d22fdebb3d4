"""The quantiser: Gaussians of a patch grid to integers, and the integers back to the same float32 numbers everywhere.

A uniform quantiser per channel is not enough: what an error costs depends on the Gaussian. With n = colour * sqrt(a b)
for scales a >= b, the squared error of an image caused by a small change is

  pi |dn|^2,   pi |n|^2 |d ln scale|^2 * 3/4,   pi |n|^2 dx^2 / (2 a^2),   pi |n|^2 dangle^2 (a/b - b/a)^2 / 4,

so colours are stored as n, whose step is the same for all, and the steps of the geometry shrink with |n|: equal slopes
of distortion over rate, the condition of optimal allocation (reverse water-filling). |n| is known to the decoder as a
power of two, the `class` of a row, from its stored colour. Steps are predicted per image and stage, and stored.

Letters: n rows, s symbols of a row (luma, two chroma, log scale, log aspect, angle, offset x, y), P patch size.
Everything that a decoder does is integer arithmetic and single float64 operations of IEEE 754, in a fixed order: no
exponential, no sine, hence the same bits on every machine. docs/format.md repeats these formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from airjax.arrays import AnyArray
from airjax.gaussians import Gaussians2D, take

# Luma and two chroma axes: orthonormal, so that an error of RGB is an error of the same size here.
LUMA_CHROMA = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3.0], [2.0], [6.0]])
SYMBOLS = ("luma", "chroma 1", "chroma 2", "scale", "aspect", "angle", "offset x", "offset y")
WIDTHS = ("luma", "chroma", "offset", "scale", "angle")  # of the bins; the scale also has a predicted centre
NUM_CODES = len(WIDTHS) + 1

MAX_CLASS = 8
# Numbers of angles that are used, and from which ideal number on each of them is.
LEVELS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LEVELS_FROM = (0.0, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0, 56.0, 80.0, 112.0, 160.0, 224.0)
WIDTH_UNITS = 8  # codes of a bin width per octave
CENTER_UNITS = 16  # codes of the scale's centre per octave
SCALE_UNITS = 256  # an octave of a stored scale
CODE_RANGE = (-128, 127)
# A row of smaller amplitude, in bins, is dropped: it would improve the image by less than its bits are worth elsewhere.
DROP_BELOW = 2.5
# Colours are rounded up from this fraction on; a smaller symbol is cheaper, so the middle is not the best place.
_ROUND_UP = 0.6
# Bin widths against that of the luma (colours) and against equal slopes (geometry), before any prediction.
DEFAULT_WIDTHS = (1.0, 1.25, 1.6, 2.0, 1.6)


def round_colors(values: Float[AnyArray, "n 3"], *, xp=jnp) -> Float[AnyArray, "n 3"]:
    """Amplitudes in bins to integers: towards zero below _ROUND_UP; all zero below DROP_BELOW."""
    kept = xp.sum(xp.square(values), axis=1) >= DROP_BELOW**2
    rounded = xp.sign(values) * xp.floor(xp.abs(values) + (1 - _ROUND_UP))
    return xp.where(kept[:, None], rounded, 0.0)


def canonical(gaussians: Gaussians2D, *, xp=jnp) -> tuple[AnyArray, AnyArray, AnyArray]:
    """(a, b, angle in [0, pi)) with a >= b; the same Gaussians."""
    first, second = gaussians.scales[:, 0], gaussians.scales[:, 1]
    swap = second > first
    angle = xp.where(swap, gaussians.angles + math.pi / 2, gaussians.angles)
    return xp.where(swap, second, first), xp.where(swap, first, second), xp.mod(angle, math.pi)


def _powers(units: int) -> np.ndarray:
    """2^(i / units) for i in [0, units), rounded to multiples of 2^-40 (so that no library's last bit matters)."""
    return np.rint(np.exp2(np.arange(units) / units) * 2.0**40) / 2.0**40


_WIDTH_POWERS = _powers(WIDTH_UNITS)
# Stored scales, in SCALE_UNITS: 2^-5 to 2^12 pixels.
SCALE_RANGE = (-5 * SCALE_UNITS, 12 * SCALE_UNITS)


def bin_widths(codes: Int[np.ndarray, " 6"]) -> Float[np.ndarray, " 5"]:
    """The bin widths of integer codes, float64, in the order of WIDTHS."""
    codes = np.asarray(codes, np.int64)[: len(WIDTHS)]
    return np.ldexp(_WIDTH_POWERS[codes % WIDTH_UNITS], codes // WIDTH_UNITS)


def square_root_powers(count: int) -> Float[np.ndarray, " k"]:
    """2^(1 - k / 2) for k in [0, count), float64: limits between sizes that are half an octave apart."""
    k = np.arange(count)
    return np.ldexp(_powers(2)[k % 2], 1 - (k + 1) // 2)


def classes_of(colors: Int[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
    """Octave of the amplitude, 0 to MAX_CLASS, from the stored colours: how often 2 * 4^k <= their squared norm."""
    square = np.sum(np.square(np.minimum(np.abs(colors), 2**20).astype(np.int64)), axis=1)
    return np.searchsorted(2 * 4 ** np.arange(MAX_CLASS), square, side="right")


def _log_scales(symbols, widths, center, classes) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of both scales in whole SCALE_UNITS."""
    step = np.ldexp(widths[3] * SCALE_UNITS, -classes)
    first = np.rint(center * (SCALE_UNITS // CENTER_UNITS) + symbols[:, 3] * step)
    return first.astype(np.int64), np.rint(first - symbols[:, 4] * step).astype(np.int64)


def _all_scale_powers() -> np.ndarray:
    """2^(i / SCALE_UNITS) for i from SCALE_RANGE[0] up to the whole length of that range."""
    units = np.arange(SCALE_RANGE[0], SCALE_RANGE[1] - SCALE_RANGE[0] + 1)
    return np.ldexp(_powers(SCALE_UNITS)[units % SCALE_UNITS], units // SCALE_UNITS)


_SCALE_POWERS = _all_scale_powers()


def _power(units: np.ndarray) -> np.ndarray:
    """2 to a scale, or to the difference of two, in SCALE_UNITS."""
    return _SCALE_POWERS[units - SCALE_RANGE[0]]


class Geometry(NamedTuple):
    """What the stored colours, scales and aspects already say about the rest of a row.

    (n,) each: scales a >= b in pixels, float64; number of angles; step of the offset in pixels.
    """

    a: np.ndarray
    b: np.ndarray
    levels: np.ndarray
    offset_step: np.ndarray


def geometry_of(symbols: Int[np.ndarray, "n s"], codes: Int[np.ndarray, " 6"]) -> Geometry:
    """Scales, number of angles and offset step from the first five symbols; a ValueError for scales out of range."""
    widths, classes = bin_widths(codes), classes_of(symbols[:, :3])
    log_a, log_b = _log_scales(symbols, widths, int(codes[len(WIDTHS)]), classes)
    if len(symbols) and (log_b.min() < SCALE_RANGE[0] or log_a.max() > SCALE_RANGE[1] or symbols[:, 4].min() < 0):
        raise ValueError("a scale is out of range")
    a, b = _power(log_a), _power(log_b)
    ratio = _power(log_a - log_b)
    aspect = np.ldexp((ratio - 1.0 / ratio) * (math.pi / 2), classes) / widths[4]
    levels = np.array(LEVELS)[np.searchsorted(LEVELS_FROM, aspect, side="right") - 1]
    offset_step = np.ldexp(2.0 * widths[2] / np.sqrt(1.0 / (a * a) + 1.0 / (b * b)), -classes)
    return Geometry(a, b, levels, offset_step)


@dataclass(frozen=True, eq=False)
class Rows:
    """The quantised rows of one stage: n increasing patch numbers, row by row of the grid, and the SYMBOLS of each.

    The six codes, integers in CODE_RANGE, are the stage's bin widths and scale centre.
    """

    patch_size: int
    patches: Int[np.ndarray, " n"]
    symbols: Int[np.ndarray, "n 8"]
    codes: Int[np.ndarray, " 6"]


def _centers(patches: np.ndarray, patch_size: int, columns: int) -> np.ndarray:
    return (np.stack([patches % columns, patches // columns], axis=-1) + 0.5) * patch_size


def amplitudes_of(gaussians: Gaussians2D) -> Float[np.ndarray, "n 3"]:
    """Colour times sqrt(a b) in luma and chroma, what is quantised; float64."""
    scales = np.asarray(gaussians.scales, np.float64)
    area = np.sqrt(scales[:, 0] * scales[:, 1])
    return np.asarray(gaussians.colors, np.float64) @ LUMA_CHROMA.T * area[:, None]


def quantise(
    gaussians: Gaussians2D,
    patches: Int[np.ndarray, " n"],
    amplitudes: Float[np.ndarray, "n 3"],
    *,
    codes: Int[np.ndarray, " 6"],
    patch_size: int,
    columns: int,
) -> Rows:
    """Rows of a stage; those whose colour rounds to zero (`round_colors`) are left out.

    The geometry has a row for each of the increasing `patches`, and its colours are not looked at: `amplitudes` are
    those of the colours (`amplitudes_of`). The rest is of the stage and its grid.
    """
    widths, center = bin_widths(codes), int(codes[len(WIDTHS)])
    colors = np.asarray(round_colors(amplitudes / widths[[0, 1, 1]], xp=np)).astype(np.int64)
    kept = np.flatnonzero(np.any(colors != 0, axis=1))
    colors, patches = colors[kept], np.asarray(patches)[kept]
    physical = take(jax.tree.map(np.asarray, gaussians), kept)
    classes = classes_of(colors)
    a, b, angle = canonical(jax.tree.map(lambda leaf: leaf.astype(np.float64), physical), xp=np)
    low, high = (np.exp2(x / SCALE_UNITS) for x in SCALE_RANGE)
    step = np.ldexp(widths[3] * SCALE_UNITS, -classes)

    symbols = np.zeros((len(kept), len(SYMBOLS)), np.int64)
    symbols[:, :3] = colors
    log_a, log_b = (SCALE_UNITS * np.log2(np.clip(x, low, high)) for x in (a, b))
    symbols[:, 3] = np.rint((log_a - center * (SCALE_UNITS // CENTER_UNITS)) / step)
    stored_a, _ = _log_scales(symbols, widths, center, classes)
    symbols[:, 4] = np.rint(np.maximum(stored_a - log_b, 0) / step)
    stored = geometry_of(symbols, codes)
    symbols[:, 5] = np.rint(angle / math.pi * stored.levels).astype(np.int64) % stored.levels
    offset = physical.means.astype(np.float64) - _centers(patches, patch_size, columns)
    symbols[:, 6:] = np.rint(offset / stored.offset_step[:, None])
    return Rows(patch_size, patches, symbols, np.asarray(codes, np.int64))


def dequantise(rows: Rows, *, columns: int) -> Gaussians2D:
    """The Gaussians that stored rows stand for: float32, all active; the same bits on every machine."""
    widths, symbols = bin_widths(rows.codes), rows.symbols
    stored = geometry_of(symbols, rows.codes)
    means = _centers(rows.patches, rows.patch_size, columns) + symbols[:, 6:] * stored.offset_step[:, None]
    normal = symbols[:, :3] * widths[[0, 1, 1]] / np.sqrt(stored.a * stored.b)[:, None]
    # Written out, since a library's matrix product may add in any order.
    m = LUMA_CHROMA
    colors = [normal[:, 0] * m[0, c] + normal[:, 1] * m[1, c] + normal[:, 2] * m[2, c] for c in range(3)]
    angles = symbols[:, 5] * math.pi / stored.levels
    scales, rgb = (np.stack(columns_of, axis=-1) for columns_of in ([stored.a, stored.b], colors))
    means, scales, angles, rgb = (part.astype(np.float32) for part in (means, scales, angles, rgb))
    return Gaussians2D(means, scales, angles, rgb, np.ones(len(symbols), bool))
