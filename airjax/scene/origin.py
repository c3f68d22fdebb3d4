"""The origin of a scene: where its coordinates are counted from, so that float32 holds them.

It is 0 but for cameras far away from 0, as those in UTM or earth-centered coordinates.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from airjax.scene.cameras import Camera

_FAR = 10  # an origin helps where cameras lie so many times farther from 0 than from each other
_LOST = 1e-3  # most that float32 may round, in distances between neighboring cameras
_ROUNDING = 2.0**-24  # of float32, in what is rounded


def origin_of(cameras: Camera) -> np.ndarray:
    """(3,) float64, amid a stack of cameras where float32 would round their places too much, else 0.

    Medians, so that some bad poses change nothing. The distance between neighbors is taken for that on a straight path.
    """
    centers = centers_of(cameras)
    middle = np.median(centers, axis=0)
    radius = float(np.median(np.linalg.norm(centers - middle, axis=1)))
    far = float(np.linalg.norm(middle))
    spacing = 4 * radius / len(centers)
    is_lossy = far > _FAR * radius and far * _ROUNDING > _LOST * spacing
    return middle if is_lossy else np.zeros(3)


def relative(cameras: Camera, origin: np.ndarray) -> Camera:
    """The same cameras, one or a stack, in coordinates counted from an origin (3,); computed in float64."""
    rotation, translation = (np.asarray(part, np.float64) for part in (cameras.rotation, cameras.translation))
    return replace(cameras, translation=translation + rotation @ origin) if np.any(origin) else cameras


def centers_of(cameras: Camera) -> np.ndarray:
    """(v, 3) float64 places of a stack of cameras."""
    rotation, translation = (np.asarray(part, np.float64) for part in (cameras.rotation, cameras.translation))
    return -np.einsum("vij,vi->vj", rotation, translation)


def origin_text(origin: np.ndarray) -> str:
    """An origin in a line for the user."""
    return "(" + ", ".join(f"{x:.10g}" for x in origin) + ")"
