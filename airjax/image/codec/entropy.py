"""Entropy coding of the quantised rows of a stage: constriction's ANS coder, with models that learn on the way.

No histogram is stored. A table of counts belongs to every (channel, context); what has been coded so far, in this
stage and those before, is what the next symbols are coded with, and the decoder counts along. Patches are visited in
passes over ever finer grids, so that all symbols of a pass see neighbours that are known, and are coded at once.
Contexts come from integers and single IEEE operations: the same on every machine. docs/format.md, sections 6 to 8, says
the same for a second implementation.

Letters: n rows, N patches of the grid (R rows, C columns), T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import constriction
import numpy as np

from airjax.errors import FormatError
from airjax.image.codec.quantise import LEVELS, SYMBOLS, Rows, classes_of, geometry_of, square_root_powers

_AnsCoder = constriction.stream.stack.AnsCoder
_Categorical = constriction.stream.model.Categorical
_Uniform = constriction.stream.model.Uniform

PRECISION = 24  # bits of a frequency
NUM_TOKENS = 71  # up to MAX_SYMBOL
_DIRECT = 8  # magnitudes below are tokens of their own; above, half an octave shares one, and the rest is raw bits
MAX_SYMBOL = 2**17 - 1
MAX_WRITTEN = 2**16 - 1  # of a file; differences of two may be coded
_LIMIT = 2**14  # sum of the counts of a table above which they are halved
_MAX_CONTEXTS = 128  # of a channel
_UNIT = 32  # what a symbol seen once adds to its count
_PASS_LEVELS = 4  # the first pass takes every 16th patch of every 16th row


# --- symbols and tokens ----------------------------------------------------------------------------------


def tokens_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(token, number of raw bits, raw bits) of signed integers of magnitude up to MAX_SYMBOL.

    Magnitudes 0 to 7 are steps of their own; from 8 on the two leading bits make the step and the others are raw. The
    token of step k is 2 k, and 2 k - 1 for a negative number.
    """
    magnitude = np.abs(values)
    exponent = np.frexp(magnitude.astype(np.float64))[1] - 1  # of the leading bit; exact
    num_raw = np.where(magnitude < _DIRECT, 0, exponent - 1)
    leading = magnitude >> num_raw
    step = np.where(magnitude < _DIRECT, magnitude, _DIRECT + 2 * (exponent - 3) + (leading & 1))
    return np.where(values < 0, 2 * step - 1, 2 * step), num_raw, magnitude - (leading << num_raw)


