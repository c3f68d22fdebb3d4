"""The .air file: bytes in, Gaussians out, and back; docs/format.md describes it byte by byte.

Letters: n Gaussians, c colour channels, S stages. A row is mean x, y, scale 1, 2, angle and the c colours.

Two profiles: lossless (float32 rows, come back bit for bit) and compact (`airjax.image.codec.payload`). `decode` trusts
no number in the file: each length is compared with the bytes that are there before anything is allocated, so a small
file can only ever claim a small set. The errors raised here do not know the file's name; the caller puts it in front.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from airjax.errors import AirjaxError, FormatError
from airjax.gaussians import Gaussians2D, join, only_active, take
from airjax.image.codec import chunks as container
from airjax.image.codec.chunks import PROFILE_COMPACT, PROFILE_LOSSLESS, PROFILE_NAMES, Chunk, CutShort, Header
from airjax.image.codec.payload import Origin, Quantised, attribute_bits, pack_stages, parse_head, read_stages
from airjax.image.codec.quantise import dequantise
from airjax.raster.draw import render
from airjax.raster.tiles import patch_grid

Buffer = bytes | bytearray | memoryview

# Bounds of the numbers of the lossless profile. They lie far beyond any photograph, and keep a float32 renderer finite:
# its largest intermediate, (2 * MAX_VALUE / MIN_SCALE)^2, is 2^90, and float32 ends near 2^128.
MIN_SCALE = 2.0**-20
MAX_VALUE = 2.0**24

_MADE = "made"  # the tag of a chunk that says how a compact file was made
_ROWS_HEAD = struct.Struct("<II")  # stage index, rows
_GEOMETRY = 5  # numbers of a row before its colours


@dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """What a .air file holds: the Gaussians of an image, stage by stage.

    Fields:
      gaussians: n rows sorted by stage, all of them active; float32 arrays of numpy (after `decode`) or JAX.
      stage_counts: rows per stage, S numbers that sum to n. S = 0 and stages without rows are valid.
      image_size: (h, w) in pixels of the image the set was made for.
      quantised: the integers that the Gaussians stand for, which a compact file holds; None for a lossless file.
    """

    gaussians: Gaussians2D
    stage_counts: tuple[int, ...]
    image_size: tuple[int, int]
    quantised: Quantised | None = None

    def __repr__(self) -> str:
        (height, width), kind = self.image_size, "float32" if self.quantised is None else "quantised"
        count, stages = self.gaussians.num_slots, len(self.stage_counts)
        return f"Encoded({count:,} Gaussians in {stages} stages, {width} x {height} pixels, {kind})"

    def render(self, scale: float = 1.0) -> Float[Array, "h w c"]:
        """The image at a scale, not clipped; see `airjax.raster.draw.render`."""
        return render(self.gaussians, image_size=self.image_size, scale=scale).image

    def to_bytes(self) -> bytes:
        """The bytes of a .air file, see `encode`."""
        return encode(self)

    @classmethod
    def from_bytes(cls, data: Buffer) -> Encoded:
        """Inverse of `to_bytes`, see `decode`."""
        return decode(data)


class ChunkInfo(NamedTuple):
    """One chunk: its tag, the offset of its first byte, the bytes of its payload, whether its CRC fits."""

    tag: str
    offset: int
    length: int
    crc_ok: bool


class FileInfo(NamedTuple):
    """What `info` reports.

    Fields:
      profile: of the format, in words.
      image_size: (h, w) in pixels.
      channels: colour channels c.
      stage_counts: Gaussians per stage, n in all.
      bits_per_gaussian, bpp: of num_bytes, everything in the file counted, over n (None when n is 0) and over h * w.
      chunks: the chunk table in file order.
      attribute_bits: compact profile: bits of each kind of symbol, heads and chunks left out; otherwise, and where a
        checksum is wrong or the file is cut short, None.
      origin: how the file says that it was made; None where it does not.
      num_stages: how many stages the header promises; fewer may be there in a file that is cut short.
      whole: whether the file goes on to its end.
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
    attribute_bits: dict[str, float] | None
    origin: Origin | None
    num_stages: int
    whole: bool


