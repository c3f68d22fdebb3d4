"""What lies beyond a prediction: coarse Gaussians far behind, in the colors of the photographs or of their edges.

A prediction ends where its photographs end, and has holes where they contradict each other; black there is the worst
guess. What is put there is as far as anything of the scene, and only where no photograph shows something nearer.

Letters: n Gaussians, v views, m of them chosen, r rows and c columns of cells, p places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from airjax.gaussians import Gaussians3D, take
from airjax.scene.cameras import Camera, project_points, unproject
from airjax.scene.files.photographs import Scene
from airjax.scene.harmonics import degree_of
from airjax.scene.points import round_ones

SIZE, CELL = 64, 8  # pixels; longest side of the photographs as they are looked at, and a side of a cell
_MARGIN = 0.5  # of a side that is added on either side of it
_WIDTH = 0.6  # standard deviation, in cells
_OPACITY = 0.9
_FEWEST = 3  # Gaussians in a part of a picture that shows something


def surround(
    gaussians: Gaussians3D, scene: Scene, far: Float[np.ndarray, " v"], *, chosen: Sequence[int] | Int[np.ndarray, " m"]
) -> Gaussians3D:
    """Gaussians at the far depth of chosen views, where they or the surroundings of their pictures show nothing yet.

    Those in a part of some picture that shows something are left out: that view knows better.
    So are those of pixels that are masked. Numpy arrays, all of them active; may be none.

    Args:
      gaussians: what is predicted, n slots, all of them active.
      scene: v photographs, without a known background.
      far: largest depths of the views, world units.
      chosen: numbers of the views that are continued.
    """
    scene = scene.shrunk(SIZE)
    h, w = (side // CELL for side in scene.images.shape[1:3])
    if not h * w:  # too narrow to look at
        return take(gaussians, np.zeros(0, int))
    shown = _shown(gaussians, scene.cameras, (h, w))
    tall, wide = int(h * _MARGIN), int(w * _MARGIN)
    y, x = (grid.ravel() for grid in np.mgrid[-tall : h + tall, -wide : w + wide])
    pixels = np.stack([x + 0.5, y + 0.5], axis=1).astype(np.float32) * CELL
    inner = np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)
    parts = []
    for i in map(int, chosen):
        places = np.asarray(unproject(scene.cameras[i], pixels, np.full(len(pixels), far[i], np.float32)))
        known = np.ones((h, w), bool) if scene.masks is None else np.all(_blocks(scene.masks[i], (h, w)), axis=(1, 3))
        free = known[inner] & _free(places, scene.cameras, shown, (h, w))
        colors = _blocks(scene.images[i], (h, w)).mean(axis=(1, 3))[inner]
        scale = _WIDTH * CELL * far[i] / scene.cameras.intrinsics[i, 0, 0]
        parts.append((places[free], np.full(int(free.sum()), scale, np.float32), colors[free]))
    places, scales, colors = (np.concatenate(part) for part in zip(*parts, strict=True))
    degree = degree_of(gaussians.harmonics.shape[1])
    return round_ones(places, scales, colors, opacity=_OPACITY, degree=degree)


def _blocks(image: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """(r, CELL, c, CELL, ..) of an image, without what is left over at the right and below."""
    r, c = cells
    return image[: r * CELL, : c * CELL].reshape(r, CELL, c, CELL, *image.shape[2:])


def _cells(camera: Camera, places: np.ndarray, cells: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(whether places are in the picture, the numbers of their cells)."""
    at, z = map(np.asarray, project_points(camera, places))
    limits = CELL * np.array(cells[::-1], np.float32)
    inside = (z > 0) & (at >= 0).all(axis=1) & (at < limits[None]).all(axis=1)
    column, row = (np.where(inside[:, None], at, 0) // CELL).astype(int).T
    return inside, row * cells[1] + column


def _shown(gaussians: Gaussians3D, cameras: Camera, cells: tuple[int, int]) -> Bool[np.ndarray, "v n"]:
    """Whether there are Gaussians in the cells of every view."""
    means, found = np.asarray(gaussians.means), []
    for i in range(len(cameras.intrinsics)):
        inside, cell = _cells(cameras[i], means, cells)
        found.append(np.bincount(cell[inside], minlength=cells[0] * cells[1]) >= _FEWEST)
    return np.stack(found)


def _free(places: np.ndarray, cameras: Camera, shown: Bool[np.ndarray, "v n"], cells: tuple[int, int]) -> np.ndarray:
    """Whether places are in no picture, or only in parts of pictures that show nothing."""
    free = np.ones(len(places), bool)
    for i, known in enumerate(shown):
        inside, cell = _cells(cameras[i], places, cells)
        free &= ~(inside & known[cell])
    return free
