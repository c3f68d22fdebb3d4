"""transforms.json of nerfstudio, instant-ngp and Blender: photographs with camera-to-world poses, OpenGL axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.scene.files.image_names import image_files, missing_images, plain_path
from airjax.scene.files.posed import OPENGL, Posed, Poses, intrinsics_of, world_to_camera
from airjax.scene.files.values import entry_of, number_of, read_json, read_matrix, short

# Camera models of transforms.json that our lens covers, and its entries that change the picture and are not used.
_PERSPECTIVE = ("OPENCV", "FULL_OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
_IGNORED = ("rolling_shutter", "mask_color", "white_transparent", "black_transparent", "linear_colors")


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
        k, size, distortion = transforms_lens(entry, file)
        mask = folder / plain_path(str(entry["mask_path"])) if _says(entry.get("mask_path")) else None
        views.append(Posed(image, OPENGL @ rotation, OPENGL @ translation, k, size, distortion, split, mask=mask))
        ignored |= {key for key in _IGNORED if _says(entry.get(key))}
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
        notices += (f"not used, though they tell how the photographs are meant: {', '.join(sorted(ignored))}",)
    return _with_held_back(Poses(views, notices=notices))


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


def transforms_lens(
    entry: dict, file: Path
) -> tuple[np.ndarray | float, tuple[float, float] | None, tuple[float, ...]]:
    """(intrinsics, size, distortion) as `Posed` has them, of a frame with the defaults of its file."""
    name = display_name(file)
    if entry.get("camera_model", "OPENCV") not in _PERSPECTIVE:
        raise AirjaxError(f"{name}: expected a perspective camera, got {short(entry['camera_model'])}")
    for key in ("is_fisheye", "latlong", "equirectangular"):  # instant-ngp's
        if _says(entry.get(key)):
            raise AirjaxError(f"{name}: expected a perspective camera, got {key!r}")
    lens = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    keys = ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", *lens)
    numbers = {key: number_of(entry[key], key, file) for key in keys if key in entry}
    distortion = tuple(numbers.get(key, 0.0) for key in lens)
    if entry.get("camera_model") != "FULL_OPENCV" and any(distortion[5:]):  # k4 has more than one meaning
        raise AirjaxError(f"{name}: expected k4, k5 and k6 of 0 for this camera, got {distortion[5:]}")
    if "fl_x" in numbers:
        for key in ("w", "h"):
            if key not in numbers:
                raise AirjaxError(f"{name}: expected {key!r} beside fl_x, found none")
        w, h, fx = numbers["w"], numbers["h"], numbers["fl_x"]
        fy, cx, cy = numbers.get("fl_y", fx), numbers.get("cx", w / 2), numbers.get("cy", h / 2)
        return intrinsics_of(fx, fy, cx, cy), (h, w), distortion
    if "camera_angle_x" not in numbers:
        raise AirjaxError(f"{name}: expected fl_x or camera_angle_x, found neither")
    return numbers["camera_angle_x"], None, distortion