def encode(content: Encoded | Quantised, *, version: int = 2) -> bytes:
    """The bytes of a file: the compact profile for quantised rows, the lossless one for floats.

    `version` is that of compact files: 1 for readers that know no other. Lossless ones are the same in both, and say 1.

    Raises:
      TypeError, ValueError: arrays of other types (float32, bool) or shapes, or a row that is not active.
      AirjaxError: image or set beyond the limits of the format, or a number in it (docs/format.md).
    """
    quantised = content if isinstance(content, Quantised) else content.quantised
    if quantised is not None:
        if version not in container.VERSIONS:
            raise ValueError(f"version: expected one of {container.VERSIONS}, got {version}")
        header = Header(quantised.image_size, 3, PROFILE_COMPACT, len(quantised.stages), version)
        payloads = pack_stages(quantised, version)
    else:
        assert isinstance(content, Encoded)
        rows = _rows(content.gaussians)
        header = Header(content.image_size, rows.shape[1] - _GEOMETRY, PROFILE_LOSSLESS, len(content.stage_counts))
        payloads = _pack_rows(rows, content.stage_counts)
    tag = container.STAGE_TAGS[header.profile].encode()
    made = [] if quantised is None or quantised.origin is None else [(_MADE.encode(), quantised.origin.pack())]
    return container.assemble(header, [*made, *((tag, payload) for payload in payloads)])


def _pack_rows(rows: np.ndarray, counts: tuple[int, ...]) -> list[bytes]:
    """The payloads of the ROWS chunks."""
    if any(count < 0 for count in counts) or sum(counts) != len(rows):
        raise ValueError(f"stage_counts: expected counts that sum to {len(rows)} rows, got {counts}")
    if len(counts) > 0xFFFF:
        raise AirjaxError(f"stages: expected at most {0xFFFF}, got {len(counts)}")
    if problem := _row_problem(rows):
        raise AirjaxError(problem)
    payloads, start = [], 0
    for stage, count in enumerate(counts):
        if _ROWS_HEAD.size + count * rows.itemsize * rows.shape[1] > container.MAX_CHUNK:
            raise AirjaxError(f"stage {stage}: expected at most 2 GiB of Gaussians, got {count} rows")
        body = rows[start : start + count].astype("<f4", copy=False).tobytes()
        payloads.append(_ROWS_HEAD.pack(stage, count) + body)
        start += count
    return payloads


def decode(data: Buffer, *, partial: bool = False) -> Encoded:
    """The Gaussians of a file, float32 arrays of numpy.

    Of a lossless file they are those that were encoded, bit for bit; of a compact one they are the same on every
    machine. Chunks of an unknown ancillary tag (first letter small) are skipped; every other departure from
    docs/format.md is a FormatError. Work and memory are bounded by a multiple of `len(data)` and by the size of the
    image's patch grids. With `partial`, a file that is cut short or damaged behind its header gives the stages before.
    """
    header, chunks, whole = _read(data, partial=partial)
    if header.profile == PROFILE_COMPACT:
        return dequantised(_quantised(header, chunks, whole))
    blocks: list[np.ndarray] = []
    for chunk in _stages(header, chunks):
        count = _parse_rows_head(chunk, header, stage=len(blocks))
        body = np.frombuffer(chunk.payload, "<f4", offset=_ROWS_HEAD.size)
        blocks.append(body.reshape(count, _GEOMETRY + header.channels))
        if problem := _row_problem(blocks[-1]):
            raise FormatError(f"stage {len(blocks) - 1}: {problem}")
    if whole:
        _check_all_stages(header, len(blocks))
    rows = np.concatenate([np.empty((0, _GEOMETRY + header.channels), "<f4"), *blocks]).astype(np.float32, copy=False)
    means, scales, angles, colors = (rows[:, part].copy() for part in (slice(0, 2), slice(2, 4), 4, slice(5, None)))
    gaussians = Gaussians2D(means, scales, angles, colors, np.ones(len(rows), bool))
    return Encoded(gaussians, tuple(len(block) for block in blocks), header.image_size)


