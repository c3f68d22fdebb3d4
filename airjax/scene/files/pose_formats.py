"""Pose files of any common format: which photographs a scene has, and the camera of each.

The files of a folder tell its format (`FORMATS`); its reader turns them into `Poses`. All poses become world-to-camera
with OpenCV axes, in float64. Nothing in a file is trusted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name, reason
from airjax.photographs import IMAGE_SUFFIXES
from airjax.scene.files.colmap import read_colmap

_OPENGL = np.diag([1.0, -1.0, -1.0])  # y up and z backwards to y down and z forwards
# What numpy's reader of headers raises on damaged ones.
_NO_ARRAY = (OSError, ValueError, TypeError, KeyError, EOFError, OverflowError, SyntaxError, TokenError, RecursionError)
_LARGEST = 1e30  # of a number in a pose; float32 holds 1e38


class Posed(NamedTuple):
    """One photograph and its camera, as a pose file has them.

    Fields:
      file: the image.
      rotation: (3, 3) world to camera, OpenCV axes.
      translation: (3,) world units.
      intrinsics: (3, 3) K in pixels of the size below; or the horizontal field of view in radians of a camera with
        square pixels and the principal point in the middle.
      size: (h, w) that K is for; None for the size of the image itself.
      distortion: k1, k2, p1, p2, k3 of OpenCV.
      split: "train", "val", "test", or "" where the pose file does not say.
    """

    file: Path
    rotation: np.ndarray
    translation: np.ndarray
    intrinsics: np.ndarray | float
    size: tuple[float, float] | None = None
    distortion: tuple[float, ...] = (0.0,) * 5
    split: str = ""


@dataclass(frozen=True)
class Poses:
    """The content of a pose file.

    Fields:
      views: photographs that are there.
      bounds: (near, far) of the scene, world units, where the file holds them.
      points: (p, 3) points of the scene; p may be 0.
      notices: lines for the user.
    """

    views: list[Posed]
    bounds: tuple[float, float] | None = None
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    notices: tuple[str, ...] = ()


class Format(NamedTuple):
    """A format of pose files.

    Fields:
      pattern: its files in the folder of a scene.
      read: (folder, files that match) to its poses.
      matches: whether a folder with such files really has this format.
    """

    pattern: str
    read: Callable[[Path, list[Path]], Poses]
    matches: Callable[[Path], bool] = lambda folder: True


def read_poses(folder: Path) -> Poses:
    """The poses in a folder, by the first of `FORMATS` whose files are there.

    Raises:
      AirjaxError: no pose file, a damaged one, or poses that are no rotations or not finite.
    """
    for form in FORMATS:
        files = sorted(folder.glob(form.pattern))
        if files and form.matches(folder):
            with np.errstate(over="ignore", invalid="ignore"):  # checked below
                poses = form.read(folder, files)
            for view in poses.views:
                _check_pose(view)
            return poses
    raise AirjaxError(
        f"{display_name(folder)}: expected poses (transforms.json, poses_bounds.npy, a COLMAP model in sparse/0, or "
        f"cameras.json), found none"
    )


def _check_pose(view: Posed) -> None:
    name = display_name(view.file)
    angle = view.intrinsics if isinstance(view.intrinsics, float) else None
    k = view.intrinsics if isinstance(view.intrinsics, np.ndarray) else np.eye(3)
    if not all((np.abs(part) < _LARGEST).all() for part in (k, view.rotation, view.translation)):  # false for NaN
        raise AirjaxError(f"{name}: expected a pose of finite numbers, got NaN, infinity or a number above {_LARGEST}")
    if not all(math.isfinite(number) for number in view.distortion):
        raise AirjaxError(f"{name}: expected a finite lens distortion, got {view.distortion}")
    error = np.abs(view.rotation @ view.rotation.T - np.eye(3)).max()
    if error > 1e-3 or np.linalg.det(view.rotation) < 0:
        raise AirjaxError(f"{name}: expected a rotation in its pose, got a matrix that is none")
    if min(k[0, 0], k[1, 1]) <= 0:
        raise AirjaxError(f"{name}: expected a focal length > 0, got {min(k[0, 0], k[1, 1]):g}")
    if angle is not None and not 0 < angle < math.pi:
        raise AirjaxError(f"{name}: expected a field of view between 0 and 180 degrees, got {angle:g} rad")
    if view.size is not None and not all(1 <= side < _LARGEST for side in view.size):
        raise AirjaxError(f"{name}: expected an image of 1 pixel or more in its pose, got {view.size}")


# --- readers ---------------------------------------------------------------------------------------------------------


def _read_transforms(folder: Path, files: list[Path]) -> Poses:
    """nerfstudio, instant-ngp and Blender: camera-to-world, OpenGL axes."""
    views, listed = [], 0
    for file in files:
        content = _json(file)
        split = file.stem.removeprefix("transforms").removeprefix("_")
        split = split if split in ("train", "val", "test") else ""
        frames = _entry(content, "frames", list, file)
        listed += len(frames)
        for frame in frames:
            image = _image_file(folder, _entry(frame, "file_path", str, file))
            if image is None:
                continue
            rotation, translation = _to_camera(_matrix(_entry(frame, "transform_matrix", list, file), (4, 4), file))
            k, size, distortion = _transforms_lens({**content, **frame}, file)
            views.append(Posed(image, _OPENGL @ rotation, _OPENGL @ translation, k, size, distortion, split))
    if not views:
        raise AirjaxError(f"{display_name(files[0])}: expected the images that it lists, found none of {listed}")
    return Poses(views, notices=_missing(listed - len(views), listed, "pose file"))


def _transforms_lens(
    entry: dict, file: Path
) -> tuple[np.ndarray | float, tuple[float, float] | None, tuple[float, ...]]:
    """(intrinsics, size, distortion) as `Posed` has them, of a frame with the defaults of its file."""
    name = display_name(file)
    if entry.get("camera_model", "OPENCV") not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE"):
        raise AirjaxError(f"{name}: expected a perspective camera, got {_short(entry['camera_model'])}")
    keys = ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "k1", "k2", "p1", "p2", "k3")
    numbers = {key: _number(entry[key], key, file) for key in keys if key in entry}
    distortion = tuple(numbers.get(key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3"))
    if "fl_x" in numbers:
        for key in ("w", "h"):
            if key not in numbers:
                raise AirjaxError(f"{name}: expected {key!r} beside fl_x, found none")
        w, h, fx = numbers["w"], numbers["h"], numbers["fl_x"]
        fy, cx, cy = numbers.get("fl_y", fx), numbers.get("cx", w / 2), numbers.get("cy", h / 2)
        return _intrinsics(fx, fy, cx, cy), (h, w), distortion
    if "camera_angle_x" not in numbers:
        raise AirjaxError(f"{name}: expected fl_x or camera_angle_x, found neither")
    return numbers["camera_angle_x"], None, distortion


def _read_llff(folder: Path, files: list[Path]) -> Poses:
    """LLFF: rows of 17 numbers, 3 x 5 camera-to-world [R | t | h w f] with axes down, right, back; near, far."""
    file = files[0]
    try:
        rows = np.lib.format.open_memmap(file, mode="r")  # a map: a header that lies allocates nothing
    except _NO_ARRAY as error:
        raise AirjaxError(f"{display_name(file)}: expected an array of poses (.npy), got something else") from error
    if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "fiu":
        raise AirjaxError(f"{display_name(file)}: expected an array (views, 17) of numbers, got {rows.shape}")
    images = _images_in(folder / "images")
    if len(images) != len(rows):
        raise AirjaxError(f"{display_name(file)}: expected {len(rows)} images in images/, found {len(images)}")
    views = []
    for image, row in zip(images, rows.astype(float), strict=True):
        down, right, back, center, (h, w, focal) = row[:15].reshape(3, 5).T
        rotation = np.stack([right, down, -back])
        intrinsics = _intrinsics(focal, focal, w / 2, h / 2)
        views.append(Posed(image, rotation, -rotation @ center, intrinsics, (h, w)))
    return Poses(views, _bounds(rows[:, 15].min(), rows[:, 16].max(), file))


def _read_colmap(folder: Path, files: list[Path]) -> Poses:
    """COLMAP: world-to-camera, OpenCV axes."""
    model = read_colmap(files[0].parent)
    views = []
    for image in model.images:
        places = (_image_file(folder / root, image.name) for root in ("images", ""))
        file = next((place for place in places if place is not None), None)
        if file is not None:
            lens = model.cameras[image.camera]._asdict()
            views.append(Posed(file, image.rotation, image.translation, **lens))
    views.sort(key=lambda view: view.file.name)
    if not views:
        raise AirjaxError(f"{display_name(files[0].parent)}: expected the images of the model, found none of them")
    points = model.points[(np.abs(model.points) < _LARGEST).all(axis=1)]
    notices = _missing(len(model.images) - len(views), len(model.images), "model")
    return Poses(views, points=points, notices=notices)


def _read_plain(folder: Path, files: list[Path]) -> Poses:
    """Plain cameras: {"frames": [{"file_path", "K": 3 x 3, "R": 3 x 3, "t": 3}], "near", "far"}, world-to-camera."""
    file = files[0]
    content = _json(file)
    views = []
    for frame in _entry(content, "frames", list, file):
        path = _entry(frame, "file_path", str, file)
        image = _image_file(folder, path)
        if image is None:
            raise AirjaxError(f"{display_name(folder / path)}: expected an image of the pose file, found none")
        k, r = (_matrix(_entry(frame, key, list, file), (3, 3), file) for key in ("K", "R"))
        t = _matrix(_entry(frame, "t", list, file), (3,), file)
        has_size = "w" in frame and "h" in frame
        size = (_number(frame["h"], "h", file), _number(frame["w"], "w", file)) if has_size else None
        views.append(Posed(image, r, t, k, size))
    if "near" not in content or "far" not in content:
        return Poses(views)
    near, far = (_number(content[key], key, file) for key in ("near", "far"))
    return Poses(views, _bounds(near, far, file))


def _read_strecha(folder: Path, files: list[Path]) -> Poses:
    """Strecha et al.: K, zeros, R camera-to-world, C, then width and height; one file per image."""
    views = []
    for file in files:
        numbers = _numbers(file, 26)
        k, r, c, (w, h) = numbers[:9].reshape(3, 3), numbers[12:21].reshape(3, 3), numbers[21:24], numbers[24:]
        image = _image_file(folder / "images", file.name.removesuffix(".camera"))
        if image is not None:
            views.append(Posed(image, r.T, -r.T @ c, k, (h, w)))
    return Poses(views)


def _read_frames(folder: Path, files: list[Path]) -> Poses:
    """TSDF-Fusion: a 4 x 4 camera-to-world matrix per image, and the intrinsics of all in camera-intrinsics.txt."""
    k = _numbers(folder / "camera-intrinsics.txt", 9).reshape(3, 3)
    views = []
    for file in files:
        rotation, translation = _to_camera(_numbers(file, 16).reshape(4, 4))
        stem = file.name.removesuffix(".pose.txt")
        image = next(iter(sorted((folder / "images").glob(f"{stem}.*"))), None)
        if image is not None:
            views.append(Posed(image, rotation, translation, k))
    return Poses(views)


def _read_seven_scenes(folder: Path, files: list[Path]) -> Poses:
    """7-Scenes: poses as TSDF-Fusion has them, but camera-intrinsics.txt is of the depth camera.

    The color camera of that sensor (Kinect, 640 x 480) has a focal length of 525 pixels, not 585, and fits the poses
    better.
    """
    poses = _read_frames(folder, files)
    color = _intrinsics(525.0, 525.0, 320.0, 240.0)
    notice = "focal length 525 of the colour camera used instead of 585, which is that of the depth camera"
    views = [view._replace(intrinsics=color, size=(480.0, 640.0)) for view in poses.views]
    return Poses(views, notices=(notice,))


def _is_seven_scenes(folder: Path) -> bool:
    """Whether the intrinsics are those of the depth camera that all of 7-Scenes was recorded with."""
    k = _numbers(folder / "camera-intrinsics.txt", 9)
    return bool(np.abs(k - [585, 0, 320, 0, 585, 240, 0, 0, 1]).max() < 1)


FORMATS = (  # the first one that matches is taken
    Format("transforms.json", _read_transforms),
    Format("transforms_*.json", _read_transforms),
    Format("poses_bounds.npy", _read_llff),
    Format("sparse/0/cameras.*", _read_colmap),
    Format("colmap/sparse/0/cameras.*", _read_colmap),
    Format("sparse/cameras.*", _read_colmap),
    Format("cameras.bin", _read_colmap),
    Format("cameras.txt", _read_colmap),
    Format("cameras.json", _read_plain),
    Format("gt_dense_cameras/*.camera", _read_strecha),
    Format("poses/*.pose.txt", _read_seven_scenes, _is_seven_scenes),
    Format("poses/*.pose.txt", _read_frames),
)


# --- parts of pose files ---------------------------------------------------------------------------------------------


def _intrinsics(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def _to_camera(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rotation, translation), world to camera, of a 4 x 4 camera-to-world matrix."""
    rotation = pose[:3, :3].T
    return rotation, -rotation @ pose[:3, 3]


