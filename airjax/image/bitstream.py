"""The .air file: bytes in, Gaussians out, and back; docs/format.md describes it byte by byte.

Letters: n Gaussians, c colour channels, S stages. A row is mean x, y, scale 1, 2, angle and the c colours.

What `encode` writes, `decode` accepts, and the float32 numbers come back bit for bit. `decode` trusts no
number in the file: each length is compared with the bytes that are there before anything is allocated, so a
small file can only ever claim a small set. The errors raised here do not know the file's name; the caller
puts it in front.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError, FormatError
from airjax.gaussians import Gaussians2D

# A byte outside ASCII, a name, CR LF, Ctrl-Z, LF: transfers in 7-bit or text mode change or cut one of them.
SIGNATURE = b"\x89AIR\r\n\x1a\n"
VERSION = 1
PROFILE_LOSSLESS = 1
PROFILE_NAMES = {PROFILE_LOSSLESS: "lossless float32"}

MAX_SIDE = 2**20  # pixels
MAX_PIXELS = 2**27  # width times height; a float32 RGB image of this size takes 1.6 GB
MAX_CHANNELS = 16
MAX_CHUNK = 2**31 - 1  # payload bytes
# Bounds of the stored numbers. They lie far beyond any photograph, and keep a float32 renderer finite: its
# largest intermediate, (2 * MAX_VALUE / MIN_SCALE)^2, is 2^90, and float32 ends near 2^128.
MIN_SCALE = 2.0**-20
MAX_VALUE = 2.0**24

_PREAMBLE = struct.Struct("<8sH")  # signature, version
_CHUNK_HEAD = struct.Struct("<I4s")  # payload bytes, tag
_CRC = struct.Struct("<I")  # CRC-32 of tag and payload
_HEADER = struct.Struct("<IIBBH")  # width, height, channels, profile, S
_ROWS_HEAD = struct.Struct("<II")  # stage index, rows
_CHUNK_OVERHEAD = _CHUNK_HEAD.size + _CRC.size
_GEOMETRY = 5  # numbers of a row before its colours


@dataclass(frozen=True)
class Encoded:
    """What a .air file holds: the Gaussians of an image, stage by stage.

    Fields:
      gaussians: n rows sorted by stage, all of them active; float32 arrays of numpy (after `decode`) or JAX.
      stage_counts: rows per stage, S numbers that sum to n. S = 0 and stages without rows are valid.
      image_size: (h, w) in pixels of the image the set was made for.
    """

    gaussians: Gaussians2D
    stage_counts: tuple[int, ...]
    image_size: tuple[int, int]


class ChunkInfo(NamedTuple):
    """One chunk: its tag, the offset of its first byte, the bytes of its payload, whether its CRC fits."""

    tag: str
    offset: int
    length: int
    crc_ok: bool


class FileInfo(NamedTuple):
    """What `info` reports.

    Fields:
      version, profile: of the format; `profile` in words.
      image_size: (h, w) in pixels.
      channels: colour channels c.
      stage_counts: Gaussians per stage.
      num_bytes: length of the file.
      bits_per_gaussian: 8 * num_bytes / n, everything in the file counted; None when n is 0.
      bpp: 8 * num_bytes / (h * w).
      chunks: the chunk table in file order.
    """

    version: int
    profile: str
    image_size: tuple[int, int]
    channels: int
    stage_counts: tuple[int, ...]
    num_bytes: int
    bits_per_gaussian: float | None
    bpp: float
    chunks: tuple[ChunkInfo, ...]


def encode(encoded: Encoded) -> bytes:
    """The bytes of a version 1 file in the lossless profile.

    Raises:
      TypeError: an array is not float32 (`active`: bool).
      ValueError: shapes or counts disagree, or a row is not active.
      AirjaxError: image or set beyond the limits of the format, or a number in it (docs/format.md, Limits).
    """
    rows = _rows(encoded.gaussians)
    counts = encoded.stage_counts
    height, width = encoded.image_size
    channels = rows.shape[1] - _GEOMETRY
    if any(count < 0 for count in counts) or sum(counts) != len(rows):
        raise ValueError(f"stage_counts: expected counts that sum to {len(rows)} rows, got {counts}")
    if len(counts) > 0xFFFF:
        raise AirjaxError(f"stages: expected at most {0xFFFF}, got {len(counts)}")
    if problem := _size_problem(height, width, channels) or _row_problem(rows):
        raise AirjaxError(problem)

    parts = [_PREAMBLE.pack(SIGNATURE, VERSION)]
    parts += _chunk(b"AHDR", _HEADER.pack(width, height, channels, PROFILE_LOSSLESS, len(counts)))
    start = 0
    for stage, count in enumerate(counts):
        if _ROWS_HEAD.size + count * rows.itemsize * rows.shape[1] > MAX_CHUNK:
            raise AirjaxError(f"stage {stage}: expected at most 2 GiB of Gaussians, got {count} rows")
        body = rows[start : start + count].astype("<f4", copy=False).tobytes()
        parts += _chunk(b"ROWS", _ROWS_HEAD.pack(stage, count) + body)
        start += count
    parts += _chunk(b"AEND", b"")
    return b"".join(parts)


def decode(data: bytes) -> Encoded:
    """The content of a file; `decode(encode(x))` equals x bit for bit.

    Chunks of an unknown ancillary tag (first letter small) are skipped; every other departure from
    docs/format.md is an error. Work and memory are proportional to `len(data)`.

    Returns:
      Encoded with numpy arrays, float32 in the machine's byte order.

    Raises:
      FormatError: not a .air file, of an unknown version, damaged, cut short, or with bytes after its end.
    """
    view = memoryview(data).cast("B")
    header: _Header | None = None
    blocks: list[np.ndarray] = []
    for chunk in _chunks(view):
        if not chunk.crc_ok:
            raise FormatError(f"chunk {chunk.tag} at byte {chunk.offset}: checksum mismatch, the file is damaged")
        if chunk.tag == "AHDR":
            header = _parse_header(chunk)
        elif chunk.tag == "ROWS":
            assert header is not None  # _chunks lets no other chunk come first
            count = _parse_rows_head(chunk, header, stage=len(blocks))
            body = np.frombuffer(chunk.payload, "<f4", offset=_ROWS_HEAD.size)
            blocks.append(body.reshape(count, _GEOMETRY + header.channels))
            if problem := _row_problem(blocks[-1]):
                raise FormatError(f"stage {len(blocks) - 1}: {problem}")
    assert header is not None
    _check_all_stages(header, len(blocks))

    rows = np.concatenate([np.empty((0, _GEOMETRY + header.channels), "<f4"), *blocks]).astype(np.float32, copy=False)
    gaussians = Gaussians2D(
        means=rows[:, 0:2].copy(),
        scales=rows[:, 2:4].copy(),
        angles=rows[:, 4].copy(),
        colors=rows[:, _GEOMETRY:].copy(),
        active=np.ones(len(rows), bool),
    )
    return Encoded(gaussians, tuple(len(block) for block in blocks), header.image_size)


def info(data: bytes) -> FileInfo:
    """The chunk table and the sizes of a file, without its Gaussians.

    A wrong checksum is reported in the table and is no error here, so that a damaged file can be looked at.

    Raises:
      FormatError: not a .air file, of an unknown version, cut short, or chunks that cannot be followed.
    """
    view = memoryview(data).cast("B")
    header: _Header | None = None
    table: list[ChunkInfo] = []
    counts: list[int] = []
    for chunk in _chunks(view):
        table.append(ChunkInfo(chunk.tag, chunk.offset, len(chunk.payload), chunk.crc_ok))
        if chunk.tag == "AHDR":
            header = _parse_header(chunk)
        elif chunk.tag == "ROWS":
            assert header is not None
            counts.append(_parse_rows_head(chunk, header, stage=len(counts)))
    assert header is not None
    _check_all_stages(header, len(counts))

    bits = 8 * len(view)
    num_gaussians = sum(counts)
    height, width = header.image_size
    return FileInfo(
        version=VERSION,
        profile=PROFILE_NAMES[header.profile],
        image_size=header.image_size,
        channels=header.channels,
        stage_counts=tuple(counts),
        num_bytes=len(view),
        bits_per_gaussian=bits / num_gaussians if num_gaussians else None,
        bpp=bits / (height * width),
        chunks=tuple(table),
    )


def compact(gaussians: Gaussians2D, *, stage_sizes: tuple[int, ...], image_size: tuple[int, int]) -> Encoded:
    """The active rows of a set whose slots lie stage by stage, in their order.

    Args:
      gaussians: n slots, used or not.
      stage_sizes: slots per stage; they sum to n.
      image_size: (h, w) in pixels.

    Raises:
      ValueError: `stage_sizes` do not sum to the number of slots.
    """
    active = np.asarray(gaussians.active)
    if min(stage_sizes, default=0) < 0 or sum(stage_sizes) != len(active):
        raise ValueError(f"stage_sizes: expected sizes that sum to {len(active)} slots, got {stage_sizes}")
    ends = np.cumsum((0, *stage_sizes))
    counts = tuple(int(active[a:b].sum()) for a, b in itertools.pairwise(ends))
    return Encoded(_select(gaussians, active), counts, image_size)


def truncate_stages(encoded: Encoded, num: int) -> Encoded:
    """The first `num` stages of a set; the later ones are left out.

    Raises:
      ValueError: `num` is not in [0, S].
    """
    if not 0 <= num <= len(encoded.stage_counts):
        raise ValueError(f"num: expected 0 to {len(encoded.stage_counts)} stages, got {num}")
    counts = encoded.stage_counts[:num]
    return Encoded(_select(encoded.gaussians, slice(0, sum(counts))), counts, encoded.image_size)


def _select(gaussians: Gaussians2D, index: np.ndarray | slice) -> Gaussians2D:
    """The chosen rows, as numpy arrays."""
    return Gaussians2D(
        means=np.asarray(gaussians.means)[index],
        scales=np.asarray(gaussians.scales)[index],
        angles=np.asarray(gaussians.angles)[index],
        colors=np.asarray(gaussians.colors)[index],
        active=np.asarray(gaussians.active)[index],
    )


def _rows(gaussians: Gaussians2D) -> np.ndarray:
    """All numbers of a set as (n, 5 + c) float32, after a check of types and shapes."""
    means, scales, angles, colors, active = (
        np.asarray(getattr(gaussians, name)) for name in ("means", "scales", "angles", "colors", "active")
    )
    for name, array in {"means": means, "scales": scales, "angles": angles, "colors": colors}.items():
        if array.dtype != np.float32:
            raise TypeError(f"{name}: expected float32, got {array.dtype}")
    if active.dtype != bool:
        raise TypeError(f"active: expected bool, got {active.dtype}")
    n = means.shape[0]
    shapes = (means.shape, scales.shape, angles.shape, colors.shape[:1], active.shape)
    if shapes != ((n, 2), (n, 2), (n,), (n,), (n,)) or colors.ndim != 2:
        raise ValueError(f"gaussians: expected (n, 2), (n, 2), (n,), (n, c), (n,), got {shapes} and {colors.shape}")
    if not active.all():
        raise ValueError(f"active: expected every row in use, got {n - int(active.sum())} that are not; see compact()")
    return np.concatenate([means, scales, angles[:, None], colors], axis=1)


def _size_problem(height: int, width: int, channels: int) -> str | None:
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        return f"image size: expected sides of 1 to {MAX_SIDE} pixels, got {width}x{height}"
    if width * height > MAX_PIXELS:
        return f"image size: expected at most {MAX_PIXELS} pixels, got {width}x{height}"
    if not 1 <= channels <= MAX_CHANNELS:
        return f"channels: expected 1 to {MAX_CHANNELS}, got {channels}"
    return None


def _row_problem(rows: np.ndarray) -> str | None:
    """What a stored (n, 5 + c) block must not hold; None when it is fine. Comparisons with NaN are false."""
    good = np.abs(rows) <= MAX_VALUE
    good[:, 2:4] &= rows[:, 2:4] >= MIN_SCALE
    if good.all():
        return None
    row, column = (int(index) for index in np.argwhere(~good)[0])
    names = ("mean x", "mean y", "scale 1", "scale 2", "angle")
    name = names[column] if column < _GEOMETRY else f"colour {column - _GEOMETRY}"
    low = "2^-20" if column in (2, 3) else "-2^24"
    return f"Gaussian {row}, {name}: expected a number from {low} to 2^24, got {rows[row, column]}"


def _chunk(tag: bytes, payload: bytes) -> list[bytes]:
    """The parts of one chunk; a list, so that a large payload is copied only once, by the final join."""
    return [_CHUNK_HEAD.pack(len(payload), tag), payload, _CRC.pack(zlib.crc32(payload, zlib.crc32(tag)))]


class _Chunk(NamedTuple):
    tag: str
    offset: int
    payload: memoryview
    crc_ok: bool


class _Header(NamedTuple):
    image_size: tuple[int, int]
    channels: int
    profile: int
    num_stages: int


def _chunks(view: memoryview) -> Iterator[_Chunk]:
    """Walks a file to its last byte: AHDR first and once, AEND last, every tag known or ancillary."""
    if len(view) == 0:
        raise FormatError("expected a .air file, got 0 bytes")
    start = bytes(view[: len(SIGNATURE)])
    if not SIGNATURE.startswith(start):
        if start[:4] == SIGNATURE[:4] or start[1:4] == SIGNATURE[1:4]:
            raise FormatError("damaged .air signature: a transfer in text mode changes bytes like this")
        raise FormatError("not a .air file: the signature is missing")
    if len(view) < _PREAMBLE.size:
        raise FormatError(f"cut short: {len(view)} bytes end inside the signature and version")
    version = _PREAMBLE.unpack_from(view)[1]
    if version != VERSION:
        raise FormatError(f"version: expected {VERSION}, got {version}; a newer airjax may read it")

    offset, seen, tag = _PREAMBLE.size, False, ""
    while tag != "AEND":
        chunk = _read_chunk(view, offset)
        tag = chunk.tag
        if (tag == "AHDR") == seen:
            raise FormatError(f"chunk {tag} at byte {offset}: expected AHDR as the first chunk and only there")
        if tag[0].isupper() and tag not in ("AHDR", "ROWS", "AEND"):
            raise FormatError(f"chunk {tag} at byte {offset}: unknown, and marked as needed to decode the file")
        if tag == "AEND" and len(chunk.payload):
            raise FormatError(f"chunk AEND at byte {offset}: expected no payload, got {len(chunk.payload)} bytes")
        seen = True
        offset += _CHUNK_OVERHEAD + len(chunk.payload)
        yield chunk
    if offset != len(view):
        raise FormatError(f"expected the end of the file at byte {offset}, got {len(view) - offset} bytes more")


def _read_chunk(view: memoryview, offset: int) -> _Chunk:
    """The chunk at `offset`; its payload is a view, nothing is copied."""
    remaining = len(view) - offset
    if remaining < _CHUNK_OVERHEAD:
        raise FormatError(f"cut short: expected a chunk at byte {offset}, got {remaining} bytes")
    length, tag = _CHUNK_HEAD.unpack_from(view, offset)
    if not (tag.isascii() and tag.isalpha()):
        raise FormatError(f"chunk at byte {offset}: expected a tag of four letters, got {tag.hex()}")
    name = tag.decode("ascii")
    if length > min(MAX_CHUNK, remaining - _CHUNK_OVERHEAD):
        have = remaining - _CHUNK_OVERHEAD
        raise FormatError(f"chunk {name} at byte {offset}: claims {length} bytes, but only {have} are left")
    begin = offset + _CHUNK_HEAD.size
    payload = view[begin : begin + length]
    (crc,) = _CRC.unpack_from(view, begin + length)
    return _Chunk(name, offset, payload, crc == zlib.crc32(payload, zlib.crc32(tag)))


def _parse_header(chunk: _Chunk) -> _Header:
    if len(chunk.payload) != _HEADER.size:
        raise FormatError(f"chunk AHDR: expected {_HEADER.size} bytes, got {len(chunk.payload)}")
    width, height, channels, profile, num_stages = _HEADER.unpack(chunk.payload)
    if profile not in PROFILE_NAMES:
        raise FormatError(f"profile: expected one of {sorted(PROFILE_NAMES)}, got {profile}")
    if problem := _size_problem(height, width, channels):
        raise FormatError(problem)
    return _Header((height, width), channels, profile, num_stages)


def _parse_rows_head(chunk: _Chunk, header: _Header, *, stage: int) -> int:
    """Number of rows of a stage; checks that exactly so many are there, and that it is this stage's turn."""
    size = len(chunk.payload)
    if size < _ROWS_HEAD.size:
        raise FormatError(f"chunk ROWS at byte {chunk.offset}: expected {_ROWS_HEAD.size} bytes or more, got {size}")
    index, count = _ROWS_HEAD.unpack_from(chunk.payload)
    if index != stage or stage >= header.num_stages:
        due = f"stage {stage} of {header.num_stages}"
        raise FormatError(f"chunk ROWS at byte {chunk.offset}: expected {due}, got stage {index}")
    expected = _ROWS_HEAD.size + count * 4 * (_GEOMETRY + header.channels)
    if size != expected:
        raise FormatError(f"stage {stage}: claims {count} Gaussians, {expected} bytes, but the chunk has {size}")
    return count


def _check_all_stages(header: _Header, num_found: int) -> None:
    if num_found != header.num_stages:
        raise FormatError(f"expected {header.num_stages} stages, got {num_found}")
