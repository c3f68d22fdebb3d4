"""Pose files of any common format: which photographs a scene has, and the camera of each.

The files of a folder tell its format (`FORMATS`); its reader turns them into `Poses`. All poses become world-to-camera
with OpenCV axes, in float64. Nothing in a file is trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.scene.files.colmap import count_images, read_colmap
from airjax.scene.files.image_names import image_file, image_files, missing_images, some, sorted_images
from airjax.scene.files.posed import Posed, Poses, intrinsics_of, world_to_camera
from airjax.scene.files.transforms import read_transforms
from airjax.scene.files.values import LARGEST, entry_of, number_of, read_json, read_matrix, read_numbers

# What numpy's reader of headers raises on damaged ones.
_NO_ARRAY = (OSError, ValueError, TypeError, KeyError, EOFError, OverflowError, SyntaxError, TokenError, RecursionError)


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
    names = some([display_name(file.name) for file, _ in faults])
    notice = f"{len(faults)} of {len(poses.views)} views left out ({names}), as their poses are no finite numbers or "
    return replace(poses, views=views, notices=(*poses.notices, notice + "no rotations"))


def _pose_fault(view: Posed) -> str:
    """What is wrong with a pose; empty where nothing is."""
    k = view.intrinsics if isinstance(view.intrinsics, np.ndarray) else np.eye(3)
    if not all((np.abs(part) < LARGEST).all() for part in (k, view.rotation, view.translation)):  # false for NaN
        return f"expected a pose of finite numbers, got NaN, infinity or a number above {LARGEST}"
    error = np.abs(view.rotation @ view.rotation.T - np.eye(3)).max()
    if error > 1e-3 or np.linalg.det(view.rotation) < 0:
        return "expected a rotation in its pose, got a matrix that is none"
    return ""


def _check_lens(view: Posed) -> None:
    name = display_name(view.file)
    angle = view.intrinsics if isinstance(view.intrinsics, float) else None
    k = view.intrinsics if isinstance(view.intrinsics, np.ndarray) else np.eye(3)
    if not all(math.isfinite(number) for number in view.lens.numbers):
        raise AirjaxError(f"{name}: expected a finite lens distortion, got {view.lens.numbers}")
    if min(k[0, 0], k[1, 1]) <= 0:
        raise AirjaxError(f"{name}: expected a focal length > 0, got {min(k[0, 0], k[1, 1]):g}")
    if angle is not None and not 0 < angle < math.pi:
        raise AirjaxError(f"{name}: expected a field of view between 0 and 180 degrees, got {angle:g} rad")
    if view.size is not None and not all(1 <= side < LARGEST for side in view.size):
        raise AirjaxError(f"{name}: expected an image of 1 pixel or more in its pose, got {view.size}")


# --- readers ---------------------------------------------------------------------------------------------------------


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
    images, notices = sorted_images(folder)
    if len(images) != len(rows):
        raise AirjaxError(f"{display_name(file)}: expected {len(rows)} images in images/, found {len(images)}")
    views = []
    for image, row in zip(images, rows.astype(float), strict=True):
        down, right, back, center, (h, w, focal) = row[:15].reshape(3, 5).T
        rotation = np.stack([right, down, -back])
        intrinsics = intrinsics_of(focal, focal, w / 2, h / 2)
        views.append(Posed(image, rotation, -rotation @ center, intrinsics, (h, w)))
    good = rows[np.isfinite(rows).all(axis=1)]
    good = good if len(good) else rows
    return Poses(views, _bounds(good[:, 15].min(), good[:, 16].max(), file), notices=notices)


def _read_colmap(folder: Path, files: list[Path]) -> Poses:
    """COLMAP: world-to-camera, OpenCV axes; it ignores the EXIF orientation. The largest of several models is taken."""
    place, chosen = _largest_model(sorted({file.parent for file in files}), folder)
    model = read_colmap(place)
    images, notices = image_files(folder, [(f"images/{image.name}", image.name) for image in model.images])
    views = []
    for image, file in zip(model.images, images, strict=True):
        if file is not None:
            lens = model.cameras[image.camera]._asdict()
            views.append(Posed(file, image.rotation, image.translation, **lens))
    views.sort(key=lambda view: view.file.name)
    if not views:
        raise AirjaxError(f"{display_name(place)}: expected the images of the model, found none of them")
    points = model.points[(np.abs(model.points) < LARGEST).all(axis=1)]
    notices += missing_images(len(model.images) - len(views), len(model.images), "model")
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
        notices.append(f"{_below(folder, largest)} taken, a model of {counts[largest]} images, not {some(others)}")
    return largest, tuple(notices)


def _below(folder: Path, place: Path) -> str:
    return display_name(place.relative_to(folder).as_posix())


def _read_plain(folder: Path, files: list[Path]) -> Poses:
    """Plain cameras: {"frames": [{"file_path", "K": 3 x 3, "R": 3 x 3, "t": 3}], "near", "far"}, world-to-camera.

    This format is our own: its poses are those of the photographs as we read them, turned upright.
    """
    file = files[0]
    content = read_json(file)
    frames = entry_of(content, "frames", list, file)
    paths = [entry_of(frame, "file_path", str, file) for frame in frames]
    images, notices = image_files(folder, [(path,) for path in paths])
    views = []
    for frame, path, image in zip(frames, paths, images, strict=True):
        if image is None:
            raise AirjaxError(f"{display_name(folder / path)}: expected an image of the pose file, found none")
        k, r = (read_matrix(entry_of(frame, key, list, file), (3, 3), file) for key in ("K", "R"))
        t = read_matrix(entry_of(frame, "t", list, file), (3,), file)
        has_size = "w" in frame and "h" in frame
        size = (number_of(frame["h"], "h", file), number_of(frame["w"], "w", file)) if has_size else None
        views.append(Posed(image, r, t, k, size, upright=True))
    if "near" not in content or "far" not in content:
        return Poses(views, notices=notices)
    near, far = (number_of(content[key], key, file) for key in ("near", "far"))
    return Poses(views, _bounds(near, far, file), notices=notices)


def _read_strecha(folder: Path, files: list[Path]) -> Poses:
    """Strecha et al.: K, zeros, R camera-to-world, C, then width and height; one file per image."""
    views = []
    for file in files:
        numbers = read_numbers(file, 26)
        k, r, c, (w, h) = numbers[:9].reshape(3, 3), numbers[12:21].reshape(3, 3), numbers[21:24], numbers[24:]
        image = image_file(folder / "images", file.name.removesuffix(".camera"))
        if image is not None:
            views.append(Posed(image, r.T, -r.T @ c, k, (h, w)))
    return Poses(views)


def _read_frames(folder: Path, files: list[Path]) -> Poses:
    """TSDF-Fusion: a 4 x 4 camera-to-world matrix per image, and the intrinsics of all in camera-intrinsics.txt."""
    k = read_numbers(folder / "camera-intrinsics.txt", 9).reshape(3, 3)
    views = []
    for file in files:
        rotation, translation = world_to_camera(read_numbers(file, 16).reshape(4, 4))
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
    color = intrinsics_of(525.0, 525.0, 320.0, 240.0)
    notice = "focal length 525 of the colour camera used instead of 585, which is that of the depth camera"
    views = [view._replace(intrinsics=color, size=(480.0, 640.0)) for view in poses.views]
    return Poses(views, notices=(notice,))


def _is_seven_scenes(folder: Path) -> bool:
    """Whether the intrinsics are those of the depth camera that all of 7-Scenes was recorded with."""
    k = read_numbers(folder / "camera-intrinsics.txt", 9)
    return bool(np.abs(k - [585, 0, 320, 0, 585, 240, 0, 0, 1]).max() < 1)


FORMATS = (  # the first one that matches is taken
    Format("transforms.json", read_transforms),
    Format("transforms_*.json", read_transforms),
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


def _bounds(near: float, far: float, file: Path) -> tuple[float, float]:
    if not 0 < near < far < LARGEST:
        raise AirjaxError(f"{display_name(file)}: expected 0 < near < far, got {near} and {far}")
    return float(near), float(far)


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
