"""Optimization from scratch, the baseline of a scene predictor: Gaussians at points, as 3D Gaussian Splatting starts.

Letters: p points, v views.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from airjax.gaussians import Gaussians3D
from airjax.scene.cameras import Camera
from airjax.scene.harmonics import from_rgb

OPACITY = 0.1
_NEIGHBORS = 3


def at_points(points: Float[np.ndarray, "p 3"], colors: Float[np.ndarray, "p 3"]) -> Gaussians3D:
    """Round Gaussians at points, as large as their distance to three neighbors (Kerbl et al., 2023; root mean square).

    Their axes differ by 1 %, since a rotation of exactly round ones has no gradient.

    Args:
      points: at least four, world units.
      colors: in [0, 1].
    """
    points = np.asarray(points, np.float32)
    distances, _ = cKDTree(points).query(points, k=_NEIGHBORS + 1)  # the nearest is the point itself
    size = np.float32(np.sqrt(np.maximum(np.square(distances[:, 1:]).mean(axis=1), 1e-14)))
    quats = np.zeros((len(points), 4), np.float32)
    quats[:, 0] = 1
    scales = size[:, None] * np.array([1.01, 1.0, 0.99], np.float32)
    opacities = np.full(len(points), OPACITY, np.float32)
    harmonics = np.asarray(from_rgb(np.asarray(colors, np.float32)))[:, None]
    return Gaussians3D(points, scales, quats, opacities, harmonics, np.ones(len(points), bool))


def random_points(
    rng: np.random.Generator, images: Float[np.ndarray, "v h w 3"], cameras: Camera, near: float, far: float, count: int
) -> tuple[Float[np.ndarray, "p 3"], Float[np.ndarray, "p 3"]]:
    """(points, colors) of `count` pixels drawn from all views, each at a depth drawn evenly in inverse depth."""
    views, height, width, _ = images.shape
    view, y, x = (rng.integers(side, size=count) for side in (views, height, width))
    depth = 1 / rng.uniform(1 / far, 1 / near, count)
    inverse = np.linalg.inv(np.asarray(cameras.intrinsics, float))[view]
    local = np.einsum("pij,pj->pi", inverse, np.stack([x + 0.5, y + 0.5, np.ones(count)], axis=1)) * depth[:, None]
    rotation, translation = (np.asarray(part, float)[view] for part in (cameras.rotation, cameras.translation))
    return np.einsum("pji,pj->pi", rotation, local - translation).astype(np.float32), images[view, y, x]
