"""Points of a scene from its photographs alone: patches compared over a wide sweep of planes.

For scenes whose files hold neither. A point counts where its patch looks the same in the other views at one depth and
at no other, where cells beside it have points of about that depth, and where the search in the nearest view finds the
same point.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from airjax.errors import AirjaxError
from airjax.nn.blocks import CELL
from airjax.programs import kept
from airjax.progress import Count
from airjax.scene.cameras import Camera, project_points, unproject
from airjax.scene.files.photographs import fitted_size, resize
from airjax.scene.sweep import match_planes
from airjax.scene.view_selection import nearest

SIDE = 128  # pixels; the longer side of the pictures that are compared
PLANES = 128
_PATCH = 7  # cells
_RANGE = 0.7, 150.0  # depths that are tried, in distances between neighboring cameras
_AGREE, _UNIQUE = 0.85, 0.05  # least similarity of a match, and how much worse every other depth must be
_REACH, _SUPPORT, _ALIKE = 2, 3, 0.1  # cells around a point, how many of them are like it, and in what: log of depth
FEWEST = 32  # points that views which overlap share
_FAR_OUT = 1e6  # pixels; nothing is that far outside an image


class Triangulated(NamedTuple):
    """Points of a scene."""

    points: np.ndarray  # (p, 3), world units
    colors: np.ndarray  # (p, 3) in [0, 1]


def triangulate(
    images: np.ndarray,
    cameras: Camera,
    *,
    masks: np.ndarray | None = None,
    max_views: int = 12,
    source: str = "scene",
    progress: Count | None = None,
) -> Triangulated:
    """Points that several views agree on; AirjaxError where they have nothing in common, or all stand at one place.

    Args:
      images: (v, h, w, 3) in [0, 1], v >= 2.
      masks: (v, h, w) bool, pixels that show something of the scene: others match nothing; None for all.
      max_views: views that are searched for points, spread evenly over all, each against its two nearest neighbors.
      source: names the scene in an error.
      progress: called with the number of views that were searched, and of those that will have been at the end.
    """
    inverse = _planes(cameras, source)
    size = fitted_size(images.shape[1:3], SIDE, CELL)
    small = np.stack([resize(image, size) for image in images])
    known = None if masks is None else _known(masks, (size[0] // CELL, size[1] // CELL))
    scaled = cameras.resized(images.shape[1:3], size)
    chosen = np.unique(np.linspace(0, len(images) - 1, min(max_views, len(images))).round().astype(int)).tolist()
    neighbors = [nearest(cameras, i, 2) for i in range(len(images))]
    partners = {i: int(neighbors[i][0]) for i in chosen}
    used = {*partners, *partners.values()}
    maps = {}
    for i in sorted(used):
        maps[i] = _depth_map(small, known, scaled, np.array([i, *neighbors[i]]), inverse)
        if progress is not None:
            progress(len(maps), len(used))
    checked = [_cross_checked(small[i], scaled[i], scaled[j], maps[i], maps[j].depths) for i, j in partners.items()]
    points, colors = (np.concatenate(part) for part in zip(*checked, strict=True))
    if len(points) < FEWEST:
        raise AirjaxError(
            f"{source}: expected views that overlap, found only {len(points)} points that two of them share; give near "
            f"and far"
        )
    return Triangulated(points, colors)


class _DepthMap(NamedTuple):
    """Depth of every cell of a view, (a, b), and whether it is sure."""

    depths: np.ndarray
    sure: np.ndarray


def _planes(cameras: Camera, source: str) -> Float[Array, " d"]:
    """Inverse depths that are tried, in proportion to the distances between neighboring cameras."""
    centers = np.asarray(cameras.center)
    distances = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    spacing = float(np.median(np.sort(distances, axis=1)[:, 1]))
    if not spacing > 0:
        raise AirjaxError(f"{source}: expected cameras at different places, got all of them at one")
    return jnp.asarray(1 / np.geomspace(_RANGE[1] * spacing, _RANGE[0] * spacing, PLANES), jnp.float32)


def _known(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(v, a, b) bool, the cells, so many, all of whose pixels show something."""
    return np.stack([resize(mask.astype(np.float32), size) > 1 - 1e-4 for mask in masks])


