"""Gaussians at points, as 3D Gaussian Splatting starts (Kerbl et al., 2023): those of a scene's files, or triangulated.

Letters: p points, v views.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from airjax.gaussians import Gaussians3D
from airjax.progress import Count
from airjax.scene.bounds import pixels_in_sight
from airjax.scene.files.photographs import Scene
from airjax.scene.harmonics import from_rgb, num_harmonics
from airjax.scene.triangulate import FEWEST, Triangulated, triangulate

OPACITY = 0.1
DEGREE = 1  # of the harmonics, as predicted
_NEIGHBORS = 3


def at_points(points: Float[np.ndarray, "p 3"], colors: Float[np.ndarray, "p 3"]) -> Gaussians3D:
    """Round Gaussians at points, as large as their distance to three neighbors (root mean square).

    Args:
      points: at least four, world units.
      colors: in [0, 1].
    """
    points = np.asarray(points, np.float32)
    distances, _ = cKDTree(points).query(points, k=_NEIGHBORS + 1)  # the nearest is the point itself
    size = np.sqrt(np.maximum(np.square(distances[:, 1:]).mean(axis=1), 1e-14)).astype(np.float32)
    return round_ones(points, size, colors, opacity=OPACITY, degree=DEGREE)


def round_ones(
    means: Float[np.ndarray, "p 3"],
    sizes: Float[np.ndarray, " p"],
    colors: Float[np.ndarray, "p 3"],
    *,
    opacity: float,
    degree: int,
) -> Gaussians3D:
    """Round Gaussians of one color each from wherever they are seen; numpy arrays, all of them active.

    Their axes differ by 1 %, since a rotation of exactly round ones has no gradient.

    Args:
      means: world units.
      sizes: standard deviations, world units.
      colors: in [0, 1].
      opacity: in [0, 1], of all of them.
      degree: of the harmonics, of which all but the first are 0.
    """
    quats = np.zeros((len(means), 4), np.float32)
    quats[:, 0] = 1
    scales = sizes[:, None] * np.array([1.01, 1.0, 0.99], np.float32)
    harmonics = np.zeros((len(means), num_harmonics(degree), 3), np.float32)
    harmonics[:, 0] = from_rgb(np.asarray(colors, np.float32))
    opacities = np.full(len(means), opacity, np.float32)
    return Gaussians3D(means, scales, quats, opacities, harmonics, np.ones(len(means), bool))


def points_of(scene: Scene, triangulated: Triangulated | None = None, *, progress: Count | None = None) -> Triangulated:
    """The points of a scene's files, in the mean color of the views that show them; triangulated ones where it has few.

    `triangulated` are those that were found before. `progress` and AirjaxError: those of
    `airjax.scene.triangulate.triangulate`.
    """
    if triangulated is not None:
        return triangulated
    points = scene.points[np.isfinite(scene.points).all(axis=1)]
    sums, count = np.zeros((len(points), 3)), np.zeros(len(points))
    for image, (numbers, pixels, _) in zip(scene.images, pixels_in_sight(scene, points), strict=True):
        x, y = pixels.astype(int).T
        sums[numbers] += image[y, x]
        count[numbers] += 1
    seen = count > 0
    if seen.sum() < FEWEST:
        return triangulate(scene.images, scene.cameras, masks=scene.shown, source=scene.source, progress=progress)
    colors = (sums[seen] / count[seen, None]).astype(np.float32)
    return Triangulated(points[seen], colors)
