"""Entropy coding of the quantised rows of a stage: constriction's ANS coder, with the models of `tables`.

Patches are visited in passes over ever finer grids, so that all symbols of a pass see neighbours that are known, and
are coded at once. Contexts come from integers and single IEEE operations: the same on every machine. docs/format.md,
sections 6 to 8, says the same for a second implementation.

Letters: n rows, N patches of the grid (R rows, C columns), T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import constriction
import numpy as np

from airjax.errors import FormatError
from airjax.image.codec.quantise import LEVELS, SYMBOLS, Rows, classes_of, geometry_of, square_root_powers
from airjax.image.codec.tables import (
    ANGLE_TOP,
    ANGLES,
    ASPECT,
    BASE_COLORS,
    BASE_MASK,
    COLORS,
    GROUPS,
    MASK,
    MAX_WRITTEN,
    NUM_TOKENS,
    OFFSETS,
    PRECISION,
    SCALE,
    TOKEN_FIRST,
    TOKEN_RAW,
    TOKEN_SIGN,
    Channel,
    Tables,
    tokens_of,
)

_AnsCoder = constriction.stream.stack.AnsCoder
_Uniform = constriction.stream.model.Uniform

# Levels of passes by version of the format: the first pass takes every 16th, or every 4th, patch of a row and a column.
PASS_LEVELS = {1: 4, 2: 2}


# --- coders ----------------------------------------------------------------------------------------------


class _Coder(ABC):
    """What both directions share: the order of contexts and of raw bits.

    The symbols of one call are coded context by context in ascending order, then their raw bits by number of bits.
    """

    def values(self, channel: Channel, contexts: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """Codes or decodes one signed integer per context (an array of its length); returns them."""
        size = len(contexts)
        if size == 0:
            return np.zeros(0, np.int64)
        order = np.argsort(contexts, kind="stable")
        ordered = contexts[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        known, _, known_raw = (None, None, None) if values is None else tokens_of(values[order])
        tokens = self._tokens(channel, ordered[starts], np.append(starts, size), known)
        num_raw = TOKEN_RAW[tokens]
        magnitude = TOKEN_FIRST[tokens]
        if np.any(num_raw):
            for bits in range(2, int(num_raw.max()) + 1):
                where = np.flatnonzero(num_raw == bits)
                if len(where):
                    raw = None if known_raw is None else known_raw[where]
                    magnitude[where] += self.bits(channel, bits, raw, len(where))
        result = np.empty(size, np.int64)
        result[order] = TOKEN_SIGN[tokens] * magnitude
        return result

    @abstractmethod
    def bits(self, channel: Channel, num_bits: int, values: np.ndarray | None, size: int) -> np.ndarray:
        """Codes or decodes `size` numbers of `num_bits` bits that nothing is known about."""

    @abstractmethod
    def _tokens(
        self, channel: Channel, contexts: np.ndarray, ends: np.ndarray, tokens: np.ndarray | None
    ) -> np.ndarray:
        """Codes or decodes the tokens of one call: those from ends[i] to ends[i + 1] have contexts[i]."""


def _learn(tables: Tables, channel: Channel, contexts: np.ndarray, ends: np.ndarray, tokens: np.ndarray) -> None:
    """Counts the tokens of one call."""
    index = np.repeat(np.arange(len(contexts)), np.diff(ends))
    seen = np.bincount(NUM_TOKENS * index + tokens, minlength=NUM_TOKENS * len(contexts))
    tables.learn(channel, contexts, seen.reshape(-1, NUM_TOKENS))


class _Call(NamedTuple):
    """One call of `_Coder.values`; without contexts, raw bits: `ends` then holds how many a value has."""

    channel: Channel
    contexts: np.ndarray | None
    ends: np.ndarray
    values: np.ndarray


class Encoder(_Coder):
    """Collects the symbols of a stage in the order in which a decoder needs them; tables are needed at the end."""

    def __init__(self):
        self._calls: list[_Call] = []

    def bits(self, channel, num_bits, values, size):
        self._calls.append(_Call(channel, None, np.array(num_bits), values))
        return values

    def _tokens(self, channel, contexts, ends, tokens):
        self._calls.append(_Call(channel, contexts, ends, tokens))
        return tokens

    def words(self, tables: Tables) -> np.ndarray:
        """The code, 32-bit words; the last one is not zero. The symbols are coded backwards, as a stack does."""
        steps: list[tuple[np.ndarray, object]] = []
        for channel, contexts, ends, values in self._calls:
            values = values.astype(np.int32)
            if contexts is None:
                steps.append((values, _Uniform(2 ** int(ends))))
                continue
            models = tables.models(channel, contexts)
            parts = (values[a:b] for a, b in pairwise(ends.tolist()))
            steps += [(part, model.of_coder) for part, model in zip(parts, models, strict=True)]
            _learn(tables, channel, contexts, ends, values)
        coder = _AnsCoder()
        for symbols, model in reversed(steps):
            coder.encode_reverse(symbols, model)
        return coder.get_compressed()

    def bits_of(self, tables: Tables) -> dict[str, float]:
        """What each kind of symbol costs, kind -> bits."""
        result: dict[str, float] = {}
        for channel, contexts, ends, values in self._calls:
            if contexts is None:
                bits = float(ends * len(values))
            else:
                rows = np.stack([model.frequencies for model in tables.models(channel, contexts)])
                likely = rows[np.repeat(np.arange(len(rows)), np.diff(ends)), values]
                bits = float(PRECISION * len(values) - np.log2(likely).sum())
                _learn(tables, channel, contexts, ends, values)
            result[channel.kind] = result.get(channel.kind, 0.0) + bits
        return result

    def seen(self) -> dict[str, np.ndarray]:
        """(tables, T) how often each token occurred with each constant table, by group."""
        indices: dict[str, list[np.ndarray]] = {}
        for channel, contexts, ends, values in self._calls:
            if contexts is not None:
                table = np.repeat(channel.first + contexts, np.diff(ends))
                indices.setdefault(channel.group, []).append(NUM_TOKENS * table + values)
        sizes = {name: NUM_TOKENS * GROUPS[name].tables for name in indices}
        return {
            name: np.bincount(np.concatenate(parts), minlength=sizes[name]).reshape(-1, NUM_TOKENS)
            for name, parts in indices.items()
        }


class Decoder(_Coder):
    """The calls made of the encoder give back the same values; words that end in a zero are a FormatError."""

    def __init__(self, tables: Tables, words: np.ndarray):
        self._tables = tables
        try:
            self._ans = _AnsCoder(words)
        except ValueError as error:
            raise FormatError("the code of a stage ends in a zero word") from error

    def bits(self, channel, num_bits, values, size):
        return self._ans.decode(_Uniform(2**num_bits), size)

    def _tokens(self, channel, contexts, ends, tokens):
        models = self._tables.models(channel, contexts)
        sizes = np.diff(ends).tolist()
        parts = [self._ans.decode(model.of_coder, size) for model, size in zip(models, sizes, strict=True)]
        decoded = np.concatenate(parts)
        _learn(self._tables, channel, contexts, ends, decoded)
        return decoded

    def at_end(self) -> bool:
        """Whether all words are used up, as they are after the last symbol of a stage."""
        return self._ans.is_empty()


# --- the patch grid --------------------------------------------------------------------------------------


class _Pass(NamedTuple):
    """Patches that are coded together: their numbers in the grid, and those of what they see in a padded one."""

    where: np.ndarray
    seen: np.ndarray


_PAD = 2 ** (max(PASS_LEVELS.values()) - 1)
_CROSS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def _home(where: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Numbers in the padded grid of patches numbered in the grid."""
    return (where // grid[1] + _PAD) * (grid[1] + 2 * _PAD) + where % grid[1] + _PAD


def _steps(grid: tuple[int, int], offsets: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Ways in the padded grid to patches (rows, columns) away."""
    return np.array([y * (grid[1] + 2 * _PAD) + x for y, x in offsets], np.int64)


@lru_cache(maxsize=2)
def _passes(grid: tuple[int, int], levels: int) -> tuple[_Pass, ...]:
    """Passes over ever finer grids, 1 + 2 levels of them.

    First every 2^levels-th patch of every such row; then, for a spacing s of half of that, a quarter, .. and 1, the
    middles of the squares, which see the four corners at distance s, and the middles of their sides, which see four
    patches along the axes.
    """
    row, column = np.arange(grid[0])[:, None], np.arange(grid[1])[None]

    def one(chosen, offsets, s):
        where = np.flatnonzero(chosen)
        return _Pass(where, _home(where, grid)[:, None] + s * _steps(grid, offsets)[None])

    step = 2**levels
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
    """What the stages so far leave for the contexts of the next, and how many levels of passes there are.

    `amplitudes` is (R, C) of the stage before, 0 where it has no row, else 1 + the class; None before the first.
    """

    pass_levels: int
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
    channel = BASE_MASK if base else MASK
    plane, result = _padded(grid, 1)[:, 0], np.zeros(len(before), np.int64)
    for where, seen in _passes(grid, memory.pass_levels):
        contexts = (plane[seen].sum(axis=1) + bool(seen.shape[1])) * 20 + fixed[where]
        known = None if mask is None else mask[where].astype(np.int64)
        result[where] = coder.values(channel, contexts, known)
        plane[_home(where, grid)] = result[where] != 0
    if np.any((result != 0) & (result != 1)):
        raise FormatError("a mask holds other numbers than 0 and 1")
    return result != 0


def _code_colors(coder: _Coder, known: np.ndarray | None, mask: np.ndarray, grid, memory: Memory) -> np.ndarray:
    """(n, 3) stored colours. Contexts: magnitudes of the neighbours so far and of the channel before.

    In the first stage, which is a small picture, a colour is coded as the difference from the mean of its neighbours.
    """
    base = memory.amplitudes is None
    number = np.cumsum(mask) - 1  # of the row of a patch
    order = [(where[mask[where]], seen[mask[where]]) for where, seen in _passes(grid, memory.pass_levels)]
    colors = np.zeros((int(mask.sum()), 3), np.int64)
    for c, channel in enumerate(BASE_COLORS if base else COLORS):
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
    symbols[:, 3] = coder.values(SCALE, classes, given(3))
    symbols[:, 4] = coder.values(ASPECT, 8 * classes + np.clip(symbols[:, 3], -3, 3) + 3, given(4))
    try:
        geometry = geometry_of(symbols, codes)
    except ValueError as error:
        raise FormatError(str(error)) from error
    for levels, channel in zip(LEVELS, ANGLES, strict=True):
        where = np.flatnonzero(geometry.levels == levels)
        if not len(where):
            continue
        if levels == 1:  # nothing to code; an encoder may be given anything, which the check below finds
            symbols[where, 5] = 0 if known is None else known[where, 5]
            continue
        num_raw = ((levels - 1) // ANGLE_TOP).bit_length()
        angles = None if known is None else known[where, 5]
        top = coder.values(channel, np.zeros(len(where), np.int64), None if angles is None else angles >> num_raw)
        low: np.ndarray | int = 0
        if num_raw:
            low = coder.bits(channel, num_raw, None if angles is None else angles & (2**num_raw - 1), len(where))
        symbols[where, 5] = (top << num_raw) + low
    if np.any((symbols[:, 5] < 0) | (symbols[:, 5] >= geometry.levels)):
        raise FormatError("an angle is out of range")
    limits = patch_size * square_root_powers(len(OFFSETS) - 1)
    finer = len(limits) - np.searchsorted(limits[::-1], geometry.offset_step, side="left")
    for column in (6, 7):
        for k in np.unique(finer).tolist():
            where = np.flatnonzero(finer == k)
            offsets = None if known is None else known[where, column]
            symbols[where, column] = coder.values(OFFSETS[k], np.zeros(len(where), np.int64), offsets)


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

    The coder is an `Encoder`, or a `Decoder` of its words; symbols that no encoder writes are a FormatError.
    """
    known = None
    if rows is not None:
        known = np.zeros(grid[0] * grid[1], bool)
        known[rows.patches] = True
    mask = _code_mask(coder, known, memory, grid, patch_size)
    if int(mask.sum()) != count:
        raise FormatError(f"expected a mask of {count} patches, got {int(mask.sum())}")
    symbols = np.zeros((count, len(SYMBOLS)), np.int64)
    given = None if rows is None else rows.symbols
    symbols[:, :3] = _code_colors(coder, None if given is None else given[:, :3], mask, grid, memory)
    _code_geometry(coder, given, symbols, patch_size, codes)
    if count and np.abs(symbols).max() > MAX_WRITTEN:
        raise FormatError(f"expected symbols of magnitude up to {MAX_WRITTEN}, got {np.abs(symbols).max()}")
    memory.amplitudes = np.zeros(grid, np.int64)
    memory.amplitudes.flat[mask] = 1 + classes_of(symbols[:, :3])
    memory.patch_size = patch_size
    return Rows(patch_size, np.flatnonzero(mask), symbols, np.asarray(codes, np.int64))
