"""Bjontegaard's delta rate: how much larger one codec's files are than another's at equal PSNR, on average.

With r(p) the logarithm of the rate of a codec at PSNR p, drawn through its measured points by PCHIP, the result is
exp(mean of r_other(p) - r_anchor(p) over an interval of p) - 1. Reference: G. Bjontegaard, VCEG-M33 (2001), who drew
one cubic polynomial; piecewise cubics do not swing between the points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator


class BDRate(NamedTuple):
    """Size at equal PSNR against the anchor; None where nothing overlaps."""

    percent: float | None  # -20 is a fifth smaller
    psnr_range: tuple[float, float] | None  # the interval in dB that was averaged over


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
    fill `bpp_range`, the interval is smaller. Points are (k,) and (m,), in any order, bits per pixel above 0 and dB.
    """
    anchor, other = _curve(anchor_bpp, anchor_psnr), _curve(bpp, psnr)
    if min(len(anchor[0]), len(other[0])) < 2:
        return BDRate(None, None)
    log_range = np.clip(np.log(bpp_range), anchor[1][0], anchor[1][-1])
    start, end = PchipInterpolator(anchor[1], anchor[0])(log_range)
    low, high = max(start, other[0][0]), min(end, other[0][-1])
    if low >= high:
        return BDRate(None, None)
    anchor_integral, other_integral = (PchipInterpolator(*curve).integrate(low, high) for curve in (anchor, other))
    difference = (other_integral - anchor_integral) / (high - low)
    return BDRate(float(100 * np.expm1(difference)), (float(low), float(high)))


def _curve(bpp, psnr) -> tuple[np.ndarray, np.ndarray]:
    """(PSNR, log rate) by rising rate, both strictly rising."""
    points = np.stack([np.asarray(psnr, float), np.log(np.asarray(bpp, float))])
    points = points[:, np.isfinite(points).all(axis=0)]
    points = points[:, np.lexsort((-points[0], points[1]))]  # of equal rates, the better one comes first
    best = np.concatenate([[-np.inf], np.maximum.accumulate(points[0])[:-1]]) if points.size else points[0]
    return tuple(points[:, points[0] > best])
