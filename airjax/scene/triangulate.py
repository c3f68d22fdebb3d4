"""Points and depth bounds of a scene from its photographs alone: patches compared over a wide sweep of planes.

For scenes whose files say neither. A point counts where its patch looks the same in the other views at one depth and at
no other, and where the nearest view, asked in its turn, finds the same point.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.errors import AirjaxError
from airjax.nn.plane_sweep import CELL
from airjax.scene.cameras import Camera, project_points, unproject
from airjax.scene.files.photographs import shrink
from airjax.scene.sweep import match_planes
from airjax.scene.view_selection import nearest

SIDE = 128  # pixels; the longer side of the pictures that are compared
PLANES = 128
_PATCH = 7  # cells
_RANGE = 0.7, 150.0  # depths that are tried, in distances between neighbouring cameras
_AGREE, _UNIQUE = 0.85, 0.05  # least similarity of a match, and how much worse every other depth must be
_LEAST = 32  # points; fewer say nothing


class Triangulated(NamedTuple):
    """What was found.

    Fields:
      points: (p, 3), world units.
      colors: (p, 3) in [0, 1].
      near, far: bounds of the depths, world units.
    """

    points: np.ndarray
    colors: np.ndarray
    near: float
    far: float


def triangulate(images: np.ndarray, cameras: Camera, *, max_views: int = 12, source: str = "scene") -> Triangulated:
    """Points that several views agree on.

    Args:
      images: (v, h, w, 3) in [0, 1], v >= 2.
      cameras: a stack of v.
      max_views: so many, spread evenly over all, are searched for points, each against its two nearest neighbours.
      source: names the scene in an error.

    Raises:
      AirjaxError: the views have nothing in common, or all stand at one place.
    """
    centers = np.asarray(cameras.center)
    distances = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    spacing = float(np.median(np.sort(distances, axis=1)[:, 1]))
    if not spacing > 0:
        raise AirjaxError(f"{source}: expected cameras at different places, got all of them at one")
    inverse = jnp.asarray(1 / np.geomspace(_RANGE[1] * spacing, _RANGE[0] * spacing, PLANES), jnp.float32)
    small, scaled = shrink(images, cameras, max_size=SIDE, multiple=CELL)
    size = small.shape[1:3]
    chosen = np.unique(np.linspace(0, len(images) - 1, min(max_views, len(images))).round().astype(int))
    neighbours = {i: nearest(cameras, i, 2) for i in range(len(images))}
    depths = {}

    def depth_of(i: int):
        if i not in depths:
            index = [i, *neighbours[i]]
            stack = jax.tree.map(lambda leaf: jnp.asarray(leaf)[np.array(index)], scaled)
            depths[i] = [np.asarray(a) for a in _search(jnp.asarray(small[index]), stack, inverse, image_size=size)]
        return depths[i]

    points, colors, seen = [], [], []
    for i in map(int, chosen):
        depth, sure = depth_of(i)
        rows, columns = np.nonzero(sure)
        if not len(rows):
            continue
        pixels = np.stack([columns + 0.5, rows + 0.5], axis=1) * CELL
        found = np.asarray(unproject(_one(scaled, i), jnp.asarray(pixels, jnp.float32), jnp.asarray(depth[sure])))
        j = neighbours[i][0]
        there, expected = (np.asarray(a) for a in project_points(_one(scaled, j), jnp.asarray(found)))
        other, _ = depth_of(j)
        cell = np.floor(np.nan_to_num(there) / CELL).astype(int)
        inside = (expected > 0) & (cell >= 0).all(axis=1) & (cell < [other.shape[1], other.shape[0]]).all(axis=1)
        cell = np.where(inside[:, None], cell, 0)
        same = inside & (np.abs(np.log(other[cell[:, 1], cell[:, 0]] / np.maximum(expected, 1e-9))) < 0.15)
        points.append(found[same])
        colors.append(small[i][rows[same] * CELL, columns[same] * CELL])
        seen.append(depth[sure][same])
    count = sum(map(len, points))
    if count < _LEAST:
        raise AirjaxError(f"{source}: expected views that overlap, found only {count} points that two of them share")
    seen = np.concatenate(seen)
    near, far = np.quantile(seen, [0.01, 0.99])
    return Triangulated(np.concatenate(points), np.concatenate(colors), float(near / 1.25), float(far * 1.25))


def _one(cameras: Camera, index: int) -> Camera:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], cameras)


@partial(jax.jit, static_argnames=("image_size",))
def _search(images: Float[Array, "k h w 3"], cameras: Camera, inverse: Float[Array, " d"], *, image_size):
    """Depth of each cell of the first view (a, b), and whether it is sure."""
    views, height, width, _ = images.shape
    cells = images.reshape(views, height // CELL, CELL, width // CELL, CELL, 3).mean(axis=(2, 4))
    half = _PATCH // 2
    padded = jnp.pad(cells.mean(axis=-1), ((0, 0), (half, half), (half, half)), mode="edge")
    rows, columns = cells.shape[1:3]
    patches = jnp.stack(
        [padded[:, i : i + rows, j : j + columns] for i in range(_PATCH) for j in range(_PATCH)], axis=-1
    )
    patches = patches - jnp.mean(patches, axis=-1, keepdims=True)
    contrast = jnp.sqrt(jnp.mean(jnp.square(patches), axis=-1, keepdims=True))
    patches = patches / (_PATCH * jnp.maximum(contrast, 1e-3))
    scores = match_planes(patches, cameras, 0, jnp.arange(1, views), inverse, groups=1, image_size=image_size)
    best = jnp.argmax(scores, axis=-1)
    top = jnp.max(scores, axis=-1)
    apart = jnp.abs(jnp.arange(len(inverse))[None, None] - best[..., None]) > 4
    second = jnp.max(jnp.where(apart, scores, -1.0), axis=-1)
    edge = (best == 0) | (best == len(inverse) - 1)
    sure = (top > _AGREE) & (top - second > _UNIQUE) & (contrast[0, ..., 0] > 0.02) & ~edge
    return 1.0 / inverse[best], sure
