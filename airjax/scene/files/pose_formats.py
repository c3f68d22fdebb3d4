"""Pose files of any common format: which photographs a scene has, and the camera of each.

The files of a folder tell its format (`FORMATS`); its reader turns them into `Poses`. All poses become world-to-camera
with OpenCV axes, in float64. Nothing in a file is trusted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name, reason
from airjax.photographs import IMAGE_SUFFIXES
from airjax.scene.cameras import Camera
from airjax.scene.files.colmap import count_images, read_colmap
from airjax.scene.files.ply import read_points

OPENGL = np.diag([1.0, -1.0, -1.0])  # y up and z backwards to y down and z forwards
# What numpy's reader of headers raises on damaged ones.
_NO_ARRAY = (OSError, ValueError, TypeError, KeyError, EOFError, OverflowError, SyntaxError, TokenError, RecursionError)
_LARGEST = 1e30  # of a number in a pose; float32 holds 1e38
# Camera models of transforms.json that our lens covers, and its entries that change the picture and are not used.
_PERSPECTIVE = ("OPENCV", "FULL_OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
_IGNORED = ("rolling_shutter", "mask_color", "white_transparent", "black_transparent", "linear_colors")
_ANY_SUFFIX = (*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))
_SMALLER = ("images_2", "images_4", "images_8")  # where downscaled photographs lie
# NaN and infinity as Windows and numpy print them.
_NO_JSON = re.compile(r"(?<=[\[\s,:])([-+]?)(nan\(\w*\)|nan|inf|1\.#\w+)(?=[\s,\]}])", re.IGNORECASE)


class Posed(NamedTuple):
    """One photograph and its camera, as a pose file has them."""

    file: Path  # the image
    rotation: np.ndarray  # (3, 3) world to camera, OpenCV axes
    translation: np.ndarray  # (3,) world units
    # (3, 3) K in pixels of the size below; or the horizontal field of view in radians of a camera with square pixels
    # and the principal point in the middle.
    intrinsics: np.ndarray | float
    size: tuple[float, float] | None = None  # (h, w) that K is for; None for the size of the image itself
    distortion: tuple[float, ...] = (0.0,) * 5  # k1, k2, p1, p2, k3 of OpenCV, and perhaps k4, k5, k6
    split: str = ""  # "train", "val", "test", or "" where the pose file does not say
    # Whether the pose is that of the photograph turned upright by its EXIF orientation, where the size does not tell.
    # COLMAP ignores the tag, and so do the formats whose poses come from it.
    upright: bool = False
    mask: Path | None = None  # a picture that is black where the photograph is not to be looked at


def in_proportion(size: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two sizes, (h, w) each, have about the same proportions: sides that are rounded may differ a little."""
    return bool(abs(size[1] / other[1] * other[0] / size[0] - 1) <= 0.02)