def _bounds(near: float, far: float, file: Path) -> tuple[float, float]:
    if not 0 < near < far < _LARGEST:
        raise AirjaxError(f"{display_name(file)}: expected 0 < near < far, got {near} and {far}")
    return float(near), float(far)


def _missing(count: int, listed: int, what: str) -> tuple[str, ...]:
    return (f"{count} of {listed} images of the {what} are not there, and are left out",) if count else ()


def _image_file(folder: Path, name: str) -> Path | None:
    """The image of a name in a pose file, which may lack the suffix; None where there is none."""
    path = folder / name
    try:
        if path.is_file():
            return path
        return next((p for suffix in IMAGE_SUFFIXES if (p := path.with_name(path.name + suffix)).is_file()), None)
    except (OSError, ValueError):  # no name that a file could have
        return None


def _images_in(folder: Path) -> list[Path]:
    """Images of a folder by name."""
    if not folder.is_dir():
        raise AirjaxError(f"{display_name(folder)}: expected a folder of images, found none")
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        name = display_name(file)
        raise AirjaxError(f"{name}: expected a pose file in JSON, got something else ({reason(error)})") from error
    if not isinstance(content, dict):
        raise AirjaxError(f"{display_name(file)}: expected a JSON object, got {type(content).__name__}")
    return content


