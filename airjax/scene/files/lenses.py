"""Lenses: how they bend the rays of a camera, and photographs as a camera without one would have taken them.

A lens moves a ray (x, y, 1) of the camera to (u, v) before the intrinsics turn it into a pixel. Of every lens the
middle of the picture stays as large as it is: the intrinsics are those of the photograph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates

STRETCH = 3.0  # most that a flat picture is stretched outwards, to the middle's 1; a fisheye's then spans 110 degrees
_FARTHEST, _SAMPLES = 20.0, 4096  # distance of rays (x, y, 1) from the middle, to look for where that happens


class Lens(NamedTuple):
    """A model of `MODELS` and its numbers; those that are missing at the end are 0."""

    model: str = "brown"
    numbers: tuple[float, ...] = ()

    @property
    def bends(self) -> bool:
        """Whether a photograph differs from that of a camera without a lens."""
        return self.model not in _STRAIGHT_AT_ZERO or any(self.numbers)


def bend(lens: Lens, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(u, v) of the rays (x, y, 1); NaN, infinity or nonsense where the numbers of a lens lead there."""
    function, count = MODELS[lens.model]
    numbers = (*lens.numbers, *(0.0,) * count)[:count]
    with np.errstate(all="ignore"):
        return function(x, y, *numbers)


def _brown(x, y, k1, k2, p1, p2, k3, k4, k5, k6):
    """Brown and Conrady's, in OpenCV's order, with its rational model."""
    rr = x * x + y * y
    radial = (1 + rr * (k1 + rr * (k2 + rr * k3))) / (1 + rr * (k4 + rr * (k5 + rr * k6)))
    u = x * radial + 2 * p1 * x * y + p2 * (rr + 2 * x * x)
    v = y * radial + p1 * (rr + 2 * y * y) + 2 * p2 * x * y
    return u, v


def _fisheye(x, y, k1, k2, p1, p2, k3, k4, s1, s2):
    """The distance from the middle grows with the angle: a polynomial of it, then tangential parts and a thin prism."""
    r = np.hypot(x, y)
    scale = np.where(r > 1e-12, np.arctan(r) / np.maximum(r, 1e-12), 1.0)
    x, y = x * scale, y * scale
    rr = x * x + y * y
    radial = 1 + rr * (k1 + rr * (k2 + rr * (k3 + rr * k4)))
    u = x * radial + 2 * p1 * x * y + p2 * (rr + 2 * x * x) + s1 * rr
    v = y * radial + p1 * (rr + 2 * y * y) + 2 * p2 * x * y + s2 * rr
    return u, v


def _field_of_view(x, y, omega):
    """Devernay and Faugeras': one angle, in radians."""
    if not omega:
        return x, y
    r = np.maximum(np.hypot(x, y), 1e-12)
    scale = np.arctan(2 * r * math.tan(omega / 2)) / (r * omega) if math.isfinite(omega) else np.full_like(r, np.nan)
    return x * scale, y * scale


def _division(x, y, k):
    """Fitzgibbon's: a point at distance d of the photograph belongs to the ray at d / (1 + k d^2)."""
    scale = 2 / (1 + np.sqrt(1 - 4 * k * (x * x + y * y)))
    return x * scale, y * scale


def _unified(x, y, alpha, beta):
    """The enhanced unified camera model."""
    scale = 1 / (alpha * np.sqrt(beta * (x * x + y * y) + 1) + 1 - alpha)
    return x * scale, y * scale


MODELS: dict[
    str, tuple[Callable[..., tuple[np.ndarray, np.ndarray]], int]
] = {  # name: how it bends rays, and how many numbers it has
    "brown": (_brown, 8),
    "fisheye": (_fisheye, 8),
    "field of view": (_field_of_view, 1),
    "division": (_division, 1),
    "unified": (_unified, 2),
}
_STRAIGHT_AT_ZERO = ("brown", "field of view", "division", "unified")


class Places(NamedTuple):
    """Where a flat picture finds its pixels in a photograph."""

    rows: np.ndarray  # (h, w), 0 for the middle of the first row
    columns: np.ndarray
    seen: np.ndarray  # (h, w) bool, whether the photograph shows what belongs there


def source_places(size: tuple[int, int], intrinsics: np.ndarray, lens: Lens) -> Places:
    """Of a flat picture of (h, w) pixels and a photograph of the same size and intrinsics (3, 3), through a lens.

    What lies beyond the photograph is not seen, nor what would be stretched more than `STRETCH` times or come twice, as
    behind a lens that folds the picture back.
    """
    height, width = size
    (fx, _, cx), (_, fy, cy) = intrinsics[:2]
    x, y = np.meshgrid((np.arange(width) + 0.5 - cx) / fx, (np.arange(height) + 0.5 - cy) / fy)
    u, v = bend(lens, x, y)
    with np.errstate(over="ignore", invalid="ignore"):
        u, v = u * fx + cx, v * fy + cy
        seen = (u >= 0) & (u <= width) & (v >= 0) & (v <= height)  # false for NaN
    seen &= np.hypot(x, y) <= _reach(lens)
    # The interpolation reads out of bounds at NaN.
    rows, columns = (np.clip(np.nan_to_num(at), -1, side) for at, side in ((v - 0.5, height), (u - 0.5, width)))
    return Places(rows, columns, seen)


def degrees_across(seen: np.ndarray, intrinsics: np.ndarray) -> float:
    """The horizontal field of view of the pixels of a flat picture that are seen; 0 where none is."""
    columns = np.flatnonzero(seen.any(axis=0))
    if not len(columns):
        return 0.0
    left, right = (np.arctan((x - intrinsics[0, 2]) / intrinsics[0, 0]) for x in (columns[0], columns[-1] + 1))
    return float(np.degrees(right - left))


def _reach(lens: Lens) -> float:
    """How far from the middle a ray (x, y, 1) may be to be seen well enough."""
    radius = np.linspace(0, _FARTHEST, _SAMPLES)
    zero = np.zeros_like(radius)
    with np.errstate(all="ignore"):
        grown = np.diff(bend(lens, radius, zero)[0] - bend(lens, -radius, zero)[0])  # without what is even: tangential
    ends = np.flatnonzero(~(STRETCH * grown >= grown[0]))
    return float(radius[ends[0]]) if len(ends) else math.inf


def resample(image: np.ndarray, places: Places) -> np.ndarray:
    """(h, w) or (h, w, c) pixels at places of an image, bilinear; beyond its edges the image is continued."""
    at = np.stack([places.rows, places.columns])
    if image.ndim == 2:
        return map_coordinates(image, at, order=1, mode="nearest")
    return np.stack([map_coordinates(c, at, order=1, mode="nearest") for c in np.moveaxis(image, -1, 0)], axis=-1)


def undistort(image: np.ndarray, intrinsics: np.ndarray, lens: Lens) -> np.ndarray:
    """The (h, w, c) or (h, w) image that a camera without this lens would have taken, with the same intrinsics."""
    return resample(image, source_places(image.shape[:2], intrinsics, lens))
