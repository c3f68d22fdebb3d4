"""Colour spaces by numbers, as PNG files and videos name them, to sRGB.

A space is four points of the CIE 1931 diagram (red, green, blue, white) and a curve from samples to linear light.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from airjax.arrays import AnyArray

Curve = Callable[[np.ndarray], np.ndarray]  # from samples in [0, 1] to linear light
_D65 = (0.3127, 0.3290)
_P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
SRGB_POINTS = np.array([(0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65])
# Points and curves by their numbers in ITU-T H.273; 2 says that nobody knows, and sRGB is the guess.
_POINTS = {
    1: SRGB_POINTS,
    2: SRGB_POINTS,
    4: np.array([(0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)]),
    5: np.array([(0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65]),
    6: np.array([(0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65]),
    7: np.array([(0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65]),
    9: np.array([(0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65]),
    11: np.array([*_P3, (0.314, 0.351)]),
    12: np.array([*_P3, _D65]),
}
_WHITE_NITS = 203.0  # cd/m^2 of paper in a PQ picture (ITU-R BT.2408)
_BRADFORD = np.array([(0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)])


def srgb_to_linear(samples: np.ndarray) -> np.ndarray:
    """The curve of sRGB (IEC 61966-2-1)."""
    return np.where(samples <= 0.04045, samples / 12.92, ((samples + 0.055) / 1.055) ** 2.4)


def _linear_to_srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _pq_to_linear(samples: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, 1 for white; brighter light is above it."""
    root = samples ** (32 / 2523)
    return (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (16384 / 2610) * 10000 / _WHITE_NITS


def power_curve(exponent: float) -> Curve:
    """The curve of a screen of that gamma."""
    return lambda samples: samples**exponent


# Screens show the curves of television cameras (1, 6, 14, 15) about as they do sRGB.
_CURVES: dict[int, Curve] = dict.fromkeys((1, 2, 6, 13, 14, 15), srgb_to_linear)
_CURVES |= {4: power_curve(2.2), 5: power_curve(2.8), 8: power_curve(1.0), 16: _pq_to_linear}


class ColorSpace(NamedTuple):
    """Points as in SRGB_POINTS, and a curve."""

    points: np.ndarray
    curve: Curve

    @property
    def is_srgb(self) -> bool:
        """Whether there is nothing to convert."""
        return self.curve is srgb_to_linear and self._has_srgb_points

    @property
    def _has_srgb_points(self) -> bool:
        return bool(np.abs(self.points - SRGB_POINTS).max() < 0.002)

    def to_srgb(self, pixels: AnyArray) -> np.ndarray:
        """(h, w, 3) samples as those of sRGB, white to white, what it cannot show cut; a ValueError for no space."""
        light = self.curve(np.asarray(pixels, np.float32))
        if not self._has_srgb_points:
            light = light @ _to_srgb_light(self.points).T.astype(np.float32)
        return _linear_to_srgb(np.clip(light, 0, 1)).astype(np.float32)


def named_space(primaries: int, transfer: int) -> ColorSpace | None:
    """The space of two numbers of ITU-T H.273; None where it is not known here."""
    if primaries not in _POINTS or transfer not in _CURVES:
        return None
    return ColorSpace(_POINTS[primaries], _CURVES[transfer])


def _to_xyz(points: np.ndarray) -> np.ndarray:
    """The matrix from linear light of these points to XYZ; a ValueError for points on a line."""
    with np.errstate(all="ignore"):
        columns = np.stack([points[:, 0], points[:, 1], 1 - points.sum(axis=1)]) / points[:, 1]
    if not np.isfinite(columns).all() or abs(np.linalg.det(columns[:, :3])) < 1e-6:
        raise ValueError("points that span no colours")
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


def _to_srgb_light(points: np.ndarray) -> np.ndarray:
    """The matrix to linear light of sRGB; a white that is another is adapted (Bradford)."""
    here, there = _to_xyz(points), _to_xyz(SRGB_POINTS)
    gains = (_BRADFORD @ there.sum(axis=1)) / (_BRADFORD @ here.sum(axis=1))
    return np.linalg.solve(there, np.linalg.solve(_BRADFORD, gains[:, None] * _BRADFORD) @ here)
