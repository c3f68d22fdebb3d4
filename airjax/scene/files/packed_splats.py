"""Gaussians in the small files of other programs: .spz, .splat, and SuperSplat's compressed .ply. Only read.

Nothing that a file says of its length is trusted. All numbers are little-endian. Axes become those of .ply files, y
down and z forward, where a format has others.

Letters: n Gaussians, k harmonics.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import PurePath

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name, read_bytes
from airjax.scene.files.ply import TYPES, Ply, finite_ply, from_ply, header_of
from airjax.scene.harmonics import SH0, degree_of, num_harmonics

SUFFIXES = (".ply", ".spz", ".splat")  # of files of Gaussians that are read
_MOST_UNZIPPED = 1100  # times the length of a .gz file: no such file holds more
_CHUNK = 256  # Gaussians that share the ranges of their numbers in a compressed .ply file
# Harmonics of degree 0 to 4 that change their sign when y and z do.
_TURNED = np.array([1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1, -1, 1, -1, 1, 1, -1, 1, -1, 1], np.float32)


def read_splats(path: str | os.PathLike) -> Ply:
    """A file of Gaussians of any program: .ply, .spz, .splat or a compressed .ply, by its content and its suffix.

    An AirjaxError of one line for any other, and for damaged ones.
    """
    data, source = read_bytes(path), display_name(path)
    if data.startswith(b"ply"):
        return from_compressed_ply(data, source=source) if is_compressed(data) else from_ply(data, source=source)
    if data.startswith((b"\x1f\x8b", b"NGSP")):
        return from_spz(data, source=source)
    if PurePath(path).suffix.lower() == ".splat":
        return from_splat(data, source=source)
    return from_ply(data, source=source)


# --- .splat ----------------------------------------------------------------------------------------------------------


def from_splat(data: bytes, *, source: str) -> Ply:
    """32 bytes a Gaussian: center and scales in float32, color and opacity in bytes, a quaternion w x y z in bytes."""
    row = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("colors", "u1", 4), ("quats", "u1", 4)])
    if len(data) % row.itemsize:
        raise AirjaxError(f"{source}: damaged or cut short, expected {row.itemsize} bytes for each Gaussian")
    table = np.frombuffer(data, row)
    colors = table["colors"] / np.float32(255)
    harmonics = (colors[:, None, :3] - 0.5) / SH0
    quats = _unit(table["quats"].astype(np.float32) - 128)
    parts = table["means"], table["scales"], quats, colors[:, 3], harmonics
    return finite_ply(*parts, known=np.all(table["scales"] > 0, axis=1), source=source)


def _unit(quats: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(quats, axis=1, keepdims=True)
    return np.where(length > 0, quats / np.maximum(length, 1e-9), [1, 0, 0, 0])


# --- .spz ------------------------------------------------------------------------------------------------------------


def from_spz(data: bytes, *, source: str) -> Ply:
    """Versions 1 to 3: a header of 16 bytes, then one array after the other, all of it compressed as .gz files are."""
    head = _unzipped(data, 16, source)
    if len(head) < 16 or not head.startswith(b"NGSP"):
        raise AirjaxError(f"{source}: expected a .spz file of Gaussians, got something else")
    version, count, degree, fraction, flags = struct.unpack_from("<IIBBB", head, 4)
    if not 1 <= version <= 3 or degree > 4 or fraction > 24:
        raise AirjaxError(f"{source}: expected a .spz file of version 1 to 3, got version {version} or a damaged one")
    rest = num_harmonics(degree) - 1
    widths = [6 if version == 1 else 9, 1, 3, 3, 4 if version == 3 else 3, 3 * rest]
    if count * sum(widths) > _MOST_UNZIPPED * len(data):
        raise AirjaxError(f"{source}: damaged or cut short, expected {count} Gaussians")
    whole = _unzipped(data, 16 + count * sum(widths), source)[16:]
    if len(whole) < count * sum(widths):
        raise AirjaxError(f"{source}: damaged or cut short, expected {count} Gaussians")
    splits = np.split(np.frombuffer(whole, np.uint8), np.cumsum(widths)[:-1] * count)
    parts = [part.reshape(count, width) for part, width in zip(splits, widths, strict=True)]
    means, alphas, colors, scales, quats, others = parts
    flips = np.array([1, -1, -1], np.float32)
    means = np.frombuffer(means.tobytes(), "<f2").reshape(count, 3) if version == 1 else _fixed(means, fraction)
    turns = _smallest_three(quats) if version == 3 else _first_three(quats)
    harmonics = np.zeros((count, 1 + rest, 3), np.float32)
    harmonics[:, 0] = (colors / 255 - 0.5) / 0.15
    harmonics[:, 1:] = ((others.astype(np.float32) - 128) / 128).reshape(count, rest, 3) if rest else 0
    harmonics *= _TURNED[: 1 + rest, None]
    turned = np.concatenate([turns[:, 3:], turns[:, :3] * flips], axis=1)
    fields = means.astype(np.float32) * flips, np.exp(scales / 16.0 - 10), turned, alphas[:, 0] / 255, harmonics
    found = finite_ply(*fields, source=source)
    notice = ("Gaussians that were trained with antialiasing: --antialiased draws them so",) if flags & 1 else ()
    return found._replace(notices=(*found.notices, *notice))


def _unzipped(data: bytes, count: int, source: str) -> bytes:
    """The first bytes of the content of a .gz file."""
    if data.startswith(b"NGSP"):
        raise AirjaxError(
            f"{source}: expected a .spz file of version 1 to 3, got a later one; save it as .ply, or "
            "with splat-transform --spz-version 3 (npm install -g @playcanvas/splat-transform)"
        )
    try:
        return zlib.decompressobj(wbits=31).decompress(data, count)
    except zlib.error as error:
        raise AirjaxError(f"{source}: expected a .spz file of Gaussians, got something else") from error


def _fixed(data: np.ndarray, fraction: int) -> np.ndarray:
    """(n, 3) of (n, 9) bytes: integers of 24 bits with a sign, in units of 2^-fraction."""
    low, middle, high = (data[:, i::3].astype(np.int32) for i in range(3))
    value = low | middle << 8 | high << 16
    return (value - (value >> 23 << 24)) / 2.0**fraction


def _first_three(data: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4) x y z w of (n, 3) bytes: w is positive and makes them of length 1."""
    xyz = data / 127.5 - 1
    xyz /= np.maximum(np.linalg.norm(xyz, axis=1, keepdims=True), 1)
    w = np.sqrt(np.maximum(1 - np.sum(xyz * xyz, axis=1, keepdims=True), 0))
    return np.concatenate([xyz, w], axis=1)


