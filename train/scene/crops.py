"""Real scenes as training views: small crops of photographs around a point that all of them see.

Letters: v views of a scene, p points, k views of a sample.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from airjax.errors import AirjaxError
from airjax.scene.cameras import Camera
from airjax.scene.files.photographs import load
from airjax.scene.procedural import Views, random_views
from airjax.scene.triangulate import triangulate

SIZES = (96, 128, 192, 256)  # pixels; longer side of the photographs that crops are taken from
_BASELINE = 0.08, 0.6  # of the first two views, in depths of the point
_LEAST = 8  # points that the first two views must show, for bounds of their depths
_TRIES = 200


class PosedScene(NamedTuple):
    """A scene to take samples of."""

    name: str  # for messages
    # photographs (v, h, w, 3) as uint8, in every one of SIZES that they have, and their intrinsics (v, 3, 3)
    levels: tuple[tuple[np.ndarray, np.ndarray], ...]
    # rotation, translation: (v, 3, 3), (v, 3)
    rotation: np.ndarray
    translation: np.ndarray
    points: np.ndarray  # (p, 3), world units


def load_posed(folder: str | Path) -> PosedScene:
    """A scene folder, its points triangulated.

    Where a twentieth of the pixels or less is masked, as at the edges behind a lens, they are taken as they are.

    Raises AirjaxError: photographs of several sizes, or with larger masks; as `airjax.scene.files.photographs.load` and
    `airjax.scene.triangulate.triangulate`.
    """
    scene = load(folder, max_size=max(SIZES))
    if scene.masks is not None and scene.masks.mean() < 0.95:
        raise AirjaxError(f"{folder}: expected photographs of one size, without masks, to train on")
    points = triangulate(scene.images, scene.cameras, masks=scene.shown, source=str(folder)).points
    shrunk = map(scene.shrunk, SIZES)
    levels = tuple((np.rint(255 * part.images).astype(np.uint8), part.cameras.intrinsics) for part in shrunk)
    return PosedScene(str(folder), levels, scene.cameras.rotation, scene.cameras.translation, points)


def make_up_posed(textures: np.ndarray) -> PosedScene:
    """Eight views of a procedural scene, 96 x 96, with points on what they show: stands in for a folder.

    `textures` are (T, s, s, 3) uint8.
    """
    atlas, size = jnp.asarray(textures, jnp.float32) / 255, (SIZES[0], SIZES[0])
    draw = jax.jit(partial(random_views, image_size=size, num_views=8))
    views = jax.device_get(draw(jax.random.key(0), atlas))
    cameras = views.cameras
    rows, columns = np.mgrid[4 : size[0] : 8, 4 : size[1] : 8].reshape(2, -1)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
    points = [
        ((np.linalg.solve(k, pixels) * depths[rows, columns]).T - t) @ rotation
        for k, rotation, t, depths in zip(
            cameras.intrinsics, cameras.rotation, cameras.translation, views.depths, strict=True
        )
    ]
    level = np.rint(255 * views.images).astype(np.uint8), cameras.intrinsics
    return PosedScene("made up", (level,), cameras.rotation, cameras.translation, np.concatenate(points))


def sample(rng: np.random.Generator, scene: PosedScene, *, num_views: int, image_size: tuple[int, int]) -> Views:
    """Crops of `num_views` photographs around one point of a scene; depths are not known (NaN).

    The first two stand apart by 0.08 to 0.6 times the depth of the point; the others are drawn from the views that are
    nearest to the middle of these two. Raises AirjaxError: no such views after many tries.
    """
    for _ in range(_TRIES):
        images, intrinsics = scene.levels[rng.integers(len(scene.levels))]
        height, width = images.shape[1:3]
        if height < image_size[0] or width < image_size[1]:
            continue
        point = scene.points[rng.integers(len(scene.points))]
        local = np.einsum("vij,j->vi", scene.rotation, point) + scene.translation
        pixel = np.einsum("vij,vj->vi", intrinsics, local)
        pixel = pixel[:, :2] / np.where(local[:, 2:] > 0, pixel[:, 2:], np.nan)
        seen = np.flatnonzero(np.all((pixel > 0) & (pixel < [width, height]), axis=1))
        if len(seen) < num_views:
            continue
        chosen = _choose(rng, scene, seen, local[:, 2], num_views)
        if chosen is None:
            continue
        corner = np.rint(pixel[chosen] - [image_size[1] / 2, image_size[0] / 2]).astype(int)
        corner = np.clip(corner, 0, [width - image_size[1], height - image_size[0]])
        corners = zip(chosen, corner, strict=True)
        crops = np.stack([images[i, y : y + image_size[0], x : x + image_size[1]] for i, (x, y) in corners])
        shifted = intrinsics[chosen].copy()
        shifted[:, :2, 2] -= corner
        cameras = Camera(shifted, scene.rotation[chosen], scene.translation[chosen])
        bounds = _bounds(rng, scene.points, cameras, image_size)
        if bounds is not None:
            depths = np.full(crops.shape[:3], np.nan, np.float32)
            return Views(crops.astype(np.float32) / 255, depths, cameras, *np.float32(bounds))
    raise AirjaxError(f"{scene.name}: expected views that overlap, found no {num_views} of one point")


def _choose(rng, scene: PosedScene, seen, depths, num_views: int):
    """Numbers of views, or None."""
    centers = -np.einsum("vji,vj->vi", scene.rotation, scene.translation)
    first = rng.choice(seen)
    apart = np.linalg.norm(centers[seen] - centers[first], axis=1) / depths[first]
    alike = scene.rotation[seen, 2] @ scene.rotation[first, 2] > 0.8
    near_by = seen[(apart > _BASELINE[0]) & (apart < _BASELINE[1]) & alike]
    if not len(near_by):
        return None
    second = rng.choice(near_by)
    others = seen[(seen != first) & (seen != second)]
    middle = (centers[first] + centers[second]) / 2
    others = others[np.argsort(np.linalg.norm(centers[others] - middle, axis=1))]
    rest = rng.permutation(others[: 2 * num_views])[: num_views - 2]
    return np.array([first, second, *rest]) if len(rest) == num_views - 2 else None


def _bounds(rng, points: np.ndarray, cameras: Camera, image_size):
    """Near and far as a user might give them, of the points that the first two crops show; None for too few."""
    found = []
    for i in range(2):
        local = points @ cameras.rotation[i].T + cameras.translation[i]
        local = local[local[:, 2] > 0]
        pixel = local @ cameras.intrinsics[i].T
        pixel = pixel[:, :2] / pixel[:, 2:]
        found.append(local[np.all((pixel > 0) & (pixel < image_size[::-1]), axis=1), 2])
    depths = np.concatenate(found)
    if len(depths) < _LEAST:
        return None
    near, far = np.quantile(depths, [0.02, 0.98])
    slack = rng.uniform([1.1, 1.1], [1.6, 1.8])
    return near / slack[0], far * slack[1]