def _entry(content, key: str, kind: type, file: Path):
    if not isinstance(content, dict) or not isinstance(content.get(key), kind):
        raise AirjaxError(f"{display_name(file)}: expected an entry {key!r}, found none that is a {kind.__name__}")
    return content[key]


def _number(value, key: str, file: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise AirjaxError(f"{display_name(file)}: expected a number as {key!r}, got {_short(value)}")
    return float(value)


def _matrix(value, shape: tuple[int, ...], file: Path) -> np.ndarray:
    try:
        matrix = np.asarray(value, float)
    except (TypeError, ValueError, OverflowError) as error:
        raise AirjaxError(f"{display_name(file)}: expected a matrix of numbers, got something else") from error
    if matrix.shape != shape:
        raise AirjaxError(f"{display_name(file)}: expected a matrix of shape {shape}, got {matrix.shape}")
    return matrix


def _numbers(file: Path, count: int) -> np.ndarray:
    """The numbers of a text file."""
    try:
        numbers = np.array([float(word) for word in file.read_text(encoding="utf-8").split()])
    except (OSError, ValueError) as error:
        raise AirjaxError(f"{display_name(file)}: expected {count} numbers, found something else") from error
    if len(numbers) != count:
        raise AirjaxError(f"{display_name(file)}: expected {count} numbers, found {len(numbers)}")
    return numbers


def _short(value) -> str:
    """A value from a file for a message."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**9 else "a huge number"
    return text if len(text) < 80 else text[:77] + "..."
