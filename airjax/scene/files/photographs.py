"""Folders of posed photographs to scenes: poses of any common format, images read, undistorted and made smaller.

Which format a folder has is seen from its files (`FORMATS`): a reader turns them into `Posed`, and everything after
that is the same for all. All poses become world-to-camera with OpenCV axes; intrinsics follow the size of the image
that is there, so images may have been made smaller since the poses were computed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.photographs import IMAGE_SUFFIXES, read_image
from airjax.scene.cameras import Camera
from airjax.scene.files.colmap import read_colmap

MAX_SIZE = 512  # pixels; longer sides are made so long unless the caller asks for more
_EMPTY = 1 / 1024  # how far from white a pixel may be that shows a white background alone
_OPENGL = np.diag([1.0, -1.0, -1.0])  # y up and z backwards to y down and z forwards


class Posed(NamedTuple):
    """One photograph and its camera, as a pose file tells.

    Fields:
      file: the image.
      intrinsics: (3, 3) K in pixels of the size below.
      rotation: (3, 3) world to camera, OpenCV axes.
      translation: (3,).
      size: (w, h) that the intrinsics are for; None for that of the image.
      distortion: k1, k2, p1, p2, k3 of OpenCV.
      split: "train", "test" or "" where the pose file does not say.
    """

    file: Path
    intrinsics: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    size: tuple[float, float] | None = None
    distortion: tuple[float, ...] = (0.0,) * 5
    split: str = ""


@dataclass(frozen=True)
class Poses:
    """What a pose file says of a scene.

    Fields:
      views: photographs that are there.
      bounds: (near, far) of the scene, world units, where the file knows them.
      points: (p, 3) points of the scene; p may be 0.
      notices: lines for the user.
    """

    views: list[Posed]
    bounds: tuple[float, float] | None = None
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """Photographs with their cameras; numpy arrays.

    Fields:
      names: of the image files, in the order of the pose file.
      images: (v, h, w, 3) float32 in [0, 1], sRGB.
      cameras: a stack of v.
      bounds: (near, far), world units; None where the files do not tell (`airjax.scene.triangulate` finds them).
      points: (p, 3) points of the scene, p may be 0.
      splits: of each view "train", "test" or "".
      white: whether what is behind everything is white (images with a transparent background), else black.
      notices: lines for the user.
    """

    names: tuple[str, ...]
    images: np.ndarray
    cameras: Camera
    bounds: tuple[float, float] | None
    points: np.ndarray
    splits: tuple[str, ...]
    white: bool
    notices: tuple[str, ...]

    @property
    def background(self) -> np.ndarray:
        """(3,) colour behind everything."""
        return np.full(3, float(self.white), np.float32)

    @property
    def empty(self) -> np.ndarray:
        """(v, h, w) bool, pixels that show a transparent background, and those of its pure white; none without one."""
        return self.white & np.all(self.images > 1 - _EMPTY, axis=-1)

    def shrunk(self, max_size: int) -> Scene:
        """The same photographs, made smaller where a side is longer than so many pixels."""
        images, cameras = shrink(self.images, self.cameras, max_size=max_size)
        return replace(self, images=images, cameras=cameras)

    def take(self, views: Sequence[int]) -> Scene:
        """Some of the views."""
        index = np.asarray(views, int)
        return Scene(
            tuple(self.names[i] for i in index),
            self.images[index],
            Camera(*(getattr(self.cameras, name)[index] for name in ("intrinsics", "rotation", "translation"))),
            self.bounds,
            self.points,
            tuple(self.splits[i] for i in index),
            self.white,
            self.notices,
        )


def load(folder: str | os.PathLike, *, max_size: int = MAX_SIZE) -> Scene:
    """A folder of photographs with poses.

    Args:
      folder: with one of the pose files of `FORMATS`.
      max_size: longest side of an image, pixels; larger ones are made smaller, which is a notice.

    Raises:
      AirjaxError: no such folder, no pose file, damaged ones, poses that are no rotations or not finite, images that
        are missing, of mixed sizes, or cannot be read; fewer than two views.
    """
    folder, name = Path(folder), display_name(folder)
    if not folder.is_dir():
        raise AirjaxError(f"{name}: expected a folder of photographs with poses, found {_what(folder)}")
    poses = read_poses(folder)
    if len(poses.views) < 2:
        raise AirjaxError(f"{name}: expected at least 2 photographs with poses, found {len(poses.views)}")
    for view in poses.views:
        _check_pose(view)
    images, intrinsics, notices, whites = [], [], list(poses.notices), []
    size = None
    for view in poses.views:
        image, scaled, said, white = _read_view(view, max_size)
        if size is not None and image.shape[:2] != size:
            raise AirjaxError(
                f"{display_name(view.file)}: expected an image of {size[1]}x{size[0]} pixels like the others of its "
                f"scene, got {image.shape[1]}x{image.shape[0]}"
            )
        size = image.shape[:2]
        images.append(image)
        intrinsics.append(scaled)
        whites.append(white)
        notices += [line for line in said if line not in notices]
    return Scene(
        tuple(view.file.name for view in poses.views),
        np.stack(images),
        Camera(
            np.stack(intrinsics).astype(np.float32),
            np.stack([view.rotation for view in poses.views]).astype(np.float32),
            np.stack([view.translation for view in poses.views]).astype(np.float32),
        ),
        poses.bounds,
        poses.points.astype(np.float32),
        tuple(view.split for view in poses.views),
        all(whites),
        tuple(notices),
    )


def read_poses(folder: Path) -> Poses:
    """The first format whose files are there.

    Raises:
      AirjaxError: none is; or its reader's complaint.
    """
    for pattern, reader in FORMATS.items():
        if found := sorted(folder.glob(pattern)):
            return reader(folder, found)
    raise AirjaxError(
        f"{display_name(folder)}: expected poses (transforms.json, poses_bounds.npy, a COLMAP model in sparse/0, or "
        f"cameras.json), found none"
    )


# --- readers ---------------------------------------------------------------------------------------------------------


def _read_transforms(folder: Path, files: list[Path]) -> Poses:
    """nerfstudio, instant-ngp and Blender: camera-to-world, OpenGL axes."""
    views, missing, listed = [], 0, 0
    for file in files:
        content = _json(file)
        split = file.stem.removeprefix("transforms").removeprefix("_")
        split = split if split in ("train", "test") else ""
        frames = _entry(content, "frames", list, file)
        listed += len(frames)
        for frame in frames:
            image = _image_file(folder, str(_entry(frame, "file_path", str, file)))
            if image is None:
                missing += 1
                continue
            pose = _matrix(_entry(frame, "transform_matrix", list, file), (4, 4), file)
            rotation = (pose[:3, :3] @ _OPENGL).T
            intrinsics, size, distortion = _transforms_camera({**content, **frame}, file)
            views.append(Posed(image, intrinsics, rotation, -rotation @ pose[:3, 3], size, distortion, split))
    notices = (f"{missing} of {listed} images of the pose file are not there, and are left out",) if missing else ()
    if not views:
        raise AirjaxError(f"{display_name(files[0])}: expected the images that it lists, found none of {listed}")
    return Poses(views, notices=notices)


def _transforms_camera(entry: dict, file: Path):
    """Intrinsics, their image size or None, and the distortion of one frame, with the defaults of its file."""
    if entry.get("camera_model", "OPENCV") not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE"):
        raise AirjaxError(f"{display_name(file)}: expected a perspective camera, got {entry['camera_model']!r}")
    numbers = {}
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "k1", "k2", "p1", "p2", "k3"):
        if key in entry:
            numbers[key] = _number(entry[key], key, file)
    distortion = tuple(numbers.get(key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3"))
    if "fl_x" in numbers:
        missing = [key for key in ("w", "h") if key not in numbers]
        if missing:
            raise AirjaxError(f"{display_name(file)}: expected {missing[0]!r} beside fl_x, found none")
        w, h, fx = numbers["w"], numbers["h"], numbers["fl_x"]
        fy, cx, cy = numbers.get("fl_y", fx), numbers.get("cx", w / 2), numbers.get("cy", h / 2)
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), (w, h), distortion
    if "camera_angle_x" not in numbers:
        raise AirjaxError(f"{display_name(file)}: expected fl_x or camera_angle_x, found neither")
    # A field of view knows no size: intrinsics of an image one pixel wide, made larger with it.
    return (
        np.array([[0.5 / math.tan(0.5 * numbers["camera_angle_x"]), 0, 0.5], [0, 0, 0], [0, 0, 1.0]]),
        None,
        distortion,
    )


def _read_llff(folder: Path, files: list[Path]) -> Poses:
    """LLFF: rows of 17 numbers, 3 x 5 camera-to-world [R | t | h w f] with axes down, right, back; near, far."""
    file = files[0]
    try:
        rows = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise AirjaxError(f"{display_name(file)}: expected an array of poses (.npy), got something else") from error
    if rows.ndim != 2 or rows.shape[1] != 17:
        raise AirjaxError(f"{display_name(file)}: expected an array (views, 17), got {rows.shape}")
    images = _images_in(folder / "images")
    if len(images) != len(rows):
        raise AirjaxError(f"{display_name(file)}: expected {len(rows)} images in images/, found {len(images)}")
    views = []
    for image, row in zip(images, rows.astype(float), strict=True):
        pose = row[:15].reshape(3, 5)
        down, right, back = pose[:, 0], pose[:, 1], pose[:, 2]
        rotation = np.stack([right, down, -back])
        h, w, f = pose[:, 4]
        intrinsics = np.array([[f, 0, w / 2], [0, f, h / 2], [0, 0, 1.0]])
        views.append(Posed(image, intrinsics, rotation, -rotation @ pose[:, 3], (w, h)))
    return Poses(views, bounds=(float(rows[:, 15].min()), float(rows[:, 16].max())))


def _read_colmap(folder: Path, files: list[Path]) -> Poses:
    """COLMAP: world-to-camera, OpenCV axes."""
    model = read_colmap(files[0].parent)
    views, missing = [], 0
    for image in model.images:
        file = next((f for root in ("images", "") if (f := _image_file(folder / root, image.name)) is not None), None)
        if file is None:
            missing += 1
            continue
        camera = model.cameras[image.camera]
        views.append(Posed(file, camera.intrinsics, image.rotation, image.translation, camera.size, camera.distortion))
    views.sort(key=lambda view: view.file.name)
    if not views:
        raise AirjaxError(f"{display_name(files[0].parent)}: expected the images of the model, found none of them")
    notices = (f"{missing} of {len(model.images)} images of the model are not there, and are left out",)
    return Poses(views, points=model.points, notices=notices if missing else ())


def _read_plain(folder: Path, files: list[Path]) -> Poses:
    """Plain cameras: {"frames": [{"file_path", "K": 3 x 3, "R": 3 x 3, "t": 3}], "near", "far"}, world-to-camera."""
    file = files[0]
    content = _json(file)
    views = []
    for frame in _entry(content, "frames", list, file):
        path = str(_entry(frame, "file_path", str, file))
        image = _image_file(folder, path)
        if image is None:
            raise AirjaxError(f"{display_name(folder / path)}: expected an image of the pose file, found none")
        k, r = (_matrix(_entry(frame, key, list, file), (3, 3), file) for key in ("K", "R"))
        t = _matrix(_entry(frame, "t", list, file), (3,), file)
        size = (float(frame["w"]), float(frame["h"])) if "w" in frame and "h" in frame else None
        if size is None:
            size = _image_size(image)
        views.append(Posed(image, k, r, t, size))
    bounds = None
    if "near" in content and "far" in content:
        bounds = (_number(content["near"], "near", file), _number(content["far"], "far", file))
        if not 0 < bounds[0] < bounds[1]:
            raise AirjaxError(f"{display_name(file)}: expected 0 < near < far, got {bounds[0]} and {bounds[1]}")
    return Poses(views, bounds=bounds)


def _read_strecha(folder: Path, files: list[Path]) -> Poses:
    """Strecha et al.: K, zeros, R camera-to-world, C, then width and height; one file per image."""
    views = []
    for file in files:
        numbers = _numbers(file, 26)
        k, r, c, size = numbers[:9].reshape(3, 3), numbers[12:21].reshape(3, 3), numbers[21:24], numbers[24:]
        image = _image_file(folder / "images", file.name.removesuffix(".camera"))
        if image is not None:
            views.append(Posed(image, k, r.T, -r.T @ c, (float(size[0]), float(size[1]))))
    return Poses(views)


def _read_frames(folder: Path, files: list[Path]) -> Poses:
    """7-Scenes and TSDF-Fusion: 4 x 4 camera-to-world per image, and the intrinsics of the depth camera.

    The colour camera of that sensor has another focal length, 525 against 585 pixels, and fits the poses better.
    """
    k = _numbers(folder / "camera-intrinsics.txt", 9).reshape(3, 3)
    notices = ()
    if abs(k[0, 0] - 585) < 1:
        k = np.array([[525.0, 0, 320], [0, 525.0, 240], [0, 0, 1]])
        notices = ("focal length 525 of the colour camera used instead of 585, which is that of the depth camera",)
    views = []
    for file in files:
        pose = _numbers(file, 16).reshape(4, 4)
        stem = file.name.removesuffix(".pose.txt")
        image = next(iter(sorted((folder / "images").glob(f"{stem}.*"))), None)
        if image is not None:
            rotation = pose[:3, :3].T
            views.append(Posed(image, k, rotation, -rotation @ pose[:3, 3], (640.0, 480.0)))
    return Poses(views, notices=notices)


# File pattern of each format -> its reader (folder, matching files) -> Poses; the first that matches is taken.
FORMATS: dict[str, Callable[[Path, list[Path]], Poses]] = {
    "transforms.json": _read_transforms,
    "transforms_*.json": _read_transforms,
    "poses_bounds.npy": _read_llff,
    "sparse/0/cameras.*": _read_colmap,
    "colmap/sparse/0/cameras.*": _read_colmap,
    "sparse/cameras.*": _read_colmap,
    "cameras.bin": _read_colmap,
    "cameras.txt": _read_colmap,
    "cameras.json": _read_plain,
    "gt_dense_cameras/*.camera": _read_strecha,
    "poses/*.pose.txt": _read_frames,
}


# --- images ----------------------------------------------------------------------------------------------------------


def _read_view(view: Posed, max_size: int):
    """(image, intrinsics for it, notices, whether it had a transparent background)."""
    loaded = read_image(view.file)
    height, width = loaded.pixels.shape[:2]
    intrinsics = view.intrinsics.astype(float)
    if view.size is None:
        f = intrinsics[0, 0] * width
        intrinsics = np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]])
    else:
        scale = width / view.size[0], height / view.size[1]
        if abs(scale[0] / scale[1] - 1) > 0.02:
            raise AirjaxError(
                f"{display_name(view.file)}: expected the proportions of {view.size[0]:.0f}x{view.size[1]:.0f} pixels "
                f"as in the pose file, got {width}x{height}"
            )
        intrinsics = np.diag([*scale, 1.0]) @ intrinsics
    image, notices = loaded.pixels, list(loaded.notices)
    if any(view.distortion):
        image = undistort(image, intrinsics, view.distortion)
        notices.append("lens distortion removed")
    if max(height, width) > max_size:
        size = [max(1, round(side * max_size / max(height, width))) for side in (width, height)]
        image = resize(image, size)
        intrinsics = np.diag([size[0] / width, size[1] / height, 1.0]) @ intrinsics
        notices.append(f"photographs of {width}x{height} pixels made smaller, to {size[0]}x{size[1]}")
    return image, intrinsics, notices, any("transparent parts" in line for line in loaded.notices)


def resize(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(h, w, 3) float pixels in another (w, h): means over the area of each pixel."""
    channels = [np.asarray(Image.fromarray(image[..., c]).resize(size, Image.Resampling.BOX)) for c in range(3)]
    return np.stack(channels, axis=-1)