def _smallest_three(data: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4) x y z w of (n, 4) bytes: which is the largest, sign and size of the others."""
    packed = np.frombuffer(data.tobytes(), "<u4")
    largest, quats = (packed >> 30).astype(int), np.zeros((len(packed), 4))
    for i in (3, 2, 1, 0):
        here = largest != i
        size = (packed & 511) / 511 * np.sqrt(0.5)
        quats[here, i] = np.where(packed >> 9 & 1, -size, size)[here]
        packed = np.where(here, packed >> 10, packed)
    return _with_largest(quats, largest)


def _with_largest(quats: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Quaternions of length 1 by a positive number in the place of the largest, which is 0."""
    quats[np.arange(len(quats)), largest] = np.sqrt(np.maximum(1 - np.sum(quats * quats, axis=1), 0))
    return quats


# --- SuperSplat's compressed .ply ------------------------------------------------------------------------------------


def is_compressed(data: bytes) -> bool:
    """Whether a .ply file is one of SuperSplat's compressed ones."""
    header = data[: max(data.find(b"end_header", 0, 2**16), 0)]
    return b"packed_position" in header and b"element chunk" in header


def from_compressed_ply(data: bytes, *, source: str) -> Ply:
    """Ranges of the numbers of every 256 Gaussians, four integers a Gaussian, and perhaps a byte for each harmonic."""
    lines, start = header_of(data, source)
    tables = _tables(data, [line.split() for line in lines], start, source)
    chunk, vertex = tables["chunk"], tables["vertex"]
    count = len(vertex)
    if len(chunk) * _CHUNK < count:
        raise AirjaxError(f"{source}: damaged or cut short, expected a chunk for each {_CHUNK} Gaussians")
    which = np.arange(count) // _CHUNK
    try:
        means = _between(chunk, which, vertex["packed_position"], "xyz", "")
        scales = _between(chunk, which, vertex["packed_scale"], "xyz", "scale_")
        packed, color = vertex["packed_rotation"], vertex["packed_color"]
        rgba = np.stack([color >> shift & 255 for shift in (24, 16, 8, 0)], axis=1) / 255
        if "min_r" in (chunk.dtype.names or ()):
            low, high = (np.stack([chunk[f"{end}_{c}"][which] for c in "rgb"], axis=1) for end in ("min", "max"))
            rgba[:, :3] = low + rgba[:, :3] * (high - low)
    except ValueError as error:
        raise AirjaxError(f"{source}: expected the properties of a compressed .ply file ({error})") from error
    others = np.stack([(packed >> shift & 1023) / 1023 - 0.5 for shift in (20, 10, 0)], axis=1) * np.sqrt(2)
    largest = (packed >> 30).astype(int)
    quats = np.zeros((count, 4))
    quats[np.arange(4) != largest[:, None]] = others.ravel()
    harmonics = _rest(tables.get("sh"), count, source)
    harmonics[:, 0] = (rgba[:, :3] - 0.5) / SH0
    with np.errstate(over="ignore"):
        scales = np.exp(scales)
    return finite_ply(means, scales, _with_largest(quats, largest), rgba[:, 3], harmonics, source=source)