def decode_quantised(data: Buffer, *, partial: bool = False) -> Quantised:
    """The integers of a compact file, exactly those that were encoded; FormatError for another profile."""
    header, chunks, whole = _read(data, partial=partial)
    if header.profile != PROFILE_COMPACT:
        raise FormatError(f"profile: expected {PROFILE_NAMES[PROFILE_COMPACT]}, got {PROFILE_NAMES[header.profile]}")
    return _quantised(header, chunks, whole)


def dequantised(quantised: Quantised) -> Encoded:
    """The Gaussians that quantised rows stand for."""
    size = quantised.image_size
    sets = [dequantise(rows, columns=patch_grid(size, rows.patch_size)[1]) for rows in quantised.stages]
    means, scales, angles, colors = (np.zeros(shape, np.float32) for shape in ((0, 2), (0, 2), (0,), (0, 3)))
    empty = Gaussians2D(means, scales, angles, colors, np.zeros(0, bool))
    return Encoded(join([empty, *sets]), quantised.stage_counts, size, quantised)


def info(data: Buffer) -> FileInfo:
    """The chunk table and the sizes of a file, and what its bits are spent on; a FormatError where none can be read.

    Neither a wrong checksum nor an end that is missing is an error here, so that a damaged file can be looked at.
    """
    header, chunks, whole = _read(data, partial=True, damaged=True)
    counts = []
    for stage, chunk in enumerate(_stages(header, chunks)):
        if header.profile == PROFILE_COMPACT:
            counts.append(parse_head(chunk.payload, header, stage).count)
        else:
            counts.append(_parse_rows_head(chunk, header, stage=stage))
    if whole:
        _check_all_stages(header, len(counts))
    num_bytes, num_gaussians = len(memoryview(data).cast("B")), sum(counts)
    bits = 8 * num_bytes
    height, width = header.image_size
    compact = header.profile == PROFILE_COMPACT
    compact_and_whole = compact and whole and all(chunk.crc_ok for chunk in chunks)
    return FileInfo(
        version=header.version,
        profile=PROFILE_NAMES[header.profile],
        image_size=header.image_size,
        channels=header.channels,
        stage_counts=tuple(counts),
        num_bytes=num_bytes,
        bits_per_gaussian=bits / num_gaussians if num_gaussians else None,
        bpp=bits / (height * width),
        chunks=tuple(ChunkInfo(chunk.tag, chunk.offset, len(chunk.payload), chunk.crc_ok) for chunk in chunks),
        attribute_bits=attribute_bits(_quantised(header, chunks, True), header.version) if compact_and_whole else None,
        origin=_origin(chunks) if compact else None,
        num_stages=header.num_stages,
        whole=whole,
    )


def _read(data: Buffer, *, partial: bool = False, damaged: bool = False) -> tuple[Header, list[Chunk], bool]:
    """Header, all chunks, and whether the file is whole; no stage is looked into.

    `partial` and `damaged` accept a file that is cut short after its header, and wrong checksums.
    """
    header: Header | None = None
    chunks: list[Chunk] = []
    try:
        for chunk in container.walk(view := memoryview(data).cast("B")):
            if not (chunk.crc_ok or damaged):
                kind = FormatError if header is None else CutShort
                raise kind(f"chunk {chunk.tag} at byte {chunk.offset}: checksum mismatch, the file is damaged")
            if header is None:  # walk lets no other chunk come first
                header = container.parse_header(chunk, container.version_of(view))
            expected = container.STAGE_TAGS[header.profile]
            if chunk.tag in container.STAGE_TAGS.values() and chunk.tag != expected:
                raise FormatError(f"chunk {chunk.tag} at byte {chunk.offset}: expected {expected} in this profile")
            chunks.append(chunk)
    except CutShort:
        if not partial or header is None:
            raise
        return header, chunks, False
    assert header is not None
    return header, chunks, True


