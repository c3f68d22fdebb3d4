"""Cameras in files: the first view of a .ply file of Gaussians, files of cameras, and folders with poses.

The first view is one comment of the .ply header, `airjax view {JSON}`, which other programs ignore.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from airjax.errors import AirjaxError
from airjax.files import display_name, read_bytes, reason
from airjax.scene.cameras import Camera
from airjax.scene.files.colmap import read_colmap
from airjax.scene.files.pose_formats import read_poses
from airjax.scene.files.posed import OPENGL, Posed, Poses, camera_of, in_proportion, world_to_camera
from airjax.scene.files.transforms import transforms_lens
from airjax.scene.files.values import LARGEST, read_matrix
from airjax.scene.origin import centers_of, origin_text, relative

View = tuple[Camera, tuple[int, int]]  # a camera and the (h, w) of its image

_MARK, _ORIGIN = "airjax view ", "airjax origin "
_MAX_SIDE = 2**15  # pixels
_DAMAGED = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError)
_NO_IMAGE = (OSError, SyntaxError, struct.error, Image.DecompressionBombError, *_DAMAGED)
_EXPECTED = (
    'expected a file of cameras ({"frames": [{"K", "R", "t", "w", "h"}, ..]}, transforms.json or camera_path.json of '
    "nerfstudio, cameras.json of 3D Gaussian Splatting)"
)


class Cameras(NamedTuple):
    """The content of a file of cameras."""

    cameras: Camera  # a stack, numpy arrays
    image_size: tuple[int, int]  # (h, w) pixels of all of them
    notices: tuple[str, ...]  # lines for the user


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
                camera = Camera(*(part.astype(np.float32) for part in _parts(camera)))
                focus, background = float(content["focus"]), np.asarray(content["background"], float)
            except _DAMAGED:
                return None
            if focus > 0 and np.isfinite(focus) and background.shape == (3,) and np.isfinite(background).all():
                return Snapshot(camera, image_size, focus, tuple(background.tolist()))
    return None


def origin_comment(origin: np.ndarray) -> str:
    """The comment of a header that tells where the coordinates of the Gaussians are counted from, (3,) float64."""
    return _ORIGIN + json.dumps(np.asarray(origin, float).tolist())


def origin_in(comments: Sequence[str]) -> np.ndarray:
    """The origin in a header, (3,) float64; 0 for a header without one, or with one that is damaged."""
    for line in comments:
        if line.startswith(_ORIGIN):
            try:
                origin = np.asarray(json.loads(line.removeprefix(_ORIGIN)), float)
            except _DAMAGED:
                break
            if origin.shape == (3,) and (np.abs(origin) < LARGEST).all():
                return origin
            break
    return np.zeros(3)


def down_of(comments: Sequence[str]) -> np.ndarray:
    """The unit vector that points down in a scene, by the comments of its header.

    It is y, as in the frames of COLMAP, unless nerfstudio's `Vertical Axis: z` is among them: there z points up.
    """
    z_up = any(line.lower().replace(" ", "") == "verticalaxis:z" for line in comments)
    return np.array([0.0, 0.0, -1.0]) if z_up else np.array([0.0, 1.0, 0.0])


def read_cameras(path: str | os.PathLike, *, origin: np.ndarray | None = None) -> Cameras:
    """The cameras of a file, or of a folder with poses; no pixel of a photograph is read.

    A file is {"frames": [{"K", "R", "t", "w", "h"}, ..]} as `cameras.json` of a scene (K in pixels, R and t world to
    camera with OpenCV axes), `transforms.json` or `camera_path.json` of nerfstudio, or `cameras.json` of 3D Gaussian
    Splatting. A folder is one that `airjax.scene.files.pose_formats` knows, a COLMAP model, or the output folder of 3D
    Gaussian Splatting. Only the first of these needs its photographs. Cameras of several image sizes all get the
    largest width and height, with a notice. Where they lie nearer to `origin` (3,) than to 0 they are those of a
    capture whose Gaussians are counted from there: they are moved along, before anything is rounded to float32.
    """
    path = Path(path)
    if path.is_dir() and not _is_list(path / "cameras.json"):
        poses = _colmap_poses(path) if _is_colmap(path) else read_poses(path)
        views, notices = _drawn(poses.views, path)
        if not views:
            raise AirjaxError(f"{display_name(path)}: expected one camera or more, found none")
        return _alike(views, [*poses.notices, *notices], origin)
    file = path / "cameras.json" if path.is_dir() else path
    name = display_name(file)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # `_camera` checks what comes out
            views, notices = _in_file(json.loads(read_bytes(file)), file)
    except AirjaxError:
        raise
    except _DAMAGED as error:
        raise AirjaxError(f"{name}: {_EXPECTED}, got something else") from error
    if not views:
        raise AirjaxError(f"{name}: {_EXPECTED}, found no frames")
    return _alike(views, notices, origin)


def _is_colmap(folder: Path) -> bool:
    """Whether a folder is itself a COLMAP model."""
    return any(all((folder / f"{name}{end}").is_file() for name in ("cameras", "images")) for end in (".bin", ".txt"))


def _colmap_poses(folder: Path) -> Poses:
    """The cameras of a COLMAP model by the names of the photographs, which need not be there."""
    model = read_colmap(folder)
    views = []
    for image in sorted(model.images, key=lambda image: image.name):
        lens = model.cameras[image.camera]._asdict()
        views.append(Posed(folder / "images" / image.name, image.rotation, image.translation, **lens))
    return Poses(views)


def _is_list(file: Path) -> bool:
    """Whether a file is there and holds a list in JSON."""
    try:
        return file.is_file() and isinstance(json.loads(read_bytes(file)), list)
    except _DAMAGED:
        return False


def _in_file(content, file: Path) -> tuple[list[View], list[str]]:
    """Cameras and notices of a file of any format; one of `_DAMAGED`, or an AirjaxError, for anything else."""
    if isinstance(content, list):
        return [_inria_camera(entry) for entry in content], []
    if "camera_path" in content:
        return _camera_path(content, file)
    frames = content["frames"]
    if not frames or "transform_matrix" not in frames[0]:
        return [_camera(frame) for frame in frames], []
    return _drawn([_transforms_view({**content, **frame}, file) for frame in frames], file)


def _transforms_view(entry: dict, file: Path) -> Posed:
    """A frame of nerfstudio, with the defaults of its file; its photograph need not be there."""
    rotation, translation = world_to_camera(read_matrix(entry["transform_matrix"], (4, 4), file))
    k, size, lens = transforms_lens(entry, file)
    image = file.parent / str(entry.get("file_path", file.name))
    return Posed(image, OPENGL @ rotation, OPENGL @ translation, k, size, lens)


def _camera_path(content: dict, file: Path) -> tuple[list[View], list[str]]:
    """A path made in nerfstudio's viewer: camera-to-world with OpenGL axes, vertical fields of view in degrees."""
    kind = content.get("camera_type", "perspective")
    if kind != "perspective":
        raise AirjaxError(f"{display_name(file)}: expected a path of perspective cameras, got {ascii(kind)[:40]}")
    height, width = content["render_height"], content["render_width"]
    views = []
    for frame in content["camera_path"]:
        rotation, translation = world_to_camera(np.asarray(frame["camera_to_world"], float).reshape(4, 4))
        focal = 0.5 * height / math.tan(0.5 * math.radians(frame["fov"]))
        k = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
        pose = {"R": OPENGL @ rotation, "t": OPENGL @ translation}
        views.append(_camera({"K": k, "w": width, "h": height} | pose))
    return views, ["the crop of the camera path is not applied"] if content.get("crop") else []


