"""Entropy coding of the quantised rows of a stage: constriction's ANS coder, with the models of `tables`.

Patches are visited in passes over ever finer grids, so that all symbols of a pass see neighbours that are known, and
are coded at once. Contexts come from integers and single IEEE operations: the same on every machine. docs/format.md,
sections 6 to 8, says the same for a second implementation.

Letters: n rows, N patches of the grid (R rows, C columns), T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import constriction
import numpy as np

from airjax.errors import FormatError
from airjax.image.codec.quantise import LEVELS, SYMBOLS, Rows, classes_of, geometry_of, square_root_powers
from airjax.image.codec.tables import (
    ANGLES,
    ASPECT,
    BASE_COLORS,
    BASE_MASK,
    COLORS,
    GROUP_STARTS,
    GROUPS,
    MASK,
    MAX_WRITTEN,
    OFFSETS,
    PRECISION,
    SCALE,
    TOKEN_FIRST,
    TOKEN_RAW,
    TOKEN_SIGN,
    Channel,
    Tables,
    count_tokens,
    tokens_of,
)

_AnsCoder = constriction.stream.stack.AnsCoder

# Levels of passes by version of the format: the first pass takes every 16th, or every 4th, patch of a row and a column.
PASS_LEVELS = {1: 4, 2: 2}
_TOKEN_VALUE = TOKEN_SIGN * TOKEN_FIRST  # without its raw bits
_FIRST_RAW = int(np.flatnonzero(TOKEN_RAW)[0])  # the first token that has any
_MAX_BITS = 32  # more than a symbol can have raw bits


# --- coders ----------------------------------------------------------------------------------------------


def _grouped(keys: np.ndarray) -> tuple[np.ndarray, list[int], list[int]]:
    """(order that sorts small numbers, equal ones as they came; the numbers that occur; how often each does)."""
    sizes = np.bincount(keys)
    present = sizes.nonzero()[0]
    return keys.astype(np.uint16).argsort(kind="stable"), present.tolist(), sizes[present].tolist()


def _split(array: np.ndarray, sizes: Iterable[int]) -> Iterator[np.ndarray]:
    """Parts of these sizes, one after the other."""
    return (array[a:b] for a, b in pairwise(accumulate(sizes, initial=0)))


@cache
def _raw(num_bits: int):
    """The model of raw bits."""
    return constriction.stream.model.Uniform(2**num_bits)


class _Coder(ABC):
    """What both directions share: the order of contexts.

    The symbols of one call are coded context by context in ascending order, then their raw bits by number of bits.
    """

    def values(self, channel: Channel, contexts: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """Codes or decodes one signed integer per context (an array of its length) in one call; returns them."""
        result = np.zeros(len(contexts), np.int64)
        if len(contexts):
            order, present, sizes = _grouped(contexts)
            result[order] = self._call(channel, present, sizes, None if values is None else values[order])
        return result

    def each(self, channels: Sequence[Channel], numbers: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """Like `values` for symbols of several channels, of which `numbers` tells: a call for each, with context 0."""
        result = np.zeros(len(numbers), np.int64)
        order, present, sizes = _grouped(numbers)
        for number, where in zip(present, _split(order, sizes), strict=True):
            part = None if values is None else values[where]
            result[where] = self._call(channels[number], [0], [len(where)], part)
        return result

    @abstractmethod
    def _call(self, channel: Channel, contexts: list[int], sizes: list[int], values: np.ndarray | None) -> np.ndarray:
        """Codes or decodes the symbols of one call, as many for each of the contexts as the sizes say."""


class _Call(NamedTuple):
    """One call; `last` are the last bits of its symbols where the channel wants them apart, `values` the rest."""

    channel: Channel
    contexts: list[int]
    sizes: list[int]
    values: np.ndarray
    last: np.ndarray | None


class Encoder(_Coder):
    """Collects the symbols of a stage in the order in which a decoder needs them; tables are needed at the end."""

    def __init__(self):
        self._calls: list[_Call] = []

    def _call(self, channel, contexts, sizes, values):
        first, last = values, None
        if channel.num_last:
            first, last = values >> channel.num_last, (values & (2**channel.num_last - 1)).astype(np.int32)
        self._calls.append(_Call(channel, contexts, sizes, first, last))
        return values

    @cached_property
    def _tokens(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `tokens_of` says of the symbols of all calls, once they have been made."""
        tokens, num_raw, raw = tokens_of(np.concatenate([call.values for call in self._calls]))
        return tokens.astype(np.int32), num_raw, raw.astype(np.int32)

    def _parts(self) -> Iterator[tuple[_Call, np.ndarray, list[tuple[np.ndarray, int]]]]:
        """Every call, its tokens, and its raw bits: numbers of so many bits, in the order of the code."""
        if not self._calls:
            return
        sizes = [len(call.values) for call in self._calls]
        tokens, num_raw, raw = self._tokens
        order, keys, raw_sizes = _grouped(_MAX_BITS * np.repeat(np.arange(len(sizes)), sizes) + num_raw)
        raw_parts: list[list[tuple[np.ndarray, int]]] = [[] for _ in sizes]
        for key, part in zip(keys, _split(raw[order], raw_sizes), strict=True):
            if num_bits := key % _MAX_BITS:
                raw_parts[key // _MAX_BITS].append((part, num_bits))
        for call, part, bits in zip(self._calls, _split(tokens, sizes), raw_parts, strict=True):
            if call.last is not None:
                bits.append((call.last, call.channel.num_last))
            yield call, part, bits

    def words(self, tables: Tables) -> np.ndarray:
        """The code, 32-bit words; the last one is not zero. The symbols are coded backwards, as a stack does."""
        symbols: list[np.ndarray] = []
        models: list[object] = []
        for (channel, contexts, sizes, *_), tokens, raw in self._parts():
            symbols += [*_split(tokens, sizes), *(bits for bits, _ in raw)]
            models += [model.of_coder for model in tables.models(channel, contexts)]
            models += [_raw(num_bits) for _, num_bits in raw]
            tables.learn(channel, contexts, sizes, tokens)
        coder = _AnsCoder()
        for part, model in zip(reversed(symbols), reversed(models), strict=True):
            coder.encode_reverse(part, model)
        return coder.get_compressed()

    def bits_of(self, tables: Tables) -> dict[str, float]:
        """What each kind of symbol costs, kind -> bits."""
        result: dict[str, float] = {}
        for (channel, contexts, sizes, *_), tokens, raw in self._parts():
            rows = np.stack([model.frequencies for model in tables.models(channel, contexts)])
            likely = rows[np.repeat(np.arange(len(rows)), sizes), tokens]
            bits = float(PRECISION * len(tokens) - np.log2(likely).sum())
            bits += sum(num_bits * len(part) for part, num_bits in raw)
            result[channel.kind] = result.get(channel.kind, 0.0) + bits
            tables.learn(channel, contexts, sizes, tokens)
        return result

    def seen(self) -> dict[str, np.ndarray]:
        """(tables, T) how often each token occurred with each constant table, by group."""
        if not self._calls:
            return {}
        first = [GROUP_STARTS[call.channel.group] + call.channel.first for call in self._calls]
        table = [start + context for start, call in zip(first, self._calls, strict=True) for context in call.contexts]
        sizes = [size for call in self._calls for size in call.sizes]
        counts = count_tokens(np.repeat(table, sizes), self._tokens[0], tables=sum(g.tables for g in GROUPS.values()))
        coded = {call.channel.group for call in self._calls}
        return {name: counts[GROUP_STARTS[name] :][: GROUPS[name].tables] for name in GROUPS if name in coded}


class Decoder(_Coder):
    """The calls made of the encoder give back the same values; words that end in a zero are a FormatError."""

    def __init__(self, tables: Tables, words: np.ndarray):
        self._tables = tables
        try:
            self._ans = _AnsCoder(words)
        except ValueError as error:
            raise FormatError("the code of a stage ends in a zero word") from error

    def _call(self, channel, contexts, sizes, values):
        models = self._tables.models(channel, contexts)
        decode = self._ans.decode
        tokens = np.concatenate([decode(model.of_coder, size) for model, size in zip(models, sizes, strict=True)])
        self._tables.learn(channel, contexts, sizes, tokens)
        result = _TOKEN_VALUE.take(tokens)
        if tokens.max() >= _FIRST_RAW:
            order, num_raw, counts = _grouped(TOKEN_RAW.take(tokens))
            groups = zip(num_raw, counts, strict=True)
            raw = np.concatenate([decode(_raw(num_bits), count) for num_bits, count in groups if num_bits])
            where = order[-len(raw) :]
            result[where] += TOKEN_SIGN.take(tokens[where]) * raw
        if channel.num_last:
            result = (result << channel.num_last) + decode(_raw(channel.num_last), len(result))
        return result

    def at_end(self) -> bool:
        """Whether all words are used up, as they are after the last symbol of a stage."""
        return self._ans.is_empty()


# --- the patch grid --------------------------------------------------------------------------------------


class _Walk(NamedTuple):
    """The order in which patches are coded, pass by pass, and what they see: places in that order.

    Fields:
      order: (N,) numbers of the patches.
      seen: (4, N) places of the neighbours that a patch sees, all in earlier passes; N where there is none.
      ends: places at which passes begin and end, from 0 to N.
    """

    order: np.ndarray
    seen: np.ndarray
    ends: np.ndarray

    def passes(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The places of each pass, and its part of `seen`."""
        for a, b in pairwise(self.ends.tolist()):
            yield slice(a, b), np.ascontiguousarray(self.seen[:, a:b])

    def only(self, mask: np.ndarray) -> _Walk:
        """The walk over some patches alone, those where (N,) bool is true."""
        kept = np.flatnonzero(mask)
        place = np.full(len(mask) + 1, len(kept))
        place[kept] = np.arange(len(kept))
        return _Walk(self.order[kept], place.take(self.seen.take(kept, axis=1)), np.searchsorted(kept, self.ends))


_CROSS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


@lru_cache(maxsize=2)
def _walk(grid: tuple[int, int], levels: int) -> _Walk:
    """The walk over all patches of a grid, by ever finer grids, in 1 + 2 levels passes.

    First every 2^levels-th patch of every such row, which see none; then, for a spacing s of half of that, a quarter,
    .. and 1, the middles of the squares, which see the four corners at distance s, and the middles of their sides,
    which see four patches along the axes.
    """
    patches = np.arange(grid[0] * grid[1]).reshape(grid)
    s = 2**levels
    parts, ways = [patches[::s, ::s].ravel()], []
    while s > 1:
        s //= 2
        finer = patches[::s, ::s]
        sides = np.add.outer(*map(np.arange, finer.shape)) % 2 == 1
        parts += [finer[1::2, 1::2].ravel(), finer[sides]]
        ways += [s * np.array(_CORNERS), s * np.array(_CROSS)]
    order, ends = np.concatenate(parts), np.cumsum([0, *map(len, parts)])
    pad = 2 ** (levels - 1)
    place = np.full((grid[0] + 2 * pad, grid[1] + 2 * pad), len(order))
    place[pad:-pad, pad:-pad].flat[order] = np.arange(len(order))
    seen = np.full((4, len(order)), len(order))
    for part, way, (a, b) in zip(parts[1:], ways, pairwise(ends[1:].tolist()), strict=True):
        row, column = np.divmod(part, grid[1])
        seen[:, a:b] = place[row + (way[:, :1] + pad), column + (way[:, 1:] + pad)]
    return _Walk(order, seen, ends)


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


def _half_octaves() -> np.ndarray:
    """0, 1, 2 for 0, 1, 2 and then a number for every half octave of a magnitude: up to 12 for 64, the last one."""
    magnitude = np.arange(65)
    exponent = np.frexp(magnitude)[1]
    second = (magnitude >> np.maximum(exponent - 2, 0)) & 1
    return np.where(magnitude < 2, magnitude, 2 * exponent - 2 + second)


_HALF_OCTAVES = _half_octaves()


def _around(step: int) -> np.ndarray:
    """The part of a colour's context that is of its neighbours: by their number, 0 to 4, and the sum of magnitudes."""
    count, total = np.divmod(np.arange(5 * _SUMS), _SUMS)
    mean = np.minimum(2 * total // np.maximum(count, 1), len(_HALF_OCTAVES) - 1)
    return np.where(count > 0, 1 + _HALF_OCTAVES[mean] // step, 0)


_SUMS = 2**7 + 1  # of magnitudes, from 0; larger ones are like the last
_AROUND_LUMA, _AROUND_CHROMA = _around(1), _around(2)
# The part that is of the channel before, by its magnitude; larger ones are like the last.
_OF_CHANNEL_BEFORE = 8 * (_HALF_OCTAVES[:25] // 2)


def _code_mask(
    coder: _Coder, known: np.ndarray | None, walk: _Walk, channel: Channel, before: np.ndarray
) -> np.ndarray:
    """(N,) bool, which patches have a row, in the order of a walk, as `known` is.

    Contexts: the neighbours so far, and the stage before (`Memory.before`) here and around.
    """
    some = np.zeros((before.shape[0] + 2, before.shape[1] + 2), np.int64)
    some[1:-1, 1:-1] = before > 0
    around = some[:-2, 1:-1] + some[2:, 1:-1] + some[1:-1, :-2] + some[1:-1, 2:]
    fixed = (5 * np.minimum(before, 3) + around).ravel()[walk.order]
    fixed[walk.ends[1] :] += 20
    found = np.zeros(len(fixed), np.int64)
    ones = np.zeros(len(fixed) + 1, np.int64)  # what they add to the contexts; the last is outside the grid
    for part, seen in walk.passes():
        contexts = fixed[part] + ones.take(seen).sum(axis=0)
        found[part] = coder.values(channel, contexts, None if known is None else known[part])
        ones[part] = 20 * (found[part] != 0)
    if np.any(found >> 1):
        raise FormatError("a mask holds other numbers than 0 and 1")
    return found != 0


def _code_colors(coder: _Coder, known: np.ndarray | None, walk: _Walk, base: bool) -> np.ndarray:
    """(3, n) stored colours, in the order of a walk over the patches with a row, as `known` are.

    Contexts: magnitudes of the neighbours so far and of the channel before. In the first stage, which is a small
    picture, a colour is coded as the difference from the mean of its neighbours.
    """
    n, passes = len(walk.order), list(walk.passes())
    count = np.append(np.ones(n, np.int64), 0).take(walk.seen).sum(axis=0)
    of_count = _SUMS * count  # where it begins in a table of `_around`
    colors = np.zeros((3, n + 1), np.int64)  # the last is what is seen where there is no row
    fixed, around = np.zeros(n, np.int64), _AROUND_LUMA
    for c, channel in enumerate(BASE_COLORS if base else COLORS):
        color, magnitude = colors[c], np.zeros(n + 1, np.int64)
        for part, seen in passes:
            total = np.minimum(magnitude.take(seen).sum(axis=0), _SUMS - 1)
            contexts = fixed[part] + around.take(of_count[part] + total)
            predicted = color[seen].sum(axis=0) // np.maximum(count[part], 1) if base else 0
            values = None if known is None else known[c, part] - predicted
            color[part] = coder.values(channel, contexts, values) + predicted
            magnitude[part] = np.abs(color[part])
        fixed, around = _OF_CHANNEL_BEFORE.take(magnitude[:-1], mode="clip"), _AROUND_CHROMA
    return colors[:, :-1]


def _code_geometry(
    coder: _Coder,
    known: np.ndarray | None,
    symbols: np.ndarray,
    classes: np.ndarray,
    patch_size: int,
    codes: np.ndarray,
) -> None:
    """Fills in the last five columns of (n, 8) symbols whose colours, and so classes, are known."""

    def given(column: int) -> np.ndarray | None:
        return None if known is None else known[:, column]

    symbols[:, 3] = coder.values(SCALE, classes, given(3))
    symbols[:, 4] = coder.values(ASPECT, 8 * classes + np.clip(symbols[:, 3], -3, 3) + 3, given(4))
    try:
        geometry = geometry_of(symbols, codes)
    except ValueError as error:
        raise FormatError(str(error)) from error
    several = np.flatnonzero(geometry.levels > 1)
    if known is not None:  # an encoder may be given anything, which the check below finds
        symbols[:, 5] = known[:, 5]
    index = np.searchsorted(LEVELS, geometry.levels[several])
    symbols[several, 5] = coder.each(ANGLES, index, None if known is None else known[several, 5])
    if np.any((symbols[:, 5] < 0) | (symbols[:, 5] >= geometry.levels)):
        raise FormatError("an angle is out of range")
    limits = patch_size * square_root_powers(len(OFFSETS) - 1)
    finer = len(limits) - np.searchsorted(limits[::-1], geometry.offset_step, side="left")
    for column in (6, 7):
        symbols[:, column] = coder.each(OFFSETS, finer, given(column))


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
    walk, first = _walk(grid, memory.pass_levels), memory.amplitudes is None
    ones = None if rows is None else np.bincount(rows.patches, minlength=len(walk.order))[walk.order]
    mask = _code_mask(coder, ones, walk, BASE_MASK if first else MASK, memory.before(grid, patch_size))
    walk = walk.only(mask)
    if len(walk.order) != count:
        raise FormatError(f"expected a mask of {count} patches, got {len(walk.order)}")
    by_number = np.argsort(walk.order, kind="stable")  # they are in a few ordered parts
    patches, symbols = walk.order[by_number], np.zeros((len(SYMBOLS), count), np.int64).T
    given = colors = None
    if rows is not None:
        given, colors = rows.symbols, np.zeros((3, count), np.int64)
        colors[:, by_number] = given[:, :3].T
    symbols[:, :3] = _code_colors(coder, colors, walk, first).T[by_number]
    classes = classes_of(symbols[:, :3])
    _code_geometry(coder, given, symbols, classes, patch_size, codes)
    if count and np.abs(symbols).max() > MAX_WRITTEN:
        raise FormatError(f"expected symbols of magnitude up to {MAX_WRITTEN}, got {np.abs(symbols).max()}")
    memory.amplitudes = np.zeros(grid, np.int64)
    memory.amplitudes.flat[patches] = 1 + classes
    memory.patch_size = patch_size
    return Rows(patch_size, patches, symbols, np.asarray(codes, np.int64))