def camera_of(posed: Posed, size: tuple[int, int]) -> Camera:
    """The camera of a photograph of (h, w) pixels, without its lens distortion; in float64.

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


class Format(NamedTuple):
    """A format of pose files."""

    pattern: str  # its files in the folder of a scene
    read: Callable[[Path, list[Path]], Poses]  # (folder, files that match) to its poses
    matches: Callable[[Path], bool] = lambda folder: True  # whether a folder with such files really has this format


def read_poses(folder: Path) -> Poses:
    """The poses in a folder, by the first of `FORMATS` whose files are there."""
    if (found := _format_of(folder)) is not None:
        form, files = found
        with np.errstate(over="ignore", invalid="ignore"):  # checked below
            poses = form.read(folder, files)
        return _with_masks(folder, _with_good_poses(poses))
    raise AirjaxError(
        f"{display_name(folder)}: expected poses (transforms.json, poses_bounds.npy, a COLMAP model in sparse/0, or "
        f"cameras.json), found none; `airjax poses` finds those of photographs (pip install 'airjax[poses]')"
    )


def has_poses(folder: Path) -> bool:
    """Whether there are files in a folder that `read_poses` knows; they may be damaged."""
    return _format_of(folder) is not None


def _format_of(folder: Path) -> tuple[Format, list[Path]] | None:
    """(the first of `FORMATS` whose files are in a folder, those files)."""
    for form in FORMATS:
        files = sorted(folder.glob(form.pattern))
        if files and form.matches(folder):
            return form, files
    return None


def _with_good_poses(poses: Poses) -> Poses:
    """Without the views whose pose is none; an AirjaxError where fewer than two others are left."""
    views, faults = [], []
    for view in poses.views:
        if fault := _pose_fault(view):
            faults.append((view.file, fault))
        else:
            _check_lens(view)
            views.append(view)
    if not faults:
        return poses
    if len(views) < 2:
        file, fault = faults[0]
        raise AirjaxError(f"{display_name(file)}: {fault}")
    names = _some([display_name(file.name) for file, _ in faults])
    notice = f"{len(faults)} of {len(poses.views)} views left out ({names}), as their poses are no finite numbers or "
    return replace(poses, views=views, notices=(*poses.notices, notice + "no rotations"))


def _pose_fault(view: Posed) -> str:
    """What is wrong with a pose; empty where nothing is."""
    k = view.intrinsics if isinstance(view.intrinsics, np.ndarray) else np.eye(3)
    if not all((np.abs(part) < _LARGEST).all() for part in (k, view.rotation, view.translation)):  # false for NaN
        return f"expected a pose of finite numbers, got NaN, infinity or a number above {_LARGEST}"
    error = np.abs(view.rotation @ view.rotation.T - np.eye(3)).max()
    if error > 1e-3 or np.linalg.det(view.rotation) < 0:
        return "expected a rotation in its pose, got a matrix that is none"
    return ""


def _check_lens(view: Posed) -> None:
    name = display_name(view.file)
    angle = view.intrinsics if isinstance(view.intrinsics, float) else None
    k = view.intrinsics if isinstance(view.intrinsics, np.ndarray) else np.eye(3)
    if not all(math.isfinite(number) for number in view.distortion):
        raise AirjaxError(f"{name}: expected a finite lens distortion, got {view.distortion}")
    if min(k[0, 0], k[1, 1]) <= 0:
        raise AirjaxError(f"{name}: expected a focal length > 0, got {min(k[0, 0], k[1, 1]):g}")
    if angle is not None and not 0 < angle < math.pi:
        raise AirjaxError(f"{name}: expected a field of view between 0 and 180 degrees, got {angle:g} rad")
    if view.size is not None and not all(1 <= side < _LARGEST for side in view.size):
        raise AirjaxError(f"{name}: expected an image of 1 pixel or more in its pose, got {view.size}")


# --- readers ---------------------------------------------------------------------------------------------------------


def _read_transforms(folder: Path, files: list[Path]) -> Poses:
    """nerfstudio, instant-ngp and Blender: camera-to-world, OpenGL axes.

    Poses of the first two come from COLMAP, and are those of the pixels as stored: neither turns photographs by their
    EXIF orientation. `train_filenames`, `val_filenames` and `test_filenames` are nerfstudio's splits.
    """
    frames, without_frame = [], 0
    for file in files:
        content = _json(file)
        lists = _split_lists(content, file)
        paths = [_entry(frame, "file_path", str, file) for frame in _frames(content, file)]
        for path, frame in zip(paths, content["frames"], strict=True):
            frames.append((file, path, _split_of(path, file, lists), {**content, **frame}))
        without_frame += len(set().union(*lists.values()) - set(map(_plain_path, paths)))
    images, notices = _image_files(folder, [(path,) for _, path, _, _ in frames])
    views, ignored, in_no_list = [], set(), 0
    for (file, _, split, entry), image in zip(frames, images, strict=True):
        if image is None:
            continue
        if split is None:
            in_no_list += 1
            continue
        pose = read_matrix(_entry(entry, "transform_matrix", list, file), (4, 4), file)
        rotation, translation = world_to_camera(pose)
        k, size, distortion = transforms_lens(entry, file)
        mask = folder / _plain_path(str(entry["mask_path"])) if _says(entry.get("mask_path")) else None
        views.append(Posed(image, OPENGL @ rotation, OPENGL @ translation, k, size, distortion, split, mask=mask))
        ignored |= {key for key in _IGNORED if _says(entry.get(key))}
    missing = images.count(None)
    if missing == len(frames):
        raise AirjaxError(f"{display_name(files[0])}: expected the images that it lists, found none of {missing}")
    notices += _missing(missing, len(frames), "pose file")
    if in_no_list and not views:
        raise AirjaxError(
            f"{display_name(files[0])}: expected images that train_filenames and its like name, found none"
        )
    if without_frame:
        notices += (f"{without_frame} names in train_filenames and its like are of no frame",)
    if in_no_list:
        notices += (f"{in_no_list} of {len(frames)} images left out, as train_filenames and its like do not name them",)
    if ignored:
        notices += (f"not used, though they tell how the photographs are meant: {', '.join(sorted(ignored))}",)
    points, faults = _points_beside(folder, frames[0][3])
    return _with_held_back(Poses(views, points=points, notices=(*notices, *faults)))


def _points_beside(folder: Path, content: dict) -> tuple[np.ndarray, tuple[str, ...]]:
    """(nerfstudio's points in the file that `ply_file_path` names, none without it; lines for the user)."""
    name, none = content.get("ply_file_path"), np.zeros((0, 3))
    if not isinstance(name, str) or not name:
        return none, ()
    try:
        points = read_points(folder / _plain_path(name))
    except (AirjaxError, ValueError) as error:
        return none, (f"its points are not used ({reason(error)})",)
    return points[(np.abs(points) < _LARGEST).all(axis=1)], ()


def _frames(content: dict, file: Path) -> list:
    return _entry(content, "frames", list, file)


def _split_lists(content: dict, file: Path) -> dict[str, set[str]]:
    """nerfstudio's lists of files, by split; test goes before val and both before train."""
    lists = {}
    for split in ("test", "val", "train"):
        if (key := f"{split}_filenames") in content:
            names = _entry(content, key, list, file)
            lists[split] = {_plain_path(name) for name in names if isinstance(name, str)}
    return lists


def _split_of(path: str, file: Path, lists: dict[str, set[str]]) -> str | None:
    """The split of a frame, by nerfstudio's lists or the name of the pose file; None for one that is in no list."""
    named = next((split for split, names in lists.items() if _plain_path(path) in names), None)
    if named is not None or "train" in lists:
        return named
    split = file.stem.removeprefix("transforms").removeprefix("_")
    return split if split in ("train", "val", "test") else ""


def _with_held_back(poses: Poses) -> Poses:
    """Validation views are the test views of a scene that has no others."""
    splits = [view.split for view in poses.views]
    if "test" in splits or "val" not in splits:
        return poses
    views = [view._replace(split="test") if view.split == "val" else view for view in poses.views]
    notice = f"validation views ({splits.count('val')}) kept back as test views, as there are no others"
    return replace(poses, views=views, notices=(*poses.notices, notice))


def _says(value) -> bool:
    """Whether an entry is more than an absence: not null, false, zero, empty or zeros."""
    return any(map(bool, value)) if isinstance(value, list) else bool(value)


def transforms_lens(
    entry: dict, file: Path
) -> tuple[np.ndarray | float, tuple[float, float] | None, tuple[float, ...]]:
    """(intrinsics, size, distortion) as `Posed` has them, of a frame with the defaults of its file."""
    name = display_name(file)
    if entry.get("camera_model", "OPENCV") not in _PERSPECTIVE:
        raise AirjaxError(f"{name}: expected a perspective camera, got {_short(entry['camera_model'])}")
    for key in ("is_fisheye", "latlong", "equirectangular"):  # instant-ngp's
        if _says(entry.get(key)):
            raise AirjaxError(f"{name}: expected a perspective camera, got {key!r}")
    lens = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    keys = ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", *lens)
    numbers = {key: _number(entry[key], key, file) for key in keys if key in entry}
    distortion = tuple(numbers.get(key, 0.0) for key in lens)
    if entry.get("camera_model") != "FULL_OPENCV" and any(distortion[5:]):  # k4 has more than one meaning
        raise AirjaxError(f"{name}: expected k4, k5 and k6 of 0 for this camera, got {distortion[5:]}")
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
    """LLFF: rows of 17 numbers, 3 x 5 camera-to-world [R | t | h w f] with axes down, right, back; near, far.

    The rows go with the sorted images. Its poses come from COLMAP: they are those of the pixels as stored.
    """
    file = files[0]
    try:
        rows = np.lib.format.open_memmap(file, mode="r")  # a map: a header that lies allocates nothing
    except _NO_ARRAY as error:
        raise AirjaxError(f"{display_name(file)}: expected an array of poses (.npy), got something else") from error
    if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "fiu":
        raise AirjaxError(f"{display_name(file)}: expected an array (views, 17) of numbers, got {rows.shape}")
    images, notices = _sorted_images(folder)
    if len(images) != len(rows):
        raise AirjaxError(f"{display_name(file)}: expected {len(rows)} images in images/, found {len(images)}")
    views = []
    for image, row in zip(images, rows.astype(float), strict=True):
        down, right, back, center, (h, w, focal) = row[:15].reshape(3, 5).T
        rotation = np.stack([right, down, -back])
        intrinsics = _intrinsics(focal, focal, w / 2, h / 2)
        views.append(Posed(image, rotation, -rotation @ center, intrinsics, (h, w)))
    good = rows[np.isfinite(rows).all(axis=1)]
    good = good if len(good) else rows
    return Poses(views, _bounds(good[:, 15].min(), good[:, 16].max(), file), notices=notices)


def _read_colmap(folder: Path, files: list[Path]) -> Poses:
    """COLMAP: world-to-camera, OpenCV axes; it ignores the EXIF orientation. The largest of several models is taken."""
    place, chosen = _largest_model(sorted({file.parent for file in files}), folder)
    model = read_colmap(place)
    images, notices = _image_files(folder, [(f"images/{image.name}", image.name) for image in model.images])
    views = []
    for image, file in zip(model.images, images, strict=True):
        if file is not None:
            lens = model.cameras[image.camera]._asdict()
            views.append(Posed(file, image.rotation, image.translation, **lens))
    views.sort(key=lambda view: view.file.name)
    if not views:
        raise AirjaxError(f"{display_name(place)}: expected the images of the model, found none of them")
    points = model.points[(np.abs(model.points) < _LARGEST).all(axis=1)]
    notices += _missing(len(model.images) - len(views), len(model.images), "model")
    return Poses(views, points=points, notices=chosen + notices)


def _largest_model(places: list[Path], folder: Path) -> tuple[Path, tuple[str, ...]]:
    """(the model with the most images, the first of equals; lines for the user)."""
    if len(places) == 1:
        return places[0], ()
    counts, notices = {}, []
    for place in places:
        try:
            counts[place] = count_images(place)
        except AirjaxError:
            notices.append(f"{_below(folder, place)} passed over: not a whole COLMAP model")
    if not counts:
        return places[0], ()  # its reader says what is wrong
    largest = max(counts, key=lambda place: counts[place])
    others = [f"{_below(folder, place)} of {count}" for place, count in counts.items() if place != largest]
    if others:
        notices.append(f"{_below(folder, largest)} taken, a model of {counts[largest]} images, not {_some(others)}")
    return largest, tuple(notices)


def _below(folder: Path, place: Path) -> str:
    return display_name(place.relative_to(folder).as_posix())


def _read_plain(folder: Path, files: list[Path]) -> Poses:
    """Plain cameras: {"frames": [{"file_path", "K": 3 x 3, "R": 3 x 3, "t": 3}], "near", "far"}, world-to-camera.

    This format is our own: its poses are those of the photographs as we read them, turned upright.
    """
    file = files[0]
    content = _json(file)
    frames = _frames(content, file)
    paths = [_entry(frame, "file_path", str, file) for frame in frames]
    images, notices = _image_files(folder, [(path,) for path in paths])
    views = []
    for frame, path, image in zip(frames, paths, images, strict=True):
        if image is None:
            raise AirjaxError(f"{display_name(folder / path)}: expected an image of the pose file, found none")
        k, r = (read_matrix(_entry(frame, key, list, file), (3, 3), file) for key in ("K", "R"))
        t = read_matrix(_entry(frame, "t", list, file), (3,), file)
        has_size = "w" in frame and "h" in frame
        size = (_number(frame["h"], "h", file), _number(frame["w"], "w", file)) if has_size else None
        views.append(Posed(image, r, t, k, size, upright=True))
    if "near" not in content or "far" not in content:
        return Poses(views, notices=notices)
    near, far = (_number(content[key], key, file) for key in ("near", "far"))
    return Poses(views, _bounds(near, far, file), notices=notices)


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
        rotation, translation = world_to_camera(_numbers(file, 16).reshape(4, 4))
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
    Format("sparse/*/cameras.*", _read_colmap),
    Format("colmap/sparse/*/cameras.*", _read_colmap),
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


def world_to_camera(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rotation, translation), world to camera, of a 4 x 4 camera-to-world matrix."""
    rotation = pose[:3, :3].T
    return rotation, -rotation @ pose[:3, 3]


def _bounds(near: float, far: float, file: Path) -> tuple[float, float]:
    if not 0 < near < far < _LARGEST:
        raise AirjaxError(f"{display_name(file)}: expected 0 < near < far, got {near} and {far}")
    return float(near), float(far)


def _missing(count: int, listed: int, what: str) -> tuple[str, ...]:
    return (f"{count} of {listed} images of the {what} are not there, and are left out",) if count else ()


def _some(names: list[str], most: int = 5) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _plain_path(name: str) -> str:
    """A path in a pose file with slashes, as on any system, and without a leading ./"""
    return name.replace("\\", "/").removeprefix("./")


def _image_files(folder: Path, names: list[tuple[str, ...]]) -> tuple[list[Path | None], tuple[str, ...]]:
    """(the image of each name in a pose file, None where there is none; lines for the user).

    A photograph may have several names. Where none of all is there, those of images_2, images_4 or images_8 are taken.
    """
    files = [_first_file(folder, some) for some in names]
    for smaller in _SMALLER if not any(files) else ():
        moved = [[name.replace("images/", f"{smaller}/", 1) for name in map(_plain_path, some)] for some in names]
        files = [_first_file(folder, [name for name in some if f"{smaller}/" in name]) for some in moved]
        if any(files):
            return files, (f"photographs of {smaller}/ used, as those of images/ are not there",)
    return files, ()


def _first_file(folder: Path, names: Sequence[str]) -> Path | None:
    return next((file for name in names if (file := _image_file(folder, name)) is not None), None)


def _image_file(folder: Path, name: str) -> Path | None:
    """The image of a name in a pose file; None where there is none.

    The name may have backslashes, lack the suffix, or have it in letters of the other case.
    """
    try:
        for path in dict.fromkeys((folder / name, folder / _plain_path(name))):
            others = dict.fromkeys((path.suffix.lower(), path.suffix.upper()))
            cased = [path.with_name(path.stem + suffix) for suffix in others if path.name]
            added = [path.with_name(path.name + suffix) for suffix in _ANY_SUFFIX if path.name]
            for file in (path, *cased, *added):
                if file.is_file():
                    return file
    except (OSError, ValueError):  # no name that a file could have
        pass
    return None


def _sorted_images(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """(images of the folder images/ by name, or of a smaller one where it is not there; lines for the user)."""
    if (folder / "images").is_dir():
        return _images_in(folder / "images"), ()
    for smaller in _SMALLER:
        if (folder / smaller).is_dir():
            return _images_in(folder / smaller), (f"photographs of {smaller}/ used, as images/ is not there",)
    raise AirjaxError(f"{display_name(folder / 'images')}: expected a folder of images, found none")


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _with_masks(folder: Path, poses: Poses) -> Poses:
    """Masks that the pose file names, or pictures of the same names in masks/, as COLMAP and others keep them."""
    places = [path for path in (folder / "masks", folder / "mask") if path.is_dir()]
    named = [view.mask for view in poses.views if view.mask is not None]
    missing = sum(not mask.is_file() for mask in named)

    def found(view: Posed) -> Path | None:
        beside = [place / f"{name}.png" for place in places for name in (view.file.name, view.file.stem)]
        candidates = beside if view.mask is None else [view.mask]
        return next((path for path in candidates if path.is_file()), None)

    views = [view._replace(mask=found(view)) for view in poses.views]
    notices = list(poses.notices)
    if count := sum(view.mask is not None for view in views):
        notices.append(f"masks of {count} photographs used: what is black there is not looked at")
    if missing:
        notices.append(f"{missing} masks that the pose file names are not there")
    if places and not count:
        notices.append(f"the pictures in {places[0].name}/ have no photograph's name, none of them is used as a mask")
    return replace(poses, views=views, notices=tuple(notices))


def _json(file: Path) -> dict:
    try:
        text = file.read_text(encoding="utf-8-sig")
        try:
            content = json.loads(text)
        except ValueError:
            content = json.loads(_NO_JSON.sub("NaN", text))  # such numbers are refused where they are used
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


def read_matrix(value: Any, shape: tuple[int, ...], file: Path) -> np.ndarray:
    """An array of a shape from JSON, float64; an AirjaxError that names the file for anything else."""
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
        numbers = np.array([float(word) for word in file.read_text(encoding="utf-8-sig").split()])
    except (OSError, ValueError) as error:
        raise AirjaxError(f"{display_name(file)}: expected {count} numbers, found something else") from error
    if len(numbers) != count:
        raise AirjaxError(f"{display_name(file)}: expected {count} numbers, found {len(numbers)}")
    return numbers


def _short(value) -> str:
    """A value from a file for a message."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**9 else "a huge number"
    return text if len(text) < 80 else text[:77] + "..."
