"""3D Gaussians as .ply files in the layout of 3D Gaussian Splatting, which its viewers open.

One vertex per Gaussian, float32, little-endian: x y z, normals (zero), f_dc_0..2, f_rest_* with all functions of red
first, then green, then blue, opacity as a logit, scale_0..2 as natural logarithms, rot_0..3 as w x y z. The reader goes
by the names in the header, in any order and of any type, and trusts none of its numbers. It knows two relatives, files
of 2D Gaussian Splatting (no scale_2) and of Mip-Splatting (filter_3D). Comments of the header can hold more
(`airjax.scene.files.camera_file`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, display_name, read_bytes
from airjax.gaussians import Gaussians3D
from airjax.scene.harmonics import degree_of

TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
TYPES |= {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
TYPES |= {"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"}
_OURS = "written by airjax, opacity is a logit"  # comment of files whose opacities need no guess
_MAX_HEADER = 2**16  # bytes
_LEAST_SCALE, _LEAST_OPACITY = 1e-30, 1e-7  # whose logarithm and logit float32 still tells from those of 0 and 1
_NEEDED = (*"xyz", "opacity", *(f"{name}_{i}" for name, k in (("f_dc", 3), ("scale", 2), ("rot", 4)) for i in range(k)))
# Thickness of the discs of a 2DGS file in smaller radii. Seen from the side, a disc is then thinner than the blur that
# every drawing adds (about half a pixel) until it is 500 pixels in radius; and float32 still tells its square from 0.
_DISC = 1e-3
_OTHERS = (".ksplat", ".sog")


class Ply(NamedTuple):
    """The content of a file."""

    gaussians: Gaussians3D  # all slots active; numpy arrays
    comments: tuple[str, ...]  # the comment lines of its header, without the word "comment"
    notices: tuple[str, ...]  # lines for the user


def write_ply(path: str | os.PathLike, gaussians: Gaussians3D, *, comments: Sequence[str] = ()) -> None:
    """The active Gaussians of a set, all finite, as a .ply file, atomically; comments are single lines of ASCII.

    An opacity of 0 or 1 and a scale of 0 have no logit and no logarithm: they are moved by 1e-7 and to 1e-30.
    """
    atomic_write_bytes(path, to_ply(gaussians, comments=comments, source=display_name(path)))


def to_ply(gaussians: Gaussians3D, *, comments: Sequence[str] = (), source: str = "Gaussians") -> bytes:
    """The bytes of `write_ply`; `source` names them in an error."""
    active = np.asarray(gaussians.active)
    means, scales, quats, opacities, harmonics = (
        np.asarray(getattr(gaussians, name), np.float64)[active]
        for name in ("means", "scales", "quats", "opacities", "harmonics")
    )
    opacities = np.clip(opacities, _LEAST_OPACITY, 1 - _LEAST_OPACITY)
    count = len(means)
    columns = {name: means[:, i] for i, name in enumerate("xyz")}
    columns |= {name: np.zeros(count) for name in ("nx", "ny", "nz")}
    columns |= {f"f_dc_{c}": harmonics[:, 0, c] for c in range(3)}
    rest = harmonics[:, 1:].transpose(0, 2, 1).reshape(count, 3 * harmonics.shape[1] - 3)
    columns |= {f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])}
    columns["opacity"] = np.log(opacities) - np.log1p(-opacities)
    columns |= {f"scale_{i}": np.log(np.maximum(scales[:, i], _LEAST_SCALE)) for i in range(3)}
    columns |= {f"rot_{i}": quats[:, i] for i in range(4)}
    table = np.stack(list(columns.values()), axis=1).astype("<f4") if count else np.zeros((0, len(columns)), "<f4")
    if not np.isfinite(table).all():
        others = int((~np.isfinite(table)).any(axis=1).sum())
        raise AirjaxError(f"{source}: expected finite Gaussians, got {others} others")
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in (_OURS, *comments))]
    lines.append(f"element vertex {count}")
    lines += [f"property float {name}" for name in columns]
    return "\n".join([*lines, "end_header", ""]).encode("ascii") + table.tobytes()


def read_ply(path: str | os.PathLike) -> Ply:
    """A .ply file of Gaussians, written by any program.

    Opacities are logits, unless all of them lie in [0, 1] in a file of another program: then they are taken as they
    are, with a notice, since logits of a real scene lie on both sides of 0 and beyond 1. Gaussians with NaN or infinity
    in them are left out, with a notice; infinite logits are opacities of 0 or 1.
    """
    return from_ply(read_bytes(path), source=display_name(path))


def from_ply(data: bytes, *, source: str) -> Ply:
    """`read_ply` of bytes; `source` names them in an error."""
    _refuse_relatives(data, source)
    header, start = header_of(data, source)
    columns = _columns(data, header, start, source)
    comments = tuple(line.removeprefix("comment").strip() for line in header if line.startswith("comment"))
    notices: list[str] = []

    def take(*names: str) -> np.ndarray:
        return np.stack([columns[name] for name in names], axis=1).astype(np.float32)

    with np.errstate(all="ignore"):  # rows that are not finite are left out below
        opacities = take("opacity")[:, 0].astype(np.float64)
        known = opacities[~np.isnan(opacities)]
        if _OURS not in comments and len(known) and known.min() >= 0 and known.max() <= 1:
            notices.append("opacities lie in [0, 1] and are taken as they are, not as logits")
        else:
            opacities = 1 / (1 + np.exp(-opacities))  # infinite logits are opacities of 0 and 1
        logarithms = take(*(name for name in ("scale_0", "scale_1", "scale_2") if name in columns))
        scales = np.exp(logarithms.astype(np.float64))
        if "filter_3D" in columns:
            scales, opacities = _filtered(scales, opacities, take("filter_3D"))
            notices.append("3D filter of Mip-Splatting (filter_3D) applied to scales and opacities")
        if scales.shape[1] == 2:
            scales = np.concatenate([scales, _DISC * scales.min(axis=1, keepdims=True)], axis=1)
            notices.append(
                f"file of 2D Gaussian Splatting: its discs get {_DISC:g} of their smaller radius as thickness"
            )
        parts = [take("x", "y", "z"), scales.astype(np.float32), take("rot_0", "rot_1", "rot_2", "rot_3")]
        parts += [opacities.astype(np.float32)[:, None], take("f_dc_0", "f_dc_1", "f_dc_2")]
        if rest := _rest_names(columns, source):
            parts.append(take(*rest))
    means, scales, quats, opacities, *colors = parts
    count = len(means)
    functions = [part.reshape(count, 3, part.shape[1] // 3).transpose(0, 2, 1) for part in colors]
    harmonics = np.concatenate(functions, axis=1)
    known = np.isfinite(logarithms).all(axis=1)
    found = finite_ply(means, scales, quats, opacities[:, 0], harmonics, known=known, source=source)
    comments = tuple(line for line in comments if line != _OURS)
    return Ply(found.gaussians, comments, (*notices, *found.notices))


def finite_ply(
    means: np.ndarray,
    scales: np.ndarray,
    quats: np.ndarray,
    opacities: np.ndarray,
    harmonics: np.ndarray,
    *,
    source: str,
    known: np.ndarray | None = None,
) -> Ply:
    """The fields of a `Gaussians3D` as the content of a file, without the Gaussians that are not finite in float32.

    `known` is False for others that are to be left out, too. They are counted in a notice; an AirjaxError where none is
    left of some.
    """
    with np.errstate(over="ignore"):
        parts = [np.asarray(part, np.float32) for part in (means, scales, quats, opacities, harmonics)]
    notices = []
    finite = np.logical_and.reduce([np.isfinite(part).all(axis=tuple(range(1, part.ndim))) for part in parts])
    finite = finite if known is None else finite & known
    if not finite.all():
        count, left = len(finite), int(finite.sum())
        if not left:
            raise AirjaxError(f"{source}: expected Gaussians of finite numbers and sizes, found none among {count}")
        notices.append(f"{count - left} of {count} Gaussians with NaN, infinity or no size in them are left out")
        parts = [part[finite] for part in parts]
    means, scales, quats, opacities, harmonics = parts
    gaussians = Gaussians3D(means, scales, quats, opacities, harmonics, np.ones(len(means), bool))
    return Ply(gaussians, (), tuple(notices))


def read_points(path: str | os.PathLike) -> np.ndarray:
    """(p, 3) float64, the points of a .ply file of vertices; those that are not finite are left out."""
    data, source = read_bytes(path), display_name(path)
    header, start = header_of(data, source)
    columns = _columns(data, header, start, source, needed=tuple("xyz"))
    points = np.stack([columns[name] for name in "xyz"], axis=1).astype(np.float64)
    return points[np.isfinite(points).all(axis=1)]


def _filtered(scales: np.ndarray, opacities: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and opacities after Mip-Splatting's 3D filter: each Gaussian blurred by one of width (n, 1).

    What a Gaussian holds in all stays: its opacity shrinks as its volume grows.
    """
    blurred = np.hypot(scales, widths)
    return blurred, opacities * np.prod(scales / blurred, axis=1)


