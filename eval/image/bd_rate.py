"""Bjontegaard's delta rate: how much larger one codec's files are than another's at equal PSNR, on average.

With r(p) the logarithm of the rate of a codec at PSNR p, drawn through its measured points by PCHIP, the result is
exp(mean of r_other(p) - r_anchor(p) over an interval of p) - 1. Reference: G. Bjontegaard, VCEG-M33 (2001), who drew
one cubic polynomial; piecewise cubics do not swing between the points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class BDRate(NamedTuple):
    """Fields:
    percent: size at equal PSNR against the anchor, in per cent: -20 is a fifth smaller; None where nothing overlaps.
    psnr_range: the interval in dB that was averaged over; None likewise.
    """

    percent: float | None
    psnr_range: tuple[float, float] | None


def bd_rate(
    anchor_bpp: np.ndarray,
    anchor_psnr: np.ndarray,
    bpp: np.ndarray,
    psnr: np.ndarray,
    *,
    bpp_range: tuple[float, float] = (0.2, 1.0),
) -> BDRate:
    """Delta rate of a codec against an anchor, over the PSNRs that both reach and the anchor has in `bpp_range`.

    Points with a rate or a PSNR that is not finite, and points that cost more than another without being better, are
    left out. A curve of fewer than two points overlaps with nothing. Nothing is extrapolated: where the anchor does not
    fill `bpp_range`, the interval is smaller.

    Args:
      anchor_bpp, anchor_psnr: (k,) points of the anchor in any order, bits per pixel above 0 and dB.
      bpp, psnr: (m,) points of the other codec.
      bpp_range: of the anchor, bits per pixel.
    """
    anchor, other = _curve(anchor_bpp, anchor_psnr), _curve(bpp, psnr)
    if min(len(anchor[0]), len(other[0])) < 2:
        return BDRate(None, None)
    log_range = np.clip(np.log(bpp_range), anchor[1][0], anchor[1][-1])
    start, end = pchip(anchor[1], anchor[0], log_range)
    low, high = max(start, other[0][0]), min(end, other[0][-1])
    if low >= high:
        return BDRate(None, None)
    difference = (pchip_integral(*other, low, high) - pchip_integral(*anchor, low, high)) / (high - low)
    return BDRate(float(100 * np.expm1(difference)), (float(low), float(high)))


def _curve(bpp, psnr) -> tuple[np.ndarray, np.ndarray]:
    """(PSNR, log rate) by rising rate, both strictly rising."""
    points = np.stack([np.asarray(psnr, float), np.log(np.asarray(bpp, float))])
    points = points[:, np.isfinite(points).all(axis=0)]
    points = points[:, np.lexsort((-points[0], points[1]))]  # of equal rates, the better one comes first
    best = np.concatenate([[-np.inf], np.maximum.accumulate(points[0])[:-1]]) if points.size else points[0]
    return tuple(points[:, points[0] > best])


def pchip(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Piecewise cubic through the points that rises and falls only where they do.

    Args:
      x, y: (k,) points, k of at least 2, `x` strictly rising.
      at: positions in [x[0], x[-1]].

    Raises:
      ValueError: other points, or a position outside.
    """
    x, y, at = (np.asarray(values, float) for values in (x, y, at))
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or not (np.diff(x) > 0).all():
        raise ValueError(f"x, y: expected at least 2 points with rising x, got {x.tolist()}, {y.tolist()}")
    if at.size and not (x[0] <= at.min() and at.max() <= x[-1]):
        raise ValueError(f"at: expected positions in [{x[0]}, {x[-1]}], got {at.tolist()}")
    width = np.diff(x)
    rise = np.diff(y) / width
    slope = _slopes(width, rise)
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(width) - 1)
    t = at - x[i]
    quadratic = (3 * rise[i] - 2 * slope[i] - slope[i + 1]) / width[i]
    cubic = (slope[i] + slope[i + 1] - 2 * rise[i]) / width[i] ** 2
    return y[i] + t * (slope[i] + t * (quadratic + t * cubic))


def _slopes(width: np.ndarray, rise: np.ndarray) -> np.ndarray:
    """Slopes at the k points from the k - 1 pieces: F. N. Fritsch and J. Butland, SIAM J. Sci. Stat. Comput. 5 (1984).

    Inside, the harmonic mean of the neighbours' slopes, the nearer one weighing more, and 0 at a turn. At the ends, the
    slope of the parabola through three points, held to the sign and to three times the slope of the outer piece.
    """
    if len(width) == 1:
        return np.repeat(rise, 2)
    left, right = rise[:-1], rise[1:]
    same = left * right > 0
    nearer_left, nearer_right = width[:-1] + 2 * width[1:], 2 * width[:-1] + width[1:]
    safe_left, safe_right = np.where(same, left, 1.0), np.where(same, right, 1.0)
    inner = (nearer_left + nearer_right) / (nearer_left / safe_left + nearer_right / safe_right)
    ends = []
    for outer, next_outer, h, next_h in (
        (rise[0], rise[1], width[0], width[1]),
        (rise[-1], rise[-2], width[-1], width[-2]),
    ):
        end = outer + h * (outer - next_outer) / (h + next_h)
        bounds = sorted((0.0, 3 * outer))
        ends.append(np.clip(end, *bounds))
    return np.concatenate([ends[:1], np.where(same, inner, 0.0), ends[1:]])


def pchip_integral(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """Integral of `pchip` from `low` to `high`, exact: Simpson's rule has no error on a cubic."""
    x = np.asarray(x, float)
    edges = np.concatenate([[low], x[(x > low) & (x < high)], [high]])
    left, right = edges[:-1], edges[1:]
    sums = pchip(x, y, left) + 4 * pchip(x, y, 0.5 * (left + right)) + pchip(x, y, right)
    return float(np.sum((right - left) * sums) / 6)