def _depth_map(images: np.ndarray, known: np.ndarray | None, cameras: Camera, index: np.ndarray, inverse) -> _DepthMap:
    """Of the first view of `index`, compared with the others."""
    stack = jax.tree.map(jnp.asarray, cameras[index])
    views = jnp.asarray(images[index]), None if known is None else jnp.asarray(known[index])
    found = _search(*views, stack, inverse, image_size=images.shape[1:3])
    depths, sure = map(np.asarray, found)
    return _DepthMap(depths, sure & supported(depths, sure))


def supported(depths: Float[np.ndarray, "a b"], sure: Bool[np.ndarray, "a b"]) -> Bool[np.ndarray, "a b"]:
    """Whether at least three sure cells within two of a cell have about its depth; false matches stand alone."""
    rows, columns = depths.shape
    logs = np.pad(np.where(sure, np.log(depths), np.inf), _REACH, constant_values=np.inf)
    count = np.zeros(depths.shape, int)
    for i in range(2 * _REACH + 1):
        for j in range(2 * _REACH + 1):
            if (i, j) != (_REACH, _REACH):
                count += np.abs(logs[i : i + rows, j : j + columns] - np.log(depths)) < _ALIKE
    return count >= _SUPPORT


def _cross_checked(image: np.ndarray, camera: Camera, other: Camera, own: _DepthMap, depths: np.ndarray):
    """(points, colors) of a view's sure cells, where the depth map of another view has the same points."""
    rows, columns = (part.ravel() for part in np.indices(own.depths.shape))
    pixels = (np.stack([columns + 0.5, rows + 0.5], axis=1) * CELL).astype(np.float32)
    points, there, expected = map(np.asarray, _seen_in(other, camera, pixels, own.depths.ravel()))
    cell = np.floor(np.clip(np.nan_to_num(there), -_FAR_OUT, _FAR_OUT) / CELL).astype(int)
    inside = own.sure.ravel() & (expected > 0) & (cell >= 0).all(axis=1) & (cell < depths.shape[::-1]).all(axis=1)
    cell = np.where(inside[:, None], cell, 0)
    ratio = depths[cell[:, 1], cell[:, 0]] / np.maximum(expected, 1e-9)
    same = inside & (np.abs(np.log(ratio)) < 0.15)
    return points[same], image[rows[same] * CELL, columns[same] * CELL]


@kept()
def _seen_in(other: Camera, camera: Camera, pixels: Float[Array, "p 2"], depths: Float[Array, " p"]):
    """(points that a camera sees, their pixels and depths in another one); of all cells, so that it is one program."""
    points = unproject(camera, pixels, depths)
    return points, *project_points(other, points)


@kept(static_argnames="image_size")
def _search(
    images: Float[Array, "k h w 3"],
    known: Bool[Array, "k a b"] | None,
    cameras: Camera,
    inverse: Float[Array, " d"],
    *,
    image_size: tuple[int, int],
):
    """Depth of each cell of the first view (a, b), and whether it is sure; cells that are not known match nothing."""
    views, height, width, _ = images.shape
    cells = images.reshape(views, height // CELL, CELL, width // CELL, CELL, 3).mean(axis=(2, 4))
    half = _PATCH // 2
    padded = jnp.pad(cells.mean(axis=-1), ((0, 0), (half, half), (half, half)), mode="edge")
    rows, columns = cells.shape[1:3]
    shifts = [(i, j) for i in range(_PATCH) for j in range(_PATCH)]
    patches = jnp.stack([padded[:, i : i + rows, j : j + columns] for i, j in shifts], axis=-1)
    patches = patches - jnp.mean(patches, axis=-1, keepdims=True)
    contrast = jnp.sqrt(jnp.mean(jnp.square(patches), axis=-1, keepdims=True))
    patches = patches / (_PATCH * jnp.maximum(contrast, 1e-3))
    if known is not None:
        patches = jnp.where(known[..., None], patches, 0.0)
    scores = match_planes(patches, cameras, 0, jnp.arange(1, views), inverse, groups=1, image_size=image_size)
    best = jnp.argmax(scores, axis=-1)
    top = jnp.max(scores, axis=-1)
    apart = jnp.abs(jnp.arange(len(inverse))[None, None] - best[..., None]) > 4
    second = jnp.max(jnp.where(apart, scores, -1.0), axis=-1)
    edge = (best == 0) | (best == len(inverse) - 1)
    sure = (top > _AGREE) & (top - second > _UNIQUE) & (contrast[0, ..., 0] > 0.02) & ~edge
    return 1.0 / inverse[best], sure
