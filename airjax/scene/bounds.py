"""Depth bounds of a scene and of each of its views: given, from the pose file, or of points that the views see.

Letters: v views, p points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from airjax.errors import AirjaxError
from airjax.progress import Count
from airjax.scene.files.photographs import Scene
from airjax.scene.triangulate import FEWEST, Triangulated, triangulate

_SHARE, _SLACK = 0.98, 1.25  # of the depths that lie within bounds, and how much wider on either side these are
_FEW = 16  # points that the bounds of a view are taken from; a view that sees fewer has those of the scene


class Bounds(NamedTuple):
    """Depths of a scene, world units."""

    # near, far: of the scene
    near: float
    far: float
    views: Float[np.ndarray, "v 2"]  # near and far of each view: what it sees lies between
    triangulated: Triangulated | None = None  # the points that they were taken from, where they were triangulated
    notices: tuple[str, ...] = ()  # lines for the user


def find_bounds(
    scene: Scene, *, near: float | None = None, far: float | None = None, progress: Count | None = None
) -> Bounds:
    """Near and far: the arguments, else those of the pose file, of the scene's points, or of triangulated points.

    Points bound each view by itself. `progress` is that of `airjax.scene.triangulate.triangulate`.

    Raises AirjaxError: near is not below far, or as `airjax.scene.triangulate.triangulate`.
    """
    if near is not None and far is not None:
        bounds = _alike(scene, near, far)
    else:
        bounds = _of_files(scene) or _of_photographs(scene, progress)
        bounds = _within(bounds, bounds.near if near is None else near, bounds.far if far is None else far)
    if not 0 < bounds.near < bounds.far:
        raise AirjaxError(
            f"{scene.source}: expected near below far, both above 0, got {bounds.near:g} and {bounds.far:g}"
        )
    return bounds


class InSight(NamedTuple):
    """What a view shows of some points."""

    numbers: Int[np.ndarray, " k"]  # of the points
    pixels: Float[np.ndarray, "k 2"]  # x and y
    depths: Float[np.ndarray, " k"]  # world units


def pixels_in_sight(scene: Scene, points: Float[np.ndarray, "p 3"]) -> list[InSight]:
    """The points that each view shows: in front of its camera and within its image, whether or not others hide them."""
    height, width = scene.images.shape[1:3]
    found = []
    for i in range(len(scene.images)):
        camera = scene.cameras[i]
        with np.errstate(invalid="ignore"):  # points at infinity are in front of no camera
            local = points @ camera.rotation.T + camera.translation
        numbers = np.flatnonzero(local[:, 2] > 0)
        local = local[numbers]
        pixels = local @ camera.intrinsics[:2].T / local[:, 2:]
        inside = np.all((pixels > 0) & (pixels < [width, height]), axis=1)
        found.append(InSight(numbers[inside], pixels[inside], local[inside, 2]))
    return found


def depth_bounds(depths: Float[np.ndarray, " k"]) -> tuple[float, float]:
    """(near, far) that hold 98 % of some depths, and a quarter more on either side."""
    near, far = np.quantile(depths, [(1 - _SHARE) / 2, (1 + _SHARE) / 2])
    return float(near / _SLACK), float(far * _SLACK)


def _within(bounds: Bounds, near: float, far: float) -> Bounds:
    """The same with other bounds of the scene; a view that sees nothing within these has them."""
    views = np.clip(bounds.views, near, far)
    views = np.where(views[:, :1] < views[:, 1:], views, [[near, far]])
    return bounds._replace(near=near, far=far, views=views)


def _alike(scene: Scene, near: float, far: float, **fields) -> Bounds:
    return Bounds(near, far, np.tile(np.array([near, far], float), (len(scene.images), 1)), **fields)


def _of_points(scene: Scene, points: Float[np.ndarray, "p 3"]) -> Bounds | None:
    """None where the views see too few of them."""
    depths = [view.depths for view in pixels_in_sight(scene, points)]
    if sum(map(len, depths)) < FEWEST:
        return None
    near, far = depth_bounds(np.concatenate(depths))
    views = [depth_bounds(part) if len(part) >= _FEW else (near, far) for part in depths]
    return Bounds(near, far, np.array(views, float))


def _of_files(scene: Scene) -> Bounds | None:
    """Of the pose file, or of its points that the views see; None where there are too few."""
    if scene.bounds is not None:
        return _alike(scene, *scene.bounds)
    bounds = _of_points(scene, scene.points)
    if bounds is None:
        return None
    notice = (
        f"depths from {bounds.near:.3g} to {bounds.far:.3g}, those of the {len(scene.points)} points of the pose file"
    )
    return bounds._replace(notices=(notice,))


def _of_photographs(scene: Scene, progress: Count | None) -> Bounds:
    found = triangulate(scene.images, scene.cameras, masks=scene.shown, source=scene.source, progress=progress)
    bounds = _of_points(scene, found.points)
    assert bounds is not None  # every point is seen by the view that it was found in
    return bounds._replace(triangulated=found, notices=(_notice(bounds, "triangulated from the photographs"),))


def _notice(bounds: Bounds, source: str) -> str:
    return f"depths from {bounds.near:.3g} to {bounds.far:.3g}, {source}"
