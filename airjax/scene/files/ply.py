"""3D Gaussians as .ply files in the layout of 3D Gaussian Splatting, which its viewers open.

One vertex per Gaussian, float32, little-endian: x y z, normals (zero), f_dc_0..2, f_rest_* with all functions of red
first, then green, then blue, opacity as a logit, scale_0..2 as natural logarithms, rot_0..3 as w x y z. The reader goes
by the names in the header, in any order and of any type, and trusts none of its numbers. Comments of the header can
hold more (`airjax.scene.files.camera_file`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, display_name, read_bytes
from airjax.gaussians import Gaussians3D
from airjax.scene.harmonics import degree_of

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_OURS = "written by airjax, opacity is a logit"  # comment of files whose opacities need no guess
_MAX_HEADER = 2**16  # bytes
_LEAST_SCALE, _LEAST_OPACITY = 1e-30, 1e-7  # whose logarithm and logit float32 still tells from those of 0 and 1
_NEEDED = (*"xyz", "opacity", *(f"{name}_{i}" for name, k in (("f_dc", 3), ("scale", 3), ("rot", 4)) for i in range(k)))


class Ply(NamedTuple):
    """The content of a file.

    Fields:
      gaussians: all slots active; numpy arrays.
      comments: the comment lines of its header, without the word "comment".
      notices: lines for the user.
    """

    gaussians: Gaussians3D
    comments: tuple[str, ...]
    notices: tuple[str, ...]


def write_ply(path: str | os.PathLike, gaussians: Gaussians3D, *, comments: Sequence[str] = ()) -> None:
    """The active Gaussians of a set as a .ply file, atomically.

    Args:
      comments: single lines of ASCII for the header.

    An opacity of 0 or 1 and a scale of 0 have no logit and no logarithm: they are moved by 1e-7 and to 1e-30.

    Raises:
      AirjaxError: values that are not finite; the file cannot be written.
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
        raise AirjaxError(
            f"{source}: expected finite Gaussians, got {int((~np.isfinite(table)).any(axis=1).sum())} others"
        )
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in (_OURS, *comments))]
    lines.append(f"element vertex {count}")
    lines += [f"property float {name}" for name in columns]
    return "\n".join([*lines, "end_header", ""]).encode("ascii") + table.tobytes()


def read_ply(path: str | os.PathLike) -> Ply:
    """A .ply file of Gaussians, written by any program.

    Opacities are logits, unless all of them lie in [0, 1] in a file of another program: then they are taken as they
    are, with a notice, since logits of a real scene lie on both sides of 0 and beyond 1.

    Raises:
      AirjaxError: not such a file, damaged or cut short, or values that are not finite.
    """
    return from_ply(read_bytes(path), source=display_name(path))


def from_ply(data: bytes, *, source: str) -> Ply:
    """`read_ply` of bytes; `source` names them in an error."""
    header, start = _header(data, source)
    columns = _columns(data, header, start, source)

    def take(*names: str) -> np.ndarray:
        with np.errstate(over="ignore"):
            values = np.stack([columns[name] for name in names], axis=1).astype(np.float32)
        if not np.isfinite(values).all():
            raise AirjaxError(f"{source}: expected finite numbers as {names[0]!r}, got others")
        return values

    comments = tuple(line.removeprefix("comment").strip() for line in header if line.startswith("comment"))
    opacities = take("opacity")[:, 0]
    notices: tuple[str, ...] = ()
    if _OURS not in comments and len(opacities) and opacities.min() >= 0 and opacities.max() <= 1:
        notices = ("opacities lie in [0, 1] and are taken as they are, not as logits",)
    else:
        with np.errstate(over="ignore"):
            opacities = (1 / (1 + np.exp(-opacities.astype(np.float64)))).astype(np.float32)
    with np.errstate(over="ignore"):
        scales = np.exp(take("scale_0", "scale_1", "scale_2"))
    if not np.isfinite(scales).all():
        raise AirjaxError(f"{source}: expected logarithms of scales below 88, got larger ones")
    harmonics = take("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest := _rest_names(columns, source):
        functions = take(*rest).reshape(len(opacities), 3, len(rest) // 3).transpose(0, 2, 1)
        harmonics = np.concatenate([harmonics, functions], axis=1)
    means, quats = take("x", "y", "z"), take("rot_0", "rot_1", "rot_2", "rot_3")
    gaussians = Gaussians3D(means, scales, quats, opacities, harmonics, np.ones(len(opacities), bool))
    return Ply(gaussians, tuple(line for line in comments if line != _OURS), notices)


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


def _header(data: bytes, source: str) -> tuple[list[str], int]:
    """The lines of the header, and where it ends."""
    end = data.find(b"end_header", 0, _MAX_HEADER)
    newline = data.find(b"\n", end) + 1
    if not data.startswith(b"ply") or end < 0 or newline == 0:
        raise AirjaxError(f"{source}: expected a .ply file, got something else")
    return data[:end].decode("latin-1").splitlines(), newline


def _columns(data: bytes, header: list[str], start: int, source: str) -> dict[str, np.ndarray]:
    """The properties of the vertices by name, all that Gaussians need among them."""
    lines = [line.split() for line in header if not line.startswith("comment")]
    form = next((line[1] for line in lines if len(line) > 1 and line[0] == "format"), "none")
    count, properties = _vertices(lines, len(data), source)
    if form == "ascii":
        return _ascii_table(data[start:], count, [name for _, name in properties], source)
    if form not in ("binary_little_endian", "binary_big_endian"):
        raise AirjaxError(f"{source}: expected a binary or ascii .ply file, got format {form[:20]!r}")
    order = "<" if form == "binary_little_endian" else ">"
    dtype = np.dtype([(name, order + _TYPES[kind]) for kind, name in properties])
    if len(data) - start < count * dtype.itemsize:
        raise AirjaxError(f"{source}: damaged or cut short, expected {count} vertices of {dtype.itemsize} bytes")
    table = np.frombuffer(data, dtype, count, start)
    return {name: table[name] for _, name in properties}


def _vertices(lines: list[list[str]], num_bytes: int, source: str) -> tuple[int, list[list[str]]]:
    """How many vertices there are, and (type, name) of each of their properties."""
    elements = [i for i, line in enumerate(lines) if line[:1] == ["element"]]
    if not elements or len(lines[elements[0]]) != 3 or lines[elements[0]][1] != "vertex":
        raise AirjaxError(f"{source}: expected vertices as its first element, found none")
    stop = elements[1] if len(elements) > 1 else len(lines)
    properties = [line[1:] for line in lines[elements[0] + 1 : stop] if line[:1] == ["property"]]
    if any(len(p) != 2 or p[0] not in _TYPES for p in properties) or len({p[-1] for p in properties}) < len(properties):
        raise AirjaxError(f"{source}: expected properties that are single numbers of different names, got others")
    if missing := [name for name in _NEEDED if name not in [p[1] for p in properties]]:
        raise AirjaxError(f"{source}: expected a property {missing[0]!r} of 3D Gaussians, found none")
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