def _stages(header: Header, chunks: list[Chunk]) -> list[Chunk]:
    return [chunk for chunk in chunks if chunk.tag == container.STAGE_TAGS[header.profile]]


def _quantised(header: Header, chunks: list[Chunk], whole: bool) -> Quantised:
    stages = read_stages(header, [chunk.payload for chunk in _stages(header, chunks)])
    if whole:
        _check_all_stages(header, len(stages))
    return Quantised(stages, header.image_size, _origin(chunks))


def _origin(chunks: list[Chunk]) -> Origin | None:
    """What the first chunk says that says how the file was made."""
    return next((Origin.parse(chunk.payload) for chunk in chunks if chunk.tag == _MADE), None)


def compact(gaussians: Gaussians2D, *, stage_sizes: tuple[int, ...], image_size: tuple[int, int]) -> Encoded:
    """The active rows of a set whose slots lie stage by stage; a ValueError unless the sizes sum to n."""
    active = np.asarray(gaussians.active)
    if min(stage_sizes, default=0) < 0 or sum(stage_sizes) != len(active):
        raise ValueError(f"stage_sizes: expected sizes that sum to {len(active)} slots, got {stage_sizes}")
    ends = np.cumsum((0, *stage_sizes))
    counts = tuple(int(active[a:b].sum()) for a, b in itertools.pairwise(ends))
    return Encoded(only_active(gaussians), counts, image_size)


def truncate_stages(encoded: Encoded, num: int) -> Encoded:
    """The first `num` stages of a set; a ValueError for a number that is not in [0, S]."""
    if not 0 <= num <= len(encoded.stage_counts):
        raise ValueError(f"num: expected 0 to {len(encoded.stage_counts)} stages, got {num}")
    counts, quantised = encoded.stage_counts[:num], encoded.quantised
    rows = take(jax.tree.map(np.asarray, encoded.gaussians), slice(0, sum(counts)))
    if quantised is not None:
        quantised = replace(quantised, stages=quantised.stages[:num])
    return Encoded(rows, counts, encoded.image_size, quantised)


def _rows(gaussians: Gaussians2D) -> np.ndarray:
    """All numbers of a set as (n, 5 + c) float32, after a check of types and shapes."""
    arrays = {field.name: np.asarray(getattr(gaussians, field.name)) for field in fields(gaussians)}
    for name, array in arrays.items():
        expected = np.dtype(bool if name == "active" else np.float32)
        if array.dtype != expected:
            raise TypeError(f"{name}: expected {expected}, got {array.dtype}")
    means, scales, angles, colors, active = arrays.values()
    n = means.shape[0]
    shapes = (means.shape, scales.shape, angles.shape, colors.shape[:1], active.shape)
    if shapes != ((n, 2), (n, 2), (n,), (n,), (n,)) or colors.ndim != 2:
        raise ValueError(f"gaussians: expected (n, 2), (n, 2), (n,), (n, c), (n,), got {shapes} and {colors.shape}")
    if not active.all():
        raise ValueError(f"active: expected every row in use, got {n - int(active.sum())} that are not; see compact()")
    return np.concatenate([means, scales, angles[:, None], colors], axis=1)


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


def _parse_rows_head(chunk: Chunk, header: Header, *, stage: int) -> int:
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


def _check_all_stages(header: Header, num_found: int) -> None:
    if num_found != header.num_stages:
        raise FormatError(f"expected {header.num_stages} stages, got {num_found}")
