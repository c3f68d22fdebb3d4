"""Cameras in files: the first view of a .ply file of Gaussians, and JSON files of cameras.

The first view is one comment of the .ply header, `airjax view {JSON}`, which other programs ignore.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name, read_bytes
from airjax.scene.cameras import Camera

_MARK = "airjax view "
_MAX_SIDE = 2**15  # pixels
_DAMAGED = (ValueError, TypeError, KeyError, OverflowError, RecursionError)


class Snapshot(NamedTuple):
    """A view of a scene."""

    camera: Camera  # one, numpy arrays
    image_size: tuple[int, int]  # (h, w) pixels
    focus: float  # distance of the point that the camera looks at, world units, > 0
    background: tuple[float, float, float]  # color behind everything, three numbers in [0, 1]


def to_comment(snapshot: Snapshot) -> str:
    """The comment of a header."""
    camera, (height, width) = snapshot.camera, snapshot.image_size
    arrays = {"K": camera.intrinsics, "R": camera.rotation, "t": camera.translation}
    content = {"w": width, "h": height} | {key: np.asarray(part, float).tolist() for key, part in arrays.items()}
    content |= {"focus": float(snapshot.focus), "background": [float(x) for x in snapshot.background]}
    return _MARK + json.dumps(content)


def from_comments(comments: Sequence[str]) -> Snapshot | None:
    """The view in a header; None for a header without one, or with one that is damaged."""
    for line in comments:
        if line.startswith(_MARK):
            try:
                content = json.loads(line.removeprefix(_MARK))
                camera, image_size = _camera(content)
                focus, background = float(content["focus"]), np.asarray(content["background"], float)
            except _DAMAGED:
                return None
            if focus > 0 and np.isfinite(focus) and background.shape == (3,) and np.isfinite(background).all():
                return Snapshot(camera, image_size, focus, tuple(background.tolist()))
    return None


def read_cameras(path: str | os.PathLike) -> tuple[Camera, tuple[int, int]]:
    """(stack of cameras, (h, w) of their images) of a JSON file {"frames": [{"K", "R", "t", "w", "h"}, ..]}.

    K (3 x 3, pixels), R (3 x 3) and t (3) are world to camera with OpenCV axes, as in `cameras.json` of a scene.
    """
    name = display_name(Path(path))
    expected = f'{name}: expected a file of cameras, {{"frames": [{{"K", "R", "t", "w", "h"}}, ..]}}'
    try:
        frames = json.loads(read_bytes(path))["frames"]
        cameras = [_camera(frame) for frame in frames]
    except _DAMAGED as error:
        raise AirjaxError(f"{expected}, got something else") from error
    if not cameras:
        raise AirjaxError(f"{expected}, found no frames")
    sizes = {size for _, size in cameras}
    if len(sizes) > 1:
        raise AirjaxError(f"{name}: expected frames of one size, got {len(sizes)} sizes")
    parts = ("intrinsics", "rotation", "translation")
    return Camera(*(np.stack([getattr(camera, part) for camera, _ in cameras]) for part in parts)), sizes.pop()


def _camera(content: dict) -> tuple[Camera, tuple[int, int]]:
    """A camera and its image size; one of `_DAMAGED` is raised for anything else."""
    with np.errstate(over="ignore"):
        k, r, t = (np.asarray(content[key], np.float32) for key in ("K", "R", "t"))
    width, height = int(content["w"]), int(content["h"])
    if (k.shape, r.shape, t.shape) != ((3, 3), (3, 3), (3,)) or not all(np.isfinite(a).all() for a in (k, r, t)):
        raise ValueError("K, R, t: expected finite numbers, 3 x 3, 3 x 3 and 3")
    is_rotation = np.abs(r).max() <= 2 and np.abs(r @ r.T - np.eye(3)).max() <= 1e-3 and np.linalg.det(r) >= 0
    if not is_rotation or min(k[0, 0], k[1, 1]) <= 0:
        raise ValueError("K, R: expected focal lengths > 0 and a rotation")
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise ValueError("w, h: expected the sides of an image")
    return Camera(k, r, t), (height, width)