def shrink(images: np.ndarray, cameras: Camera, *, max_size: int, multiple: int = 1) -> tuple[np.ndarray, Camera]:
    """Smaller (v, h, w, 3) images, and the cameras for them.

    Args:
      images: in [0, 1].
      cameras: a stack of v.
      max_size: pixels of the longest side, before it is rounded.
      multiple: pixels; sides are rounded to multiples of it, those of images that are small enough too.
    """
    height, width = images.shape[1:3]
    scale = min(1.0, max_size / max(height, width))
    size = [max(1, round(side * scale / multiple)) * multiple for side in (width, height)]
    if size == [width, height]:
        return images, cameras
    factors = np.diag([size[0] / width, size[1] / height, 1.0]).astype(np.float32)
    smaller = Camera(factors @ np.asarray(cameras.intrinsics), cameras.rotation, cameras.translation)
    return np.stack([resize(image, size) for image in images]), smaller


def undistort(image: np.ndarray, intrinsics: np.ndarray, distortion: Sequence[float]) -> np.ndarray:
    """What a camera without distortion would have seen; (h, w, 3). Beyond the image its edge goes on.

    Args:
      image: (h, w, 3).
      intrinsics: (3, 3), of the image and of the result.
      distortion: k1, k2, p1, p2, k3 (Brown and Conrady, as OpenCV has it).
    """
    k1, k2, p1, p2, k3 = distortion
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = (x - intrinsics[0, 2]) / intrinsics[0, 0], (y - intrinsics[1, 2]) / intrinsics[1, 1]
    rr = x * x + y * y
    radial = 1 + rr * (k1 + rr * (k2 + rr * k3))
    u = x * radial + 2 * p1 * x * y + p2 * (rr + 2 * x * x)
    v = y * radial + p1 * (rr + 2 * y * y) + 2 * p2 * x * y
    u = np.clip(u * intrinsics[0, 0] + intrinsics[0, 2] - 0.5, 0, width - 1)
    v = np.clip(v * intrinsics[1, 1] + intrinsics[1, 2] - 0.5, 0, height - 1)
    i, j = np.floor(v).astype(int), np.floor(u).astype(int)
    below, right = np.minimum(i + 1, height - 1), np.minimum(j + 1, width - 1)
    a, b = (v - i)[..., None], (u - j)[..., None]
    upper = image[i, j] * (1 - b) + image[i, right] * b
    lower = image[below, j] * (1 - b) + image[below, right] * b
    return (upper * (1 - a) + lower * a).astype(np.float32)