def _inria_camera(entry: dict) -> View:
    """An entry of cameras.json of 3D Gaussian Splatting: camera-to-world with OpenCV axes."""
    rotation, position = np.asarray(entry["rotation"], float).T, np.asarray(entry["position"], float)
    width, height = entry["width"], entry["height"]
    k = [[entry["fx"], 0, width / 2], [0, entry["fy"], height / 2], [0, 0, 1]]
    return _camera({"K": k, "R": rotation, "t": -rotation @ position, "w": width, "h": height})


def _drawn(poses: Sequence[Posed], source: Path) -> tuple[list[View], list[str]]:
    """Cameras without distortion for the sizes of the photographs that are there, else for those in the poses."""
    views = []
    for posed in poses:
        name, size, found = display_name(posed.file), posed.size, _size_of(posed.file)
        if found is not None and (size is None or in_proportion(found, size)):
            height, width = found
        elif size is not None:
            height, width = (round(side) for side in size)
        else:
            raise AirjaxError(f"{name}: expected the size of this image in {display_name(source)}, found none")
        k = camera_of(posed, (height, width)).intrinsics
        try:
            views.append(_camera({"K": k, "R": posed.rotation, "t": posed.translation, "w": width, "h": height}))
        except _DAMAGED as error:
            raise AirjaxError(f"{name}: no camera to draw with ({reason(error)})") from error
    bent = any(posed.lens.bends for posed in poses)
    return views, ["drawn without the lens distortion of the poses"] if bent else []


