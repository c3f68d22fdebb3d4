"""The folder of a scene: photographs found in it, and what is written beside them once their poses are known.

That is a COLMAP model in sparse/0, nerfstudio's transforms.json made of it, and its points in sparse_pc.ply.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name, reason
from airjax.photographs import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES, WRITTEN_SUFFIXES
from airjax.scene.files.colmap import ColmapCamera, ColmapModel, read_colmap
from airjax.scene.files.posed import OPENGL

MODEL, TRANSFORMS, POINTS = "sparse/0", "transforms.json", "sparse_pc.ply"
_LENS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_MASKS = ("masks", "mask")
_KNOWN = WRITTEN_SUFFIXES  # those that COLMAP reads too
_UNREADABLE = tuple(suffix for suffix in (*IMAGE_SUFFIXES, *UNREADABLE_SUFFIXES) if suffix not in _KNOWN)


class Photographs(NamedTuple):
    """The photographs of a scene."""

    root: Path  # the folder that their names are relative to
    names: tuple[str, ...]  # with slashes, sorted as people count: 2 before 10
    notices: tuple[str, ...]  # lines for the user


def find_photographs(folder: Path) -> Photographs:
    """Photographs in `folder`/images where that exists, else in the folder itself; and in folders below, but masks/.

    Hidden files and folders are skipped. Raises AirjaxError: no folder, or no photograph.
    """
    name = display_name(folder)
    if not folder.is_dir():
        what = "a file that is neither" if folder.exists() else "none"
        raise AirjaxError(f"{name}: expected a folder of photographs, or a video, found {what}")
    found, others = _files_below(folder)
    inside = [file for file in found if file.startswith("images/")]
    root = folder / "images" if inside else folder
    names = [file.removeprefix("images/") for file in inside] if inside else found
    named = [file for file in names if file.isprintable()]
    notices = []
    if count := len(found) - len(names) + others[""]:
        where = "outside images/ or in masks/" if inside else "in masks/"
        notices.append(f"{count} pictures {where} are not used")
    if count := len(names) - len(named):
        notices.append(f"{count} photographs left out, whose names are no text")
    unreadable = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()) if suffix and count)
    if not named:
        expected = f"expected photographs ({', '.join(_KNOWN)})"
        raise AirjaxError(f"{name}: {expected}, found {f'only {unreadable} files' if unreadable else 'none'}")
    if unreadable:
        notices.append(f"{unreadable} files are not used, as they cannot be read")
    return Photographs(root, tuple(sorted(named, key=_as_counted)), tuple(notices))


def _files_below(folder: Path) -> tuple[list[str], Counter[str]]:
    """(photographs below a folder; how many files there are of unreadable suffixes, and, as "", in masks/)."""
    found, others = [], Counter[str]()
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(inner for inner in folders if inner[0] != ".")
        below = Path(place).relative_to(folder)
        for file in files:
            suffix = Path(file).suffix.lower()
            if file[0] == "." or suffix not in (*_KNOWN, *_UNREADABLE):
                continue
            if suffix in _UNREADABLE:
                others[suffix] += 1
            elif set(_MASKS) & set(below.parts):
                others[""] += 1
            else:
                found.append((below / file).as_posix())
    return found, others


def _as_counted(name: str) -> list:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def replaced_by(scene: Path, root: Path | None, names: Sequence[str]) -> list[Path]:
    """What is there already of that which `write_pose_folder` writes; without a root, any images/."""
    written = [scene / MODEL, scene / TRANSFORMS, scene / POINTS]
    if root is None:
        written.append(scene / "images")
    elif _is_elsewhere(scene, root):
        written += [scene / "images" / name for name in names]
    return [path for path in written if path.exists()]


def write_pose_folder(scene: Path, model: Path, points: Path, *, root: Path, work: Path) -> None:
    """Moves a COLMAP model and its points to the folder of a scene, and writes transforms.json.

    The names in the model are relative to `root`: photographs that are not in the scene yet are copied to its images/.
    What is there already is replaced. `work` is a folder on the same disk; all is made there first, then moved, the
    pose file last. Raises AirjaxError where that cannot be done.
    """
    try:
        content = read_colmap(model)
        images = "" if _same(scene, root) else "images/"
        fresh = work / TRANSFORMS
        fresh.write_text(json.dumps(transforms_of(content, images=images), indent=1), encoding="utf-8")
        moves = [(model, scene / MODEL), (points, scene / POINTS), (fresh, scene / TRANSFORMS)]
        if _is_elsewhere(scene, root):
            moves = [*_copies([image.name for image in content.images], root, scene, work / "photographs"), *moves]
        for i, (source, target) in enumerate(moves):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                os.replace(target, work / f"replaced{i}")
            os.replace(source, target)
    except OSError as error:
        raise AirjaxError(f"{display_name(scene)}: poses cannot be written ({reason(error)})") from error


def _copies(names: list[str], root: Path, scene: Path, work: Path) -> list[tuple[Path, Path]]:
    """(copy of a photograph, where it belongs) for each."""
    for name in names:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, work / name)
    return [(work / name, scene / "images" / name) for name in names]


def _same(folder: Path, other: Path) -> bool:
    return os.path.realpath(folder) == os.path.realpath(other)


def _is_elsewhere(scene: Path, root: Path) -> bool:
    """Whether photographs in `root` are none of the scene."""
    return not (_same(scene, root) or _same(scene / "images", root))


def transforms_of(model: ColmapModel, *, images: str = "") -> dict:
    """The content of transforms.json: camera-to-world, OpenGL axes, the world and the pixels of the model.

    Frames are sorted by the names of files, as our reader sorts a model's; `images` goes before each path. What all
    cameras have in common is said once.
    """
    lenses = {number: _lens_entries(camera) for number, camera in model.cameras.items()}
    used = [lenses[image.camera] for image in model.images]
    common = {key: value for key, value in used[0].items() if all(lens.get(key) == value for lens in used)}
    frames = []
    for image in sorted(model.images, key=lambda image: image.name.rpartition("/")[2]):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = image.rotation.T @ OPENGL, -image.rotation.T @ image.translation
        own = {key: value for key, value in lenses[image.camera].items() if key not in common}
        frames.append({"file_path": images + image.name, "transform_matrix": pose.tolist()} | own)
    return common | {"ply_file_path": POINTS, "frames": frames}


def _lens_entries(camera: ColmapCamera) -> dict:
    k, (height, width) = camera.intrinsics, camera.size
    numbers = (*camera.lens.numbers, *(0.0,) * len(_LENS))[: len(_LENS)]  # of a "brown" lens, as our own poses have
    model = "FULL_OPENCV" if any(numbers[5:]) else "OPENCV"
    entries = {"camera_model": model, "w": int(width), "h": int(height)}
    entries |= {"fl_x": float(k[0, 0]), "fl_y": float(k[1, 1]), "cx": float(k[0, 2]), "cy": float(k[1, 2])}
    used = 8 if any(numbers[5:]) else 5 if numbers[4] else 4
    return entries | dict(zip(_LENS[:used], numbers[:used], strict=True))