# --- small things ----------------------------------------------------------------------------------------------------


def _check_pose(view: Posed) -> None:
    name = display_name(view.file)
    if not all(np.isfinite(part).all() for part in (view.intrinsics, view.rotation, view.translation)):
        raise AirjaxError(f"{name}: expected a pose of finite numbers, got NaN or infinity")
    if not all(math.isfinite(k) for k in view.distortion):
        raise AirjaxError(f"{name}: expected a finite lens distortion, got {view.distortion}")
    error = np.abs(view.rotation @ view.rotation.T - np.eye(3)).max()
    if error > 1e-3 or np.linalg.det(view.rotation) < 0:
        raise AirjaxError(f"{name}: expected a rotation in its pose, got a matrix that is none")
    if view.intrinsics[0, 0] <= 0 or (view.size is not None and (view.intrinsics[1, 1] <= 0 or min(view.size) < 1)):
        raise AirjaxError(f"{name}: expected a focal length > 0, got {view.intrinsics[0, 0]:g}")


def _image_file(folder: Path, name: str) -> Path | None:
    """The image of a name in a pose file, which may lack the suffix; None where there is none."""
    path = folder / name
    if path.is_file():
        return path
    return next((p for suffix in IMAGE_SUFFIXES if (p := path.with_name(path.name + suffix)).is_file()), None)


