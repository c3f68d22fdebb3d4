"""Copies of photographs as pycolmap gets to see them: pixels as stored, made smaller, in a folder for each camera."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.photographs import read_image, to_8bit
from airjax.progress import Progress
from airjax.scene.files.photographs import fitted_size, resize


class Copy(NamedTuple):
    """A photograph's copy for pycolmap."""

    name: str  # of the photograph
    copy: str  # in the folder of copies: c<camera>/<number>.png
    size: tuple[int, int]  # (h, w) of the photograph
    group: Any  # photographs of equal ones share a camera
    focal: float | None  # pixels of the photograph, by EXIF
    smaller: tuple[int, int]  # (h, w) of the copy


def make_copies(
    pycolmap: ModuleType,
    names: Sequence[str],
    root: Path,
    folder: Path,
    *,
    camera: str,
    max_size: int,
    progress: Progress,
) -> tuple[list[Copy], tuple[str, ...]]:
    """(copies, in a folder, of the photographs below `root` that can be read, in their order; lines for the user).

    Raises AirjaxError: fewer than 2 that can be read, or other sizes where `camera` makes photographs share one.
    """
    groups: dict[Any, int] = {}
    staged, broken = [], []
    for i, name in enumerate(names):
        progress("read", i, len(names))
        try:
            pixels = read_image(root / name, upright=False).pixels
        except AirjaxError as error:
            broken.append(str(error))
            continue
        size = pixels.shape[:2]
        focal, kind = _focal(pycolmap, root / name)
        key = {"size": (size, kind), "single": None, "folder": name.rpartition("/")[0], "image": name}[camera]
        group = groups.setdefault(key, len(groups))
        smaller = fitted_size(size, max_size)
        copy = f"c{group:06d}/{i:06d}.png"
        (folder / copy).parent.mkdir(parents=True, exist_ok=True)
        small = resize(pixels, smaller) if smaller != size else pixels
        Image.fromarray(to_8bit(small)).save(folder / copy, compress_level=1)
        staged.append(Copy(name, copy, size, key, focal, smaller))
    progress("read", len(names), len(names))
    if len(staged) < 2:
        more = f", and {len(broken)} that cannot be read ({broken[0]})" if broken else ""
        raise AirjaxError(f"{display_name(root)}: expected at least 2 photographs, found {len(staged)}{more}")
    _check_sizes(staged, camera, root)
    notices = (
        [f"{len(broken)} of {len(names)} photographs left out, which cannot be read: {broken[0]}"] if broken else []
    )
    return staged, tuple(notices)


def _check_sizes(staged: list[Copy], camera: str, root: Path) -> None:
    first: dict[Any, Copy] = {}
    for view in staged:
        other = first.setdefault(view.group, view)
        if other.size != view.size:
            (h, w), (most_h, most_w) = view.size, other.size
            raise AirjaxError(
                f"{display_name(root / view.name)}: expected {most_w}x{most_h} pixels as {display_name(other.name)} "
                f"has, as --camera {camera} makes them share one, got {w}x{h}"
            )


def _focal(pycolmap: ModuleType, file: Path) -> tuple[float | None, tuple]:
    """(the focal length in pixels by EXIF, None where it does not tell; what else tells cameras apart)."""
    kind: tuple = ()
    with contextlib.suppress(Exception), Image.open(file) as image:  # odd metadata is none
        exif = image.getexif()
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        tags = (ExifTags.Base.FocalLength, ExifTags.Base.FocalLengthIn35mmFilm)
        kind = (str(exif.get(ExifTags.Base.Model, "")), *(str(inner.get(tag, "")) for tag in tags))
    with contextlib.suppress(Exception):
        camera = pycolmap.infer_camera_from_image(file)
        if camera.has_prior_focal_length and np.isfinite(camera.mean_focal_length()):
            return float(camera.mean_focal_length()), kind
    return None, kind
