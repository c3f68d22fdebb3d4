"""Photographs and their cameras as pose files have them: world-to-camera, OpenCV axes, float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.scene.cameras import Camera
from airjax.scene.files.lenses import Lens

OPENGL = np.diag([1.0, -1.0, -1.0])  # y up and z backwards to y down and z forwards


class Posed(NamedTuple):
    """One photograph and its camera, as a pose file has them."""

    file: Path  # the image
    rotation: np.ndarray  # (3, 3) world to camera, OpenCV axes
    translation: np.ndarray  # (3,) world units
    # (3, 3) K in pixels of the size below; or the horizontal field of view in radians of a camera with square pixels
    # and the principal point in the middle.
    intrinsics: np.ndarray | float
    size: tuple[float, float] | None = None  # (h, w) that K is for; None for the size of the image itself
    lens: Lens = Lens()  # what bends its rays
    split: str = ""  # "train", "val", "test", or "" where the pose file does not say
    # Whether the pose is that of the photograph turned upright by its EXIF orientation, where the size does not tell.
    # COLMAP ignores the tag, and so do the formats whose poses come from it.
    upright: bool = False
    mask: Path | None = None  # a picture that is black where the photograph is not to be looked at


def in_proportion(size: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two sizes, (h, w) each, have about the same proportions: sides that are rounded may differ a little."""
    return bool(abs(size[1] / other[1] * other[0] / size[0] - 1) <= 0.02)


def camera_of(posed: Posed, size: tuple[int, int]) -> Camera:
    """The camera of a photograph of (h, w) pixels, without its lens; in float64.

    Raises AirjaxError: other proportions than those that the pose file tells.
    """
    height, width = size
    if isinstance(posed.intrinsics, float):
        focal = 0.5 * width / np.tan(0.5 * posed.intrinsics)
        intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        return Camera(intrinsics, posed.rotation, posed.translation)
    camera = Camera(posed.intrinsics, posed.rotation, posed.translation)
    if posed.size is None:
        return camera
    if not in_proportion(size, posed.size):
        raise AirjaxError(
            f"{display_name(posed.file)}: expected the proportions of {posed.size[1]:.0f}x{posed.size[0]:.0f} pixels "
            f"as in the pose file, got {width}x{height}"
        )
    return camera.resized(posed.size, size)


@dataclass(frozen=True)
class Poses:
    """The content of a pose file."""

    views: list[Posed]  # photographs that are there
    bounds: tuple[float, float] | None = None  # (near, far) of the scene, world units, where the file holds them
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))  # (p, 3) points of the scene; p may be 0
    notices: tuple[str, ...] = ()  # lines for the user


def intrinsics_of(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """(3, 3) K, in pixels."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def world_to_camera(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rotation, translation), world to camera, of a 4 x 4 camera-to-world matrix."""
    rotation = pose[:3, :3].T
    return rotation, -rotation @ pose[:3, 3]
