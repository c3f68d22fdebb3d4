"""The compact profile: the quantised rows of an image, and the payload of each stage's STAG chunk.

docs/format.md, section 5, describes the payload byte by byte. A reader needs the stages in order, since each is coded
with what it knows of the ones before; the first k of them are the image after k stages.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError, FormatError
from airjax.image.codec.chunks import Header
from airjax.image.codec.entropy import PASS_LEVELS, Decoder, Encoder, Memory, code_stage
from airjax.image.codec.quantise import NUM_CODES, Rows
from airjax.image.codec.tables import (
    GROUPS,
    MAX_WRITTEN,
    NUM_SETS,
    ConstantTables,
    LearningTables,
    Tables,
    choose_sets,
)
from airjax.image.defaults import EFFORT_RANGE
from airjax.raster.tiles import patch_grid

MAX_STAGES = 64
PATCH_SIZES = (4, 64)
MAX_PATCHES = 2**22
# The least bytes of code that so many rows and patches must have: what bounds the work that a small file can ask for.
_FREE_ROWS, _ROWS_PER_BYTE = 2**12, 32
_FREE_PATCHES, _PATCHES_PER_BYTE = 2**16, 2**7
_HEAD = struct.Struct(f"<BBI{NUM_CODES}b")  # stage index, patch size, n, codes
_SETS = struct.Struct(f"<{len(GROUPS) // 2}B")  # version 2, after the head: the set of every group, two in a byte
_WORD = 4
_ORIGIN = struct.Struct("<HB")  # quality in hundredths, effort; then the name of the weights, UTF-8
_NO_EFFORT, MAX_NAME = 255, 100


class Origin(NamedTuple):
    """How a file was made, for people and reports; no picture depends on it."""

    quality: float  # 0 to 100, hundredths are kept
    effort: int | None  # 0 to 9; None for a number of steps that is that of no effort
    weights: str  # name of the predictor's weights; the first MAX_NAME bytes are kept

    def pack(self) -> bytes:
        """The payload of the `made` chunk."""
        effort = _NO_EFFORT if self.effort is None else self.effort
        return _ORIGIN.pack(round(100 * self.quality), effort) + self.weights.encode()[:MAX_NAME]

    @classmethod
    def parse(cls, payload: memoryview) -> Origin:
        """Inverse of `pack`; a FormatError for what it does not write."""
        if not _ORIGIN.size <= len(payload) <= _ORIGIN.size + MAX_NAME:
            raise FormatError(f"chunk made: expected 3 to {3 + MAX_NAME} bytes, got {len(payload)}")
        quality, effort = _ORIGIN.unpack_from(payload)
        if quality > 10_000 or (effort > EFFORT_RANGE[1] and effort != _NO_EFFORT):
            raise FormatError(f"chunk made: expected a quality up to 100 and an effort, got {quality / 100}, {effort}")
        name = bytes(payload[_ORIGIN.size :]).decode(errors="replace")
        return cls(quality / 100, None if effort == _NO_EFFORT else effort, name)


@dataclass(frozen=True, eq=False, repr=False)
class Quantised:
    """What a compact file holds, integers: the rows of each stage (a stage may have none), and (h, w) in pixels."""

    stages: tuple[Rows, ...]
    image_size: tuple[int, int]
    origin: Origin | None = None

    @property
    def stage_counts(self) -> tuple[int, ...]:
        """Rows per stage."""
        return tuple(len(rows.patches) for rows in self.stages)

    def __repr__(self) -> str:
        (height, width), stages = self.image_size, len(self.stages)
        return f"Quantised({sum(self.stage_counts):,} rows in {stages} stages, {width} x {height} pixels)"


@dataclass
class _Work:
    """Rows, patches and bytes of code of the stages so far that have rows."""

    rows: int = 0
    patches: int = 0
    num_bytes: int = 0

    def missing(self, rows: int, patches: int, num_bytes: int) -> int:
        """Adds a stage; how many bytes of code it lacks for the work that it asks for."""
        self.rows, self.patches, self.num_bytes = self.rows + rows, self.patches + patches, self.num_bytes + num_bytes
        fewest = max(0, self.rows - _FREE_ROWS) // _ROWS_PER_BYTE
        fewest += max(0, self.patches - _FREE_PATCHES) // _PATCHES_PER_BYTE
        return max(0, fewest - self.num_bytes)


def _check_rows(rows: Rows, grid: tuple[int, int], stage: int) -> None:
    n, num_patches = len(rows.patches), grid[0] * grid[1]
    if rows.symbols.shape != (n, 8) or rows.codes.shape != (NUM_CODES,):
        raise ValueError(f"stage {stage}: expected symbols ({n}, 8) and 6 codes, got {rows.symbols.shape}")
    if not PATCH_SIZES[0] <= rows.patch_size <= PATCH_SIZES[1]:
        raise AirjaxError(f"patch size: expected {PATCH_SIZES[0]} to {PATCH_SIZES[1]} pixels, got {rows.patch_size}")
    if num_patches > MAX_PATCHES:
        raise AirjaxError(f"stage {stage}: expected at most {MAX_PATCHES} patches, got {num_patches}")
    if n and (np.any(np.diff(rows.patches) <= 0) or rows.patches[0] < 0 or rows.patches[-1] >= num_patches):
        raise ValueError(f"stage {stage}: expected increasing patch numbers below {num_patches}")
    if n and np.abs(rows.symbols).max() > MAX_WRITTEN:
        raise AirjaxError(f"stage {stage}: expected symbols up to {MAX_WRITTEN}, got more; choose a lower quality")


class _Coded(NamedTuple):
    """A stage on its way to a file: its symbols, its tables, and how the file says which these are."""

    rows: Rows
    encoder: Encoder
    tables: Tables
    chosen: tuple[int, ...]  # sets of constant tables; none where tables learn


def encoders(quantised: Quantised, version: int) -> Iterator[tuple[Rows, Encoder]]:
    """The rows of every stage, and an encoder that has collected their symbols; errors are those of `pack_stages`."""
    if len(quantised.stages) > MAX_STAGES:
        raise AirjaxError(f"stages: expected at most {MAX_STAGES}, got {len(quantised.stages)}")
    memory = Memory(PASS_LEVELS[version])
    for stage, rows in enumerate(quantised.stages):
        grid = patch_grid(quantised.image_size, rows.patch_size)
        _check_rows(rows, grid, stage)
        encoder, count = Encoder(), len(rows.patches)
        if count:
            code_stage(encoder, rows, memory, grid=grid, patch_size=rows.patch_size, codes=rows.codes, count=count)
        yield rows, encoder


def _code_all(quantised: Quantised, version: int) -> Iterator[_Coded]:
    learning = LearningTables()
    for rows, encoder in encoders(quantised, version):
        if version == 1:
            yield _Coded(rows, encoder, learning, ())
        else:
            chosen = choose_sets(encoder.seen())
            yield _Coded(rows, encoder, ConstantTables(chosen), chosen)


def pack_stages(quantised: Quantised, version: int) -> list[bytes]:
    """The payload of the STAG chunk of every stage.

    Raises:
      ValueError: shapes that disagree, or patches out of order.
      AirjaxError: a set beyond the limits of the format.
    """
    payloads, work = [], _Work()
    for stage, (rows, encoder, tables, chosen) in enumerate(_code_all(quantised, version)):
        head = _HEAD.pack(stage, rows.patch_size, len(rows.patches), *map(int, rows.codes))
        if chosen:
            head += _SETS.pack(*(low + NUM_SETS * high for low, high in zip(chosen[::2], chosen[1::2], strict=True)))
        code = b""
        if len(rows.patches):
            code = encoder.words(tables).astype("<u4").tobytes()
            num_patches = math.prod(patch_grid(quantised.image_size, rows.patch_size))
            padding = bytes(-(-work.missing(len(rows.patches), num_patches, len(code)) // _WORD) * _WORD)
            work.num_bytes += len(padding)
            code += padding
        payloads.append(head + code)
    return payloads


def attribute_bits(quantised: Quantised, version: int) -> dict[str, float]:
    """Bits of the code that each kind of symbol takes, over all stages, with the tables that `pack_stages` takes."""
    bits: Counter[str] = Counter()
    for coded in _code_all(quantised, version):
        bits.update(coded.encoder.bits_of(coded.tables))
    return dict(bits)


@dataclass(frozen=True)
class StageHead:
    """The head of a STAG chunk, checked, and its code; `chosen` are its sets of constant tables, none in version 1."""

    patch_size: int
    grid: tuple[int, int]
    count: int
    codes: np.ndarray
    chosen: tuple[int, ...]
    words: np.ndarray


def parse_head(payload: memoryview, header: Header, stage: int) -> StageHead:
    """The head of the chunk that must be that of `stage`; a FormatError for numbers out of range or at odds."""
    size, start = len(payload), _head_size(header)
    if size < start or (size - start) % _WORD:
        raise FormatError(f"stage {stage}: expected {start} bytes and whole words, got {size} bytes")
    index, patch_size, count, *codes = _HEAD.unpack_from(payload)
    if index != stage or stage >= header.num_stages:
        raise FormatError(f"chunk STAG: expected stage {stage} of {header.num_stages}, got stage {index}")
    if header.channels != 3 or header.num_stages > MAX_STAGES:
        problem = f"{header.channels} channels, {header.num_stages} stages"
        raise FormatError(f"compact profile: expected 3 channels and at most {MAX_STAGES} stages, got {problem}")
    if not PATCH_SIZES[0] <= patch_size <= PATCH_SIZES[1]:
        raise FormatError(f"stage {stage}: expected patches of {PATCH_SIZES[0]} to {PATCH_SIZES[1]}, got {patch_size}")
    grid = patch_grid(header.image_size, patch_size)
    num_patches = grid[0] * grid[1]
    if num_patches > MAX_PATCHES or count > num_patches:
        expected = f"expected at most {MAX_PATCHES} patches and a Gaussian in each"
        raise FormatError(f"stage {stage}: {expected}, got {count} Gaussians in {num_patches}")
    if not count and size > start:
        raise FormatError(f"stage {stage}: expected no code for no Gaussians, got {size - start} bytes")
    pairs = () if header.version == 1 else _SETS.unpack_from(payload, _HEAD.size)
    chosen = tuple(number for pair in pairs for number in (pair % NUM_SETS, pair // NUM_SETS))
    if not count and any(chosen):
        raise FormatError(f"stage {stage}: expected no tables for no Gaussians, got sets {chosen}")
    words = np.frombuffer(payload, "<u4", offset=start).astype(np.uint32)
    used = np.flatnonzero(words)
    words = words[: used[-1] + 1 if len(used) else 0]
    return StageHead(patch_size, grid, count, np.array(codes, np.int64), chosen, words)


def _head_size(header: Header) -> int:
    """Bytes of a stage before its code."""
    return _HEAD.size + (0 if header.version == 1 else _SETS.size)


def read_stages(header: Header, payloads: Iterable[memoryview]) -> tuple[Rows, ...]:
    """The stages of one file, in order; a FormatError for what no encoder writes."""
    memory, learning, work = Memory(PASS_LEVELS[header.version]), LearningTables(), _Work()
    return tuple(_read_stage(payload, header, stage, memory, learning, work) for stage, payload in enumerate(payloads))


def _read_stage(
    payload: memoryview, header: Header, stage: int, memory: Memory, learning: LearningTables, work: _Work
) -> Rows:
    head = parse_head(payload, header, stage)
    count, size = head.count, head.patch_size
    if not count:
        return Rows(size, np.zeros(0, np.int64), np.zeros((0, 8), np.int64), head.codes)
    num_patches, num_bytes = math.prod(head.grid), len(payload) - _head_size(header)
    if missing := work.missing(count, num_patches, num_bytes):
        raise FormatError(
            f"stage {stage}: claims {count} Gaussians in {num_patches} patches, which need "
            f"{num_bytes + missing} bytes of code or more, but the chunk has {num_bytes}"
        )
    try:
        coder = Decoder(ConstantTables(head.chosen) if head.chosen else learning, head.words)
        rows = code_stage(coder, None, memory, grid=head.grid, patch_size=size, codes=head.codes, count=count)
    except FormatError as error:
        raise FormatError(f"stage {stage}: {error}") from error
    if not coder.at_end():
        raise FormatError(f"stage {stage}: expected the end of the code after {count} Gaussians, got more")
    return rows