def _images_in(folder: Path) -> list[Path]:
    """Images of a folder by name."""
    if not folder.is_dir():
        raise AirjaxError(f"{display_name(folder)}: expected a folder of images, found {_what(folder)}")
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _image_size(file: Path) -> tuple[float, float]:
    height, width = read_image(file).pixels.shape[:2]
    return float(width), float(height)


def _json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise AirjaxError(f"{display_name(file)}: expected a pose file in JSON, got something else") from error
    if not isinstance(content, dict):
        raise AirjaxError(f"{display_name(file)}: expected a JSON object, got {type(content).__name__}")
    return content


def _entry(content, key: str, kind: type, file: Path):
    if not isinstance(content, dict) or not isinstance(content.get(key), kind):
        raise AirjaxError(f"{display_name(file)}: expected an entry {key!r}, found none that is a {kind.__name__}")
    return content[key]


def _number(value, key: str, file: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AirjaxError(f"{display_name(file)}: expected a number as {key!r}, got {value!r}")
    return float(value)


def _matrix(value, shape: tuple[int, ...], file: Path) -> np.ndarray:
    try:
        matrix = np.asarray(value, float)
    except (TypeError, ValueError) as error:
        raise AirjaxError(f"{display_name(file)}: expected a matrix of numbers, got something else") from error
    if matrix.shape != shape:
        raise AirjaxError(f"{display_name(file)}: expected a matrix of shape {shape}, got {matrix.shape}")
    return matrix


def _numbers(file: Path, count: int) -> np.ndarray:
    """The numbers of a text file."""
    try:
        numbers = np.array([float(word) for word in file.read_text().split()])
    except (OSError, ValueError) as error:
        raise AirjaxError(f"{display_name(file)}: expected {count} numbers, found something else") from error
    if len(numbers) != count:
        raise AirjaxError(f"{display_name(file)}: expected {count} numbers, found {len(numbers)}")
    return numbers


def _what(path: Path) -> str:
    return "a file" if path.exists() else "none"
