"""transforms.json of nerfstudio, instant-ngp and Blender: photographs with camera-to-world poses, OpenGL axes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name, reason
from airjax.scene.files.image_names import image_files, missing_images, plain_path, some
from airjax.scene.files.lenses import Lens
from airjax.scene.files.ply import read_points
from airjax.scene.files.posed import OPENGL, Posed, Poses, intrinsics_of, world_to_camera
from airjax.scene.files.values import LARGEST, entry_of, number_of, read_json, read_matrix, short

_PERSPECTIVE = ("OPENCV", "FULL_OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "RADIAL", "SIMPLE_RADIAL")
_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE", "SIMPLE_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_RADIAL_FISHEYE")
_OTHER_LENSES = ("latlong", "equirectangular", "ftheta_p0")  # instant-ngp's
# Entries that are used, beside those of a lens.
_USED = {"file_path", "transform_matrix", "mask_path", "ply_file_path", "camera_model", "is_fisheye", *_OTHER_LENSES}
_USED |= {"frames", "train_filenames", "val_filenames", "test_filenames"}
# Entries that say nothing of the photographs and their cameras: names, numbers and sharpness, how a scene is placed and
# scaled, other pictures, settings of a viewer or a training. Every other one may, and is said.
_HARMLESS = {"id", "image_id", "colmap_im_id", "frame_id", "cam_id", "camera_id", "name", "label", "sharpness"}
_HARMLESS |= {"timestamp", "fps", "version", "comment", "description", "rotation", "up", "from_na", "scale", "offset"}
_HARMLESS |= {"applied_transform", "applied_scale", "orientation_override", "auto_scale_poses_override", "aabb"}
_HARMLESS |= {"aabb_scale", "render_aabb", "n_extra_learnable_dims", "enable_depth_loading", "integer_depth_scale"}
_HARMLESS |= {"depth_file_path", "depth_path", "normal_file_path"}


def read_transforms(folder: Path, files: list[Path]) -> Poses:
    """nerfstudio, instant-ngp and Blender: camera-to-world, OpenGL axes.

    Poses of the first two come from COLMAP, and are those of the pixels as stored: neither turns photographs by their
    EXIF orientation. `train_filenames`, `val_filenames` and `test_filenames` are nerfstudio's splits.
    """
    frames, without_frame = [], 0
    for file in files:
        content = read_json(file)
        lists = _split_lists(content, file)
        paths = [entry_of(frame, "file_path", str, file) for frame in entry_of(content, "frames", list, file)]
        for path, frame in zip(paths, content["frames"], strict=True):
            frames.append((file, path, _split_of(path, file, lists), {**content, **frame}))
        without_frame += len(set().union(*lists.values()) - set(map(plain_path, paths)))
    images, notices = image_files(folder, [(path,) for _, path, _, _ in frames])
    views, ignored, in_no_list = [], set(), 0
    for (file, _, split, entry), image in zip(frames, images, strict=True):
        if image is None:
            continue
        if split is None:
            in_no_list += 1
            continue
        pose = read_matrix(entry_of(entry, "transform_matrix", list, file), (4, 4), file)
        rotation, translation = world_to_camera(pose)
        k, size, lens = transforms_lens(entry, file)
        mask = folder / plain_path(str(entry["mask_path"])) if _says(entry.get("mask_path")) else None
        views.append(Posed(image, OPENGL @ rotation, OPENGL @ translation, k, size, lens, split, mask=mask))
        ignored |= _unused(entry)
    missing = images.count(None)
    if missing == len(frames):
        raise AirjaxError(f"{display_name(files[0])}: expected the images that it lists, found none of {missing}")
    notices += missing_images(missing, len(frames), "pose file")
    if in_no_list and not views:
        raise AirjaxError(
            f"{display_name(files[0])}: expected images that train_filenames and its like name, found none"
        )
    if without_frame:
        notices += (f"{without_frame} names in train_filenames and its like are of no frame",)
    if in_no_list:
        notices += (f"{in_no_list} of {len(frames)} images left out, as train_filenames and its like do not name them",)
    if ignored:
        names = some([short(key).strip("'") for key in sorted(ignored)], most=10)
        notices += (f"entries that are not used, though they may change what is meant: {names}",)
    points, faults = _points_beside(folder, frames[0][3])
    return _with_held_back(Poses(views, points=points, notices=(*notices, *faults)))


def _points_beside(folder: Path, content: dict) -> tuple[np.ndarray, tuple[str, ...]]:
    """(nerfstudio's points in the file that `ply_file_path` names, none without it; lines for the user)."""
    name, none = content.get("ply_file_path"), np.zeros((0, 3))
    if not isinstance(name, str) or not name:
        return none, ()
    try:
        points = read_points(folder / plain_path(name))
    except (AirjaxError, ValueError) as error:
        return none, (f"its points are not used ({reason(error)})",)
    return points[(np.abs(points) < LARGEST).all(axis=1)], ()


def _split_lists(content: dict, file: Path) -> dict[str, set[str]]:
    """nerfstudio's lists of files, by split; test goes before val and both before train."""
    lists = {}
    for split in ("test", "val", "train"):
        if (key := f"{split}_filenames") in content:
            names = entry_of(content, key, list, file)
            lists[split] = {plain_path(name) for name in names if isinstance(name, str)}
    return lists


def _split_of(path: str, file: Path, lists: dict[str, set[str]]) -> str | None:
    """The split of a frame, by nerfstudio's lists or the name of the pose file; None for one that is in no list."""
    named = next((split for split, names in lists.items() if plain_path(path) in names), None)
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


def transforms_lens(entry: dict, file: Path) -> tuple[np.ndarray | float, tuple[float, float] | None, Lens]:
    """(intrinsics, size, lens) as `Posed` has them, of a frame with the defaults of its file."""
    name = display_name(file)
    if entry.get("camera_model", "OPENCV") not in (*_PERSPECTIVE, *_FISHEYE):
        raise AirjaxError(f"{name}: expected a perspective or fisheye camera, got {short(entry['camera_model'])}")
    for key in _OTHER_LENSES:
        if _says(entry.get(key)):
            raise AirjaxError(f"{name}: expected a perspective or fisheye camera, got {key!r}")
    numbers = {key: number_of(entry[key], key, file) for key in _lens_keys(entry) if key in entry}
    size = (numbers["h"], numbers["w"]) if "w" in numbers and "h" in numbers else None
    lens = _lens(entry, numbers, file)
    if "fl_x" in numbers:
        for key in ("w", "h"):
            if key not in numbers:
                raise AirjaxError(f"{name}: expected {key!r} beside fl_x, found none")
    elif "camera_angle_x" not in numbers:
        raise AirjaxError(f"{name}: expected fl_x or camera_angle_x, found neither")
    if size is None:
        return numbers["camera_angle_x"], None, lens
    h, w = size
    fx = numbers["fl_x"] if "fl_x" in numbers else _focal(numbers["camera_angle_x"], w, file)
    fy = numbers.get("fl_y", fx)
    if "fl_y" not in numbers and "camera_angle_y" in numbers:
        fy = _focal(numbers["camera_angle_y"], h, file)
    return intrinsics_of(fx, fy, numbers.get("cx", w / 2), numbers.get("cy", h / 2)), size, lens


def _is_fisheye(entry: dict) -> bool:
    return entry.get("camera_model") in _FISHEYE or _says(entry.get("is_fisheye"))


def _lens_keys(entry: dict) -> tuple[str, ...]:
    """The entries that tell the lens and the size of a photograph."""
    bent = ("k1", "k2", "k3", "k4") if _is_fisheye(entry) else ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    return ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y", *bent)


def _lens(entry: dict, numbers: dict[str, float], file: Path) -> Lens:
    k1, k2, p1, p2, *more = (numbers.get(key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"))
    if _is_fisheye(entry):
        return Lens("fisheye", (k1, k2, 0.0, 0.0, *more[:2]))
    if entry.get("camera_model") != "FULL_OPENCV" and any(more[1:]):  # k4 has more than one meaning
        raise AirjaxError(
            f"{display_name(file)}: expected k4, k5 and k6 of 0 for this camera, got {tuple(more[1:])}; they are "
            "those of FULL_OPENCV or of a fisheye"
        )
    return Lens("brown", (k1, k2, p1, p2, *more))


def _focal(angle: float, side: float, file: Path) -> float:
    """Focal length, pixels, of a field of view in radians along a side of so many."""
    if not 0 < angle < math.pi:
        raise AirjaxError(
            f"{display_name(file)}: expected a field of view between 0 and 180 degrees, got {angle:g} rad"
        )
    return 0.5 * side / math.tan(0.5 * angle)


def _unused(entry: dict) -> set[str]:
    """Names of the entries of a frame, with those of its file, that are not used and may matter."""
    known = {*_USED, *_HARMLESS, *_lens_keys(entry)}
    if "fl_x" not in entry and not ("w" in entry and "h" in entry):
        known -= {"fl_y", "cx", "cy", "camera_angle_y"}  # a field of view alone
    return {key for key, value in entry.items() if key not in known and _says(value)}