def _refuse_relatives(data: bytes, source: str) -> None:
    """Raises an AirjaxError that helps for Gaussians in a format that is not read here."""
    suffix = PurePath(source).suffix.lower()
    if suffix in _OTHERS and not data.startswith(b"ply"):
        raise AirjaxError(
            f"{source}: expected a file of Gaussians (.ply, .spz or .splat), got a {suffix} file; open it in "
            "SuperSplat (superspl.at/editor) and export it as .ply, or convert it with splat-transform (npm install -g "
            "@playcanvas/splat-transform)"
        )


def _rest_names(columns: dict[str, np.ndarray], source: str) -> list[str]:
    """f_rest_0, f_rest_1, .. for whole degrees of three colors."""
    count = sum(name.startswith("f_rest_") for name in columns)
    names = [f"f_rest_{i}" for i in range(count)]
    if count % 3 or any(name not in columns for name in names):
        raise AirjaxError(f"{source}: expected f_rest_0, f_rest_1, .. for three colours, found {count} of them")
    try:
        degree_of(1 + count // 3)
    except ValueError as error:
        raise AirjaxError(f"{source}: expected 0, 9, 24, 45 or 72 properties f_rest, found {count}") from error
    return names


def header_of(data: bytes, source: str) -> tuple[list[str], int]:
    """The lines of the header, and where it ends."""
    end = data.find(b"end_header", 0, _MAX_HEADER)
    newline = data.find(b"\n", end) + 1
    if not data.startswith(b"ply") or end < 0 or newline == 0:
        raise AirjaxError(f"{source}: expected a .ply file, got something else")
    return data[:end].decode("latin-1").splitlines(), newline


def _columns(
    data: bytes, header: list[str], start: int, source: str, *, needed: Sequence[str] = _NEEDED
) -> dict[str, np.ndarray]:
    """The properties of the vertices by name, all that are needed among them: those of Gaussians."""
    lines = [line.split() for line in header if not line.startswith("comment")]
    form = next((line[1] for line in lines if len(line) > 1 and line[0] == "format"), "none")
    count, properties = _vertices(lines, len(data), source, needed)
    if form == "ascii":
        return _ascii_table(data[start:], count, [name for _, name in properties], source)
    if form not in ("binary_little_endian", "binary_big_endian"):
        raise AirjaxError(f"{source}: expected a binary or ascii .ply file, got format {form[:20]!r}")
    order = "<" if form == "binary_little_endian" else ">"
    dtype = np.dtype([(name, order + TYPES[kind]) for kind, name in properties])
    if len(data) - start < count * dtype.itemsize:
        raise AirjaxError(f"{source}: damaged or cut short, expected {count} vertices of {dtype.itemsize} bytes")
    table = np.frombuffer(data, dtype, count, start)
    return {name: table[name] for _, name in properties}


def _vertices(
    lines: list[list[str]], num_bytes: int, source: str, needed: Sequence[str]
) -> tuple[int, list[list[str]]]:
    """How many vertices there are, and (type, name) of each of their properties."""
    elements = [i for i, line in enumerate(lines) if line[:1] == ["element"]]
    if not elements or len(lines[elements[0]]) != 3 or lines[elements[0]][1] != "vertex":
        raise AirjaxError(f"{source}: expected vertices as its first element, found none")
    stop = elements[1] if len(elements) > 1 else len(lines)
    properties = [line[1:] for line in lines[elements[0] + 1 : stop] if line[:1] == ["property"]]
    if any(len(p) != 2 or p[0] not in TYPES for p in properties) or len({p[-1] for p in properties}) < len(properties):
        raise AirjaxError(f"{source}: expected properties that are single numbers of different names, got others")
    if missing := [name for name in needed if name not in [p[1] for p in properties]]:
        what = "3D Gaussians" if needed is _NEEDED else "points"
        raise AirjaxError(f"{source}: expected a property {missing[0]!r} of {what}, found none")
    count = lines[elements[0]][2]
    if not count.isdecimal() or len(count) > 18 or int(count) > num_bytes:
        raise AirjaxError(f"{source}: damaged or cut short, expected {count[:20]} vertices")
    return int(count), properties


def _ascii_table(body: bytes, count: int, names: list[str], source: str) -> dict[str, np.ndarray]:
    words = body.split()
    if len(words) < count * len(names):
        raise AirjaxError(f"{source}: damaged or cut short, expected {count} vertices")
    try:
        table = np.array(words[: count * len(names)], float).reshape(count, len(names))
    except ValueError as error:
        raise AirjaxError(f"{source}: damaged, expected numbers") from error
    return {name: table[:, i] for i, name in enumerate(names)}