def _size_of(file: Path) -> tuple[int, int] | None:
    """The (h, w) of an upright photograph, of which only the header is read; None where there is none."""
    try:
        if not file.is_file():
            return None
        with Image.open(file) as image:
            width, height = image.size
            tags = Image.Image.getexif(image)  # that of PNG would read the pixels to find more
            is_turned = tags.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except _NO_IMAGE:
        return None
    return (width, height) if is_turned else (height, width)


def _parts(camera: Camera) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(part) for part in (camera.intrinsics, camera.rotation, camera.translation))


def _alike(views: Sequence[View], notices: Sequence[str], origin: np.ndarray | None) -> Cameras:
    """One camera or more, all with the largest width and height: smaller ones see more, as much on opposite sides."""
    sizes = {size for _, size in views}
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    cameras = Camera(*map(np.stack, zip(*(_parts(camera) for camera, _ in views), strict=True)))
    if origin is not None and np.any(origin) and _is_near(cameras, origin):
        cameras = relative(cameras, origin)
        notices = [*notices, f"cameras moved to the origin of the Gaussians, {origin_text(origin)}"]
    if len(sizes) > 1:
        margins = np.array([[(width - w) / 2, (height - h) / 2] for _, (h, w) in views])
        cameras.intrinsics[:, :2, 2] += margins
        notices = [*notices, f"cameras of {len(sizes)} image sizes are all drawn at {width}x{height}"]
    return Cameras(Camera(*(part.astype(np.float32) for part in _parts(cameras))), (height, width), tuple(notices))


def _is_near(cameras: Camera, origin: np.ndarray) -> bool:
    """Whether cameras lie nearer to an origin than to 0."""
    center = np.median(centers_of(cameras), axis=0)
    return bool(np.linalg.norm(center - origin) < np.linalg.norm(center))


def _camera(content: dict) -> View:
    """A camera in float64, and its image size; one of `_DAMAGED` is raised for anything else."""
    k, r, t = (np.asarray(content[key], np.float64) for key in ("K", "R", "t"))
    width, height = int(content["w"]), int(content["h"])
    if (k.shape, r.shape, t.shape) != ((3, 3), (3, 3), (3,)) or not all((np.abs(a) < LARGEST).all() for a in (k, r, t)):
        raise ValueError("K, R, t: expected finite numbers, 3 x 3, 3 x 3 and 3")
    is_rotation = np.abs(r).max() <= 2 and np.abs(r @ r.T - np.eye(3)).max() <= 1e-3 and np.linalg.det(r) >= 0
    if not is_rotation or min(k[0, 0], k[1, 1]) <= 0:
        raise ValueError("K, R: expected focal lengths > 0 and a rotation")
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise ValueError("w, h: expected the sides of an image")
    return Camera(k, r, t), (height, width)
