"""Files by the name that a user gives them: photographs, .air and .ply. `airjax` offers these functions."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float

from airjax import photographs
from airjax.errors import AirjaxError, FormatError
from airjax.files import atomic_write_bytes, display_name, read_bytes
from airjax.gaussians import Gaussians3D
from airjax.image.codec import air_file
from airjax.image.codec.air_file import Encoded
from airjax.scene.files.packed_splats import read_splats
from airjax.scene.files.ply import write_ply


def read_image(path: str | os.PathLike) -> Float[np.ndarray, "h w 3"]:
    """A photograph as (h, w, 3) sRGB pixels in [0, 1]; a loss in conversion is a warning, no image an AirjaxError."""
    loaded = photographs.read_image(path)
    for notice in loaded.notices:
        warnings.warn(f"{display_name(path)}: {notice}", stacklevel=2)
    return loaded.pixels


def save(path: str | os.PathLike, content: Encoded | Gaussians3D) -> None:
    """Writes an encoded image to a .air file, or 3D Gaussians to a .ply file; whole or not at all.

    A TypeError for content that the suffix has no format for; an AirjaxError for another suffix, values that the format
    cannot hold, or a file that cannot be written.
    """
    kind = _kind(path)
    if not isinstance(content, kind):
        raise TypeError(f"{display_name(path)}: expected {kind.__name__}, got {type(content).__name__}")
    if isinstance(content, Gaussians3D):
        write_ply(path, content)
    else:
        atomic_write_bytes(path, air_file.encode(content))


def open(path: str | os.PathLike) -> Encoded | Gaussians3D:
    """What a .air file or one of Gaussians (.ply, .spz, .splat) holds.

    An AirjaxError for another suffix, a missing or a damaged file. What the reader of Gaussians changes or leaves out
    is a warning.
    """
    if Path(path).suffix.lower() in (".spz", ".splat") or _kind(path) is Gaussians3D:
        found = read_splats(path)
        for notice in found.notices:
            warnings.warn(f"{display_name(path)}: {notice}", stacklevel=2)
        return found.gaussians
    try:
        return air_file.decode(read_bytes(path))
    except FormatError as error:
        raise AirjaxError(f"{display_name(path)}: {error}") from error


def _kind(path: str | os.PathLike) -> type[Encoded] | type[Gaussians3D]:
    """What a file holds, by its suffix."""
    suffix = Path(path).suffix.lower()
    if suffix == ".air":
        return Encoded
    if suffix == ".ply":
        return Gaussians3D
    raise AirjaxError(f"{display_name(path)}: expected a name ending in .air or .ply, got {suffix or 'none'}")