def _tables(data: bytes, lines: list[list[str]], start: int, source: str) -> dict[str, np.ndarray]:
    """The elements of a binary .ply file by their names; a chunk and a vertex among them."""
    if ["format", "binary_little_endian", "1.0"] not in lines:
        raise AirjaxError(f"{source}: expected a binary compressed .ply file, got another")
    elements: list[tuple[str, str, list[tuple[str, str]]]] = []
    for line in lines:
        if line[:1] == ["element"] and len(line) == 3:
            elements.append((line[1], line[2], []))
        elif line[:1] == ["property"] and elements and len(line) == 3 and line[1] in TYPES:
            elements[-1][2].append((line[2], "<" + TYPES[line[1]]))
        elif line[:1] in (["element"], ["property"]):
            raise AirjaxError(f"{source}: expected elements of single numbers, got others")
    tables = {}
    for name, count, properties in elements:
        try:
            row = np.dtype(properties)
            if not count.isdecimal() or len(count) > 12 or int(count) * row.itemsize > len(data) - start:
                raise ValueError(count[:20])
            tables[name] = np.frombuffer(data, row, int(count), start)
        except ValueError as error:
            raise AirjaxError(f"{source}: damaged or cut short, expected {count[:20]} {name[:20]!a}") from error
        start += tables[name].nbytes
    if not {"chunk", "vertex"} <= tables.keys():
        raise AirjaxError(f"{source}: expected chunks and vertices, found others")
    return tables


def _between(chunk: np.ndarray, which: np.ndarray, packed: np.ndarray, axes: str, name: str) -> np.ndarray:
    """(n, 3) numbers of 11, 10 and 11 bits between the least and the largest of their chunks."""
    steps = np.stack([(packed >> 21) / 2047, (packed >> 11 & 1023) / 1023, (packed & 2047) / 2047], axis=1)
    low, high = (
        np.stack([chunk[f"{end}_{name}{axis}"][which] for axis in axes], axis=1).astype(np.float64)
        for end in ("min", "max")
    )
    with np.errstate(over="ignore", invalid="ignore"):
        return low + steps * (high - low)


def _rest(table: np.ndarray | None, count: int, source: str) -> np.ndarray:
    """(n, k, 3) harmonics but for the first, which is 0."""
    names = () if table is None else table.dtype.names or ()
    try:
        degree_of(1 + len(names) // 3)
    except ValueError as error:
        raise AirjaxError(f"{source}: expected 0, 9, 24, 45 or 72 properties f_rest, found {len(names)}") from error
    harmonics = np.zeros((count, 1 + len(names) // 3, 3))
    if table is None or not names:
        return harmonics
    if sorted(names) != sorted(f"f_rest_{i}" for i in range(len(names))) or len(table) != count:
        raise AirjaxError(f"{source}: expected f_rest_0, f_rest_1, .. for each Gaussian, found others")
    values = np.stack([table[f"f_rest_{i}"] for i in range(len(names))], axis=1).astype(np.float64)
    steps = np.where(values == 0, 0, np.where(values == 255, 1, (values + 0.5) / 256))
    harmonics[:, 1:] = ((steps - 0.5) * 8).reshape(count, 3, -1).transpose(0, 2, 1)
    return harmonics
