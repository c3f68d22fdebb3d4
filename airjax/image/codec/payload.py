"""The compact profile: the quantised rows of an image, and the payload of each stage's STAG chunk.

docs/format.md, section 5, describes the payload byte by byte. A reader needs the stages in order, since each is coded
with what the ones before have taught the models; the first k of them are the image after k stages.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from airjax.errors import AirjaxError, FormatError
from airjax.image.codec.chunks import Header
from airjax.image.codec.entropy import MAX_WRITTEN, Decoder, Encoder, Memory, Meter, Tables, code_stage
from airjax.image.codec.quantise import NUM_CODES, Rows
from airjax.raster.tiles import patch_grid

MAX_STAGES = 64
PATCH_SIZES = (4, 64)
MAX_PATCHES = 2**22
# The least bytes of code that so many rows and patches must have: what bounds the work that a small file can ask for.
_FREE_ROWS, _ROWS_PER_BYTE = 2**12, 32
_FREE_PATCHES, _PATCHES_PER_BYTE = 2**16, 2**7
_HEAD = struct.Struct(f"<BBI{NUM_CODES}b")  # stage index, patch size, n, codes
_WORD = 4


@dataclass(frozen=True, eq=False, repr=False)
class Quantised:
    """What a compact file holds, integers: the rows of each stage (a stage may have none), and (h, w) in pixels."""

    stages: tuple[Rows, ...]
    image_size: tuple[int, int]

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


AnyCoder = TypeVar("AnyCoder", Encoder, Meter)


def _code_all(quantised: Quantised, make_coder: Callable[[Tables], AnyCoder]) -> Iterator[tuple[Rows, AnyCoder | None]]:
    """(rows, coder that has coded them or None) of every stage."""
    memory = Memory()
    if len(quantised.stages) > MAX_STAGES:
        raise AirjaxError(f"stages: expected at most {MAX_STAGES}, got {len(quantised.stages)}")
    for stage, rows in enumerate(quantised.stages):
        grid = patch_grid(quantised.image_size, rows.patch_size)
        _check_rows(rows, grid, stage)
        coder = None
        if len(rows.patches):
            size, count = rows.patch_size, len(rows.patches)
            coder = make_coder(memory.tables)
            code_stage(coder, rows, memory, grid=grid, patch_size=size, codes=rows.codes, count=count)
        yield rows, coder


def pack_stages(quantised: Quantised) -> list[bytes]:
    """The payload of the STAG chunk of every stage.

    Raises:
      ValueError: shapes that disagree, or patches out of order.
      AirjaxError: a set beyond the limits of the format.
    """
    payloads, work = [], _Work()
    for stage, (rows, coder) in enumerate(_code_all(quantised, Encoder)):
        head = _HEAD.pack(stage, rows.patch_size, len(rows.patches), *map(int, rows.codes))
        code = b""
        if coder is not None:
            code = coder.words().astype("<u4").tobytes()
            num_patches = math.prod(patch_grid(quantised.image_size, rows.patch_size))
            padding = bytes(-(-work.missing(len(rows.patches), num_patches, len(code)) // _WORD) * _WORD)
            work.num_bytes += len(padding)
            code += padding
        payloads.append(head + code)
    return payloads


def attribute_bits(quantised: Quantised) -> dict[str, float]:
    """Bits of the code that each kind of symbol takes, over all stages."""
    bits: Counter[str] = Counter()
    for _, meter in _code_all(quantised, Meter):
        if meter is not None:
            bits.update(meter.bits_of)
    return dict(bits)


@dataclass(frozen=True)
class StageHead:
    """The head of a STAG chunk, checked, and its code."""

    patch_size: int
    grid: tuple[int, int]
    count: int
    codes: np.ndarray
    words: np.ndarray


def parse_head(payload: memoryview, header: Header, stage: int) -> StageHead:
    """The head of the chunk that must be that of `stage`; a FormatError for numbers out of range or at odds."""
    size = len(payload)
    if size < _HEAD.size or (size - _HEAD.size) % _WORD:
        raise FormatError(f"stage {stage}: expected {_HEAD.size} bytes and whole words, got {size} bytes")
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
    if not count and size > _HEAD.size:
        raise FormatError(f"stage {stage}: expected no code for no Gaussians, got {size - _HEAD.size} bytes")
    words = np.frombuffer(payload, "<u4", offset=_HEAD.size).astype(np.uint32)
    used = np.flatnonzero(words)
    words = words[: used[-1] + 1 if len(used) else 0]
    return StageHead(patch_size, grid, count, np.array(codes, np.int64), words)


def read_stages(header: Header, payloads: Iterable[memoryview]) -> tuple[Rows, ...]:
    """The stages of one file, in order; a FormatError for what no encoder writes."""
    memory, work = Memory(), _Work()
    return tuple(_read_stage(payload, header, stage, memory, work) for stage, payload in enumerate(payloads))


def _read_stage(payload: memoryview, header: Header, stage: int, memory: Memory, work: _Work) -> Rows:
    head = parse_head(payload, header, stage)
    count, size = head.count, head.patch_size
    if not count:
        return Rows(size, np.zeros(0, np.int64), np.zeros((0, 8), np.int64), head.codes)
    num_patches, num_bytes = math.prod(head.grid), len(payload) - _HEAD.size
    if missing := work.missing(count, num_patches, num_bytes):
        raise FormatError(
            f"stage {stage}: claims {count} Gaussians in {num_patches} patches, which need "
            f"{num_bytes + missing} bytes of code or more, but the chunk has {num_bytes}"
        )
    try:
        coder = Decoder(memory.tables, head.words)
        rows = code_stage(coder, None, memory, grid=head.grid, patch_size=size, codes=head.codes, count=count)
    except FormatError as error:
        raise FormatError(f"stage {stage}: {error}") from error
    if not coder.at_end():
        raise FormatError(f"stage {stage}: expected the end of the code after {count} Gaussians, got more")
    return rows