def _first_magnitude(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(smallest magnitude of a step, its number of raw bits)."""
    above = np.maximum(step - _DIRECT, 0)
    num_raw = np.where(step < _DIRECT, 0, above // 2 + 2)
    return np.where(step < _DIRECT, step, (2 + (above & 1)) << num_raw), num_raw


_TOKEN_SIGN = np.where(np.arange(NUM_TOKENS) & 1, -1, 1)
_TOKEN_FIRST, _TOKEN_RAW = _first_magnitude((np.arange(NUM_TOKENS) + 1) // 2)


# --- tables ----------------------------------------------------------------------------------------------


class Channel(NamedTuple):
    """A kind of symbol, and what its tables hold before the first symbol.

    Tables of different names are different tables. `mean` is the expected magnitude in sixteenths, `most` the largest
    that occurs, `weight` about the sum of the counts; `signed` is whether both signs occur.
    """

    name: str
    mean: int
    weight: int
    signed: bool = True
    most: int = MAX_SYMBOL

    @property
    def kind(self) -> str:
        """What `info` counts it as: the name without the number of a table."""
        return self.name.removeprefix("base ").split()[0]


_MASK = Channel("mask", 16, 96, signed=False, most=1)
_BASE_MASK = _MASK._replace(name="base mask")
_COLORS = (Channel("luma", 37, 400), Channel("chroma 1", 24, 400), Channel("chroma 2", 16, 400))
_BASE_COLORS = tuple(channel._replace(name=f"base {channel.name}") for channel in _COLORS)
_SCALE, _ASPECT = Channel("scale", 37, 1000), Channel("aspect", 40, 1000, signed=False)
# The angle of so many levels, in the order of LEVELS, and the offset of a step of P * 2^(1 - k / 2).
_ANGLE_TOP = 48  # more angles than these have their last bits raw
_ANGLES = tuple(Channel(f"angle {m}", 16 * m, 1000, signed=False, most=min(m, _ANGLE_TOP) - 1) for m in LEVELS)
_OFFSETS = tuple(
    Channel(f"offset {k}", mean, 1200)
    for k, mean in enumerate((1, 2, 2, 3, 5, 7, 10, 14, 19, 27, 38, 54, 77, 109, 154, 218, 308, 435, 615))
)


@lru_cache(maxsize=1024)
def _start_counts(mean: int, weight: int, signed: bool, most: int) -> tuple[int, ...]:
    """Counts in proportion to a geometric distribution of magnitudes up to `most`: integers, at least 1."""
    ratio = (mean << 16) // (mean + 16)
    tail = [2**32]  # 2^32 times the chance of a magnitude of at least k
    while tail[-1]:
        tail.append(tail[-1] * ratio >> 16)

    def at_least(k: int) -> int:
        return tail[k] if k <= most and k < len(tail) else 0

    counts = []
    for token in range(NUM_TOKENS):
        first, width = int(_TOKEN_FIRST[token]), 1 << int(_TOKEN_RAW[token])
        mass = weight * (at_least(first) - at_least(first + width)) >> 32
        if token and signed:
            mass //= 2
        elif token & 1:
            mass = 0
        counts.append(mass + 1)
    return tuple(counts)


def frequencies(counts: np.ndarray) -> np.ndarray:
    """(.., T) integers from 1 that sum to 2^24, in proportion to the counts; token 0 takes what rounding leaves."""
    result = counts * (2**PRECISION - NUM_TOKENS) // counts.sum(axis=-1, keepdims=True) + 1
    result[..., 0] += 2**PRECISION - result.sum(axis=-1)
    return result


class Tables:
    """Counts of every (channel, context) met so far; carried from stage to stage."""

    def __init__(self):
        self._counts: dict[str, np.ndarray] = {}

    def counts(self, channel: Channel, contexts: np.ndarray) -> np.ndarray:
        """(k, T) counts of k tables, which are made when one of their channel is first asked for."""
        if channel.name not in self._counts:
            self._counts[channel.name] = np.tile(np.array(_start_counts(*channel[1:]), np.int64), (_MAX_CONTEXTS, 1))
        return self._counts[channel.name][contexts]

    def learn(self, channel: Channel, contexts: np.ndarray, seen: np.ndarray) -> None:
        """Counts tokens that have been coded: (k, T) how often each, of k tables."""
        counts = self.counts(channel, contexts) + _UNIT * seen
        while np.any(large := counts.sum(axis=1) > _LIMIT):
            counts[large] -= counts[large] // 2
        self._counts[channel.name][contexts] = counts


# --- coders ----------------------------------------------------------------------------------------------


class _Coder(ABC):
    """What both directions share: the order of contexts and of raw bits.

    The symbols of one call are coded context by context in ascending order, then their raw bits by number of bits.
    """

    def __init__(self, tables: Tables):
        self._tables = tables

    def values(self, channel: Channel, contexts: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """Codes or decodes one signed integer per context (an array of its length); returns them."""
        size = len(contexts)
        if size == 0:
            return np.zeros(0, np.int64)
        order = np.argsort(contexts, kind="stable")
        present, starts, index = np.unique(contexts[order], return_index=True, return_inverse=True)
        known, _, known_raw = (None, None, None) if values is None else tokens_of(values[order])
        tokens = np.empty(size, np.int64)
        models = frequencies(self._tables.counts(channel, present))
        for model, (a, b) in zip(models, pairwise([*starts.tolist(), size]), strict=True):
            tokens[a:b] = self._tokens(channel, model, None if known is None else known[a:b], b - a)
        seen = np.bincount(NUM_TOKENS * index + tokens, minlength=NUM_TOKENS * len(present))
        self._tables.learn(channel, present, seen.reshape(-1, NUM_TOKENS))
        num_raw = _TOKEN_RAW[tokens]
        magnitude = _TOKEN_FIRST[tokens].copy()
        for bits in range(2, int(num_raw.max()) + 1):
            where = np.flatnonzero(num_raw == bits)
            if len(where):
                raw = None if known_raw is None else known_raw[where]
                magnitude[where] += self.bits(channel, bits, raw, len(where))
        result = np.empty(size, np.int64)
        result[order] = _TOKEN_SIGN[tokens] * magnitude
        return result

    @abstractmethod
    def bits(self, channel: Channel, num_bits: int, values: np.ndarray | None, size: int) -> np.ndarray:
        """Codes or decodes `size` numbers of `num_bits` bits that nothing is known about."""

    @abstractmethod
    def _tokens(self, channel: Channel, model: np.ndarray, tokens: np.ndarray | None, size: int) -> np.ndarray:
        """Codes or decodes `size` tokens of one table, by its `frequencies`."""


class Encoder(_Coder):
    """Collects symbols in the order in which a decoder needs them; `words` codes them backwards, as a stack does."""

    def __init__(self, tables: Tables):
        super().__init__(tables)
        self._steps: list[tuple[np.ndarray, object]] = []

    def bits(self, channel, num_bits, values, size):
        self._steps.append((values.astype(np.int32), _Uniform(2**num_bits)))
        return values

    def _tokens(self, channel, model, tokens, size):
        self._steps.append((tokens.astype(np.int32), _model(model)))
        return tokens

    def words(self) -> np.ndarray:
        """The code, 32-bit words; the last one is not zero."""
        coder = _AnsCoder()
        for symbols, model in reversed(self._steps):
            coder.encode_reverse(symbols, model)
        return coder.get_compressed()


class Decoder(_Coder):
    """The calls made of the encoder give back the same values; words that end in a zero are a FormatError."""

    def __init__(self, tables: Tables, words: np.ndarray):
        super().__init__(tables)
        try:
            self._ans = _AnsCoder(words)
        except ValueError as error:
            raise FormatError("the code of a stage ends in a zero word") from error

    def bits(self, channel, num_bits, values, size):
        return self._ans.decode(_Uniform(2**num_bits), size)

    def _tokens(self, channel, model, tokens, size):
        return self._ans.decode(_model(model), size)

    def at_end(self) -> bool:
        """Whether all words are used up, as they are after the last symbol of a stage."""
        return self._ans.is_empty()


class Meter(_Coder):
    """An encoder that only adds up what each kind of symbol costs: `bits_of`, kind -> bits."""

    def __init__(self, tables: Tables):
        super().__init__(tables)
        self.bits_of: dict[str, float] = {}

    def _add(self, channel: Channel, bits: float) -> None:
        self.bits_of[channel.kind] = self.bits_of.get(channel.kind, 0.0) + float(bits)

    def bits(self, channel, num_bits, values, size):
        self._add(channel, num_bits * size)
        return values

    def _tokens(self, channel, model, tokens, size):
        self._add(channel, PRECISION * size - np.log2(model[tokens]).sum())
        return tokens


def _model(model: np.ndarray):
    # constriction adds one to each of T weights that sum to 2^24 - T: the model is exactly the frequencies given.
    return _Categorical((model - 1).astype(np.float64), perfect=False)


# --- the patch grid --------------------------------------------------------------------------------------


class _Pass(NamedTuple):
    """Patches that are coded together: their numbers in the grid, and those of what they see in a padded one."""

    where: np.ndarray
    seen: np.ndarray


_PAD = 2 ** (_PASS_LEVELS - 1)
_CROSS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def _home(where: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Numbers in the padded grid of patches numbered in the grid."""
    return (where // grid[1] + _PAD) * (grid[1] + 2 * _PAD) + where % grid[1] + _PAD


def _steps(grid: tuple[int, int], offsets: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Ways in the padded grid to patches (rows, columns) away."""
    return np.array([y * (grid[1] + 2 * _PAD) + x for y, x in offsets], np.int64)


@lru_cache(maxsize=2)
def _passes(grid: tuple[int, int]) -> tuple[_Pass, ...]:
    """Nine passes over ever finer grids.

    First every 16th patch of every 16th row; then, for a spacing s of 8, 4, 2 and 1, the middles of the squares, which
    see the four corners at distance s, and the middles of their sides, which see four patches along the axes.
    """
    row, column = np.arange(grid[0])[:, None], np.arange(grid[1])[None]

    def one(chosen, offsets, s):
        where = np.flatnonzero(chosen)
        return _Pass(where, _home(where, grid)[:, None] + s * _steps(grid, offsets)[None])

    step = 2**_PASS_LEVELS
    result = [one((row % step == 0) & (column % step == 0), (), 0)]
    while step > 1:
        s = step // 2
        result.append(one((row % step == s) & (column % step == s), _CORNERS, s))
        result.append(one((row % s == 0) & (column % s == 0) & ((row // s + column // s) % 2 == 1), _CROSS, s))
        step = s
    return tuple(result)


def _padded(grid: tuple[int, int], planes: int) -> np.ndarray:
    """(padded N, planes) zeros: planes of numbers over the grid with a border that nothing is written to."""
    return np.zeros(((grid[0] + 2 * _PAD) * (grid[1] + 2 * _PAD), planes), np.int64)


@dataclass
class Memory:
    """What the stages so far leave for the contexts of the next.

    `amplitudes` is (R, C) of the stage before, 0 where it has no row, else 1 + the class; None before the first.
    """

    tables: Tables = field(default_factory=Tables)
    amplitudes: np.ndarray | None = None
    patch_size: int = 0

    def before(self, grid: tuple[int, int], patch_size: int) -> np.ndarray:
        """(R, C) amplitudes of the stage before where the centres of the patches of a grid lie."""
        if self.amplitudes is None:
            return np.zeros(grid, np.int64)
        rows, columns = (
            np.minimum((2 * np.arange(size) + 1) * patch_size // (2 * self.patch_size), limit - 1)
            for size, limit in zip(grid, self.amplitudes.shape, strict=True)
        )
        return self.amplitudes[rows[:, None], columns[None]]


def _half_octaves(values: np.ndarray, most: int) -> np.ndarray:
    """0, 1, 2 for 0, 1, 2 and then a number for every half octave of a magnitude, up to `most`."""
    magnitude = np.minimum(np.abs(values), 2**20)
    exponent = np.frexp(magnitude.astype(np.float64))[1]
    second = (magnitude >> np.maximum(exponent - 2, 0)) & 1
    return np.minimum(np.where(magnitude < 2, magnitude, 2 * exponent - 2 + second), most)


def _code_mask(coder: _Coder, mask: np.ndarray | None, memory: Memory, grid, patch_size: int) -> np.ndarray:
    """(N,) bool, which patches have a row. Contexts: the neighbours so far, and the stage before here and around."""
    base = memory.amplitudes is None
    before = memory.before(grid, patch_size).ravel()
    around = np.zeros(len(before), np.int64)
    if not base:
        plane, home = _padded(grid, 1)[:, 0], _home(np.arange(len(before)), grid)
        plane[home] = before > 0
        around = plane[home[:, None] + _steps(grid, _CROSS)[None]].sum(axis=1)
    fixed = np.minimum(before, 3) * 5 + around
    channel = _BASE_MASK if base else _MASK
    plane, result = _padded(grid, 1)[:, 0], np.zeros(len(before), np.int64)
    for where, seen in _passes(grid):
        contexts = (plane[seen].sum(axis=1) + bool(seen.shape[1])) * 20 + fixed[where]
        known = None if mask is None else mask[where].astype(np.int64)
        result[where] = coder.values(channel, contexts, known)
        plane[_home(where, grid)] = result[where] != 0
    if np.any((result != 0) & (result != 1)):
        raise FormatError("a mask holds other numbers than 0 and 1")
    return result != 0


def _code_colors(coder: _Coder, known: np.ndarray | None, mask: np.ndarray, grid, base: bool) -> np.ndarray:
    """(n, 3) stored colours. Contexts: magnitudes of the neighbours so far and of the channel before.

    In the first stage, which is a small picture, a colour is coded as the difference from the mean of its neighbours.
    """
    number = np.cumsum(mask) - 1  # of the row of a patch
    order = [(where[mask[where]], seen[mask[where]]) for where, seen in _passes(grid)]
    colors = np.zeros((int(mask.sum()), 3), np.int64)
    for c, channel in enumerate(_BASE_COLORS if base else _COLORS):
        plane = _padded(grid, 3)  # 1, value, magnitude of what is known
        for where, seen in order:
            rows = number[where]
            count, total, magnitude = plane[seen].sum(axis=1).T
            some = np.maximum(count, 1)
            around = _half_octaves(2 * magnitude // some, 12)
            if c == 0:
                contexts = np.where(count > 0, 1 + around, 0)
            else:
                contexts = 8 * (_half_octaves(colors[rows, c - 1], 9) // 2) + np.where(count > 0, 1 + around // 2, 0)
            predicted = total // some if base else 0
            values = None if known is None else known[rows, c] - predicted
            colors[rows, c] = coder.values(channel, contexts, values) + predicted
            value = colors[rows, c]
            plane[_home(where, grid)] = np.stack([np.ones_like(value), value, np.abs(value)], axis=1)
    return colors


def _code_geometry(coder: _Coder, known: np.ndarray | None, symbols: np.ndarray, patch_size: int, codes) -> None:
    """Fills in the last five columns of (n, 8) symbols whose colours are known."""

    def given(column: int) -> np.ndarray | None:
        return None if known is None else known[:, column]

    classes = classes_of(symbols[:, :3])
    symbols[:, 3] = coder.values(_SCALE, classes, given(3))
    symbols[:, 4] = coder.values(_ASPECT, 8 * classes + np.clip(symbols[:, 3], -3, 3) + 3, given(4))
    try:
        geometry = geometry_of(symbols, codes)
    except ValueError as error:
        raise FormatError(str(error)) from error
    for levels, channel in zip(LEVELS, _ANGLES, strict=True):
        where = np.flatnonzero(geometry.levels == levels)
        if not len(where):
            continue
        if levels == 1:  # nothing to code; an encoder may be given anything, which the check below finds
            symbols[where, 5] = 0 if known is None else known[where, 5]
            continue
        num_raw = ((levels - 1) // _ANGLE_TOP).bit_length()
        angles = None if known is None else known[where, 5]
        top = coder.values(channel, np.zeros(len(where), np.int64), None if angles is None else angles >> num_raw)
        low: np.ndarray | int = 0
        if num_raw:
            low = coder.bits(channel, num_raw, None if angles is None else angles & (2**num_raw - 1), len(where))
        symbols[where, 5] = (top << num_raw) + low
    if np.any((symbols[:, 5] < 0) | (symbols[:, 5] >= geometry.levels)):
        raise FormatError("an angle is out of range")
    limits = patch_size * square_root_powers(len(_OFFSETS) - 1)
    finer = len(limits) - np.searchsorted(limits[::-1], geometry.offset_step, side="left")
    for column in (6, 7):
        for k in np.unique(finer).tolist():
            where = np.flatnonzero(finer == k)
            offsets = None if known is None else known[where, column]
            symbols[where, column] = coder.values(_OFFSETS[k], np.zeros(len(where), np.int64), offsets)


def code_stage(
    coder: _Coder,
    rows: Rows | None,
    memory: Memory,
    *,
    grid: tuple[int, int],
    patch_size: int,
    codes: np.ndarray,
    count: int,
) -> Rows:
    """Codes `count` rows of a stage, or decodes them where `rows` is None; returns them, and notes them in `memory`.

    The coder is an `Encoder`, or a `Decoder` of the words of one; symbols that no encoder writes are a FormatError.
    """
    known = None
    if rows is not None:
        known = np.zeros(grid[0] * grid[1], bool)
        known[rows.patches] = True
    base = memory.amplitudes is None
    mask = _code_mask(coder, known, memory, grid, patch_size)
    if int(mask.sum()) != count:
        raise FormatError(f"expected a mask of {count} patches, got {int(mask.sum())}")
    symbols = np.zeros((count, len(SYMBOLS)), np.int64)
    given = None if rows is None else rows.symbols
    symbols[:, :3] = _code_colors(coder, None if given is None else given[:, :3], mask, grid, base)
    _code_geometry(coder, given, symbols, patch_size, codes)
    if count and np.abs(symbols).max() > MAX_WRITTEN:
        raise FormatError(f"expected symbols of magnitude up to {MAX_WRITTEN}, got {np.abs(symbols).max()}")
    memory.amplitudes = np.zeros(grid, np.int64)
    memory.amplitudes.flat[mask] = 1 + classes_of(symbols[:, :3])
    memory.patch_size = patch_size
    return Rows(patch_size, np.flatnonzero(mask), symbols, np.asarray(codes, np.int64))
