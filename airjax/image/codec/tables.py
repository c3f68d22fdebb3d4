"""What the entropy coder knows of its symbols: tokens, and how likely each is by channel and context.

Files of version 1 have tables of counts that learn on the way. Those of version 2 have constant tables, from training
photographs (`train/image/code_tables.py`), in NUM_SETS sets of which each stage names the ones that fit it best: a
choice says more, and sooner, than what a few thousand symbols teach. docs/format.md, section 7, says the same for a
second implementation.

Letters: T tokens, k tables of a call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from itertools import accumulate
from typing import NamedTuple

import constriction
import numpy as np

from airjax.image.codec.quantise import LEVELS, MAX_CLASS

PRECISION = 24  # bits of a frequency
NUM_TOKENS = 71  # up to MAX_SYMBOL
NUM_STEPS = 36  # of magnitudes; a token is a step and a sign
_DIRECT = 8  # magnitudes below are tokens of their own; above, half an octave shares one, and the rest is raw bits
MAX_SYMBOL = 2**17 - 1
MAX_WRITTEN = 2**16 - 1  # of a file; differences of two may be coded
_LIMIT = 2**14  # sum of the counts of a table above which they are halved
_UNIT = 32  # what a symbol seen once adds to its count
_MAX_CONTEXTS = 128  # of a channel
NUM_SETS = 16  # of constant tables, for each group of channels
FILE = "tables_v2.bin"  # beside this module: their bytes, in the order of GROUPS


# --- symbols and tokens ----------------------------------------------------------------------------------


def _steps() -> tuple[np.ndarray, np.ndarray]:
    """(smallest magnitude, number of raw bits) of every step.

    Magnitudes 0 to 7 are steps of their own; from 8 on the two leading bits make the step and the others are raw.
    """
    step = np.arange(NUM_STEPS)
    above = np.maximum(step - _DIRECT, 0)
    num_raw = np.where(step < _DIRECT, 0, above // 2 + 2)
    return np.where(step < _DIRECT, step, (2 + (above & 1)) << num_raw), num_raw


_STEP_FIRST, _STEP_RAW = _steps()
_STEP_OF = np.repeat(np.arange(NUM_STEPS), 1 << _STEP_RAW)  # by magnitude
# The token of step k is 2 k, and 2 k - 1 for a negative number.
_TOKEN_STEP = (np.arange(NUM_TOKENS) + 1) // 2
TOKEN_SIGN = np.where(np.arange(NUM_TOKENS) & 1, -1, 1)
TOKEN_FIRST, TOKEN_RAW = _STEP_FIRST[_TOKEN_STEP], _STEP_RAW[_TOKEN_STEP]


def tokens_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(token, number of raw bits, raw bits) of signed integers of magnitude up to MAX_SYMBOL."""
    magnitude = np.abs(values)
    step = _STEP_OF[magnitude]
    return 2 * step - (values < 0), _STEP_RAW[step], magnitude - _STEP_FIRST[step]


# --- channels --------------------------------------------------------------------------------------------


class Channel(NamedTuple):
    """A kind of symbol.

    Fields:
      name: learning tables of different names are different tables.
      mean, weight, signed, most: what those hold before the first symbol: expected magnitude in sixteenths, about the
        sum of the counts, whether both signs occur, the largest magnitude.
      group, first: which constant tables it has: its context 0 is table `first` of the group.
      num_last: so many last bits of its symbols have no model, and come after all the rest of a call.
    """

    name: str
    group: str
    mean: int
    weight: int
    signed: bool = True
    most: int = MAX_SYMBOL
    first: int = 0
    num_last: int = 0

    @property
    def kind(self) -> str:
        """What `info` counts it as: the name without the number of a table."""
        return self.name.removeprefix("base ").split()[0]


MASK = Channel("mask", "mask", 16, 96, signed=False, most=1)
BASE_MASK = MASK._replace(name="base mask")
COLORS = (
    Channel("luma", "luma", 37, 400),
    Channel("chroma 1", "chroma 1", 24, 400),
    Channel("chroma 2", "chroma 2", 16, 400),
)
BASE_COLORS = tuple(channel._replace(name=f"base {channel.name}") for channel in COLORS)
SCALE = Channel("scale", "scale", 37, 1000)
ASPECT = Channel("aspect", "aspect", 40, 1000, signed=False)
# The angle of so many levels, in the order of LEVELS, and the offset of a step of P * 2^(1 - k / 2).
ANGLE_TOP = 48  # more angles than these have their last bits raw
ANGLES = tuple(
    Channel(
        f"angle {m}",
        "angle",
        16 * m,
        1000,
        signed=False,
        most=min(m, ANGLE_TOP) - 1,
        first=i,
        num_last=((m - 1) // ANGLE_TOP).bit_length(),
    )
    for i, m in enumerate(LEVELS)
)
OFFSETS = tuple(
    Channel(f"offset {k}", "offset", mean, 1200, first=k)
    for k, mean in enumerate((1, 2, 2, 3, 5, 7, 10, 14, 19, 27, 38, 54, 77, 109, 154, 218, 308, 435, 615))
)


class Group(NamedTuple):
    """Channels whose constant tables are chosen together."""

    tables: int  # how many: contexts of all its channels
    steps: int  # of magnitudes that a table has a byte for; larger ones are as unlikely as can be
    signed: bool


GROUPS = {
    "mask": Group(120, 2, False),
    "luma": Group(14, NUM_STEPS, True),
    "chroma 1": Group(40, NUM_STEPS, True),
    "chroma 2": Group(40, NUM_STEPS, True),
    "scale": Group(MAX_CLASS + 1, NUM_STEPS, True),
    "aspect": Group(8 * (MAX_CLASS + 1), NUM_STEPS, False),
    "angle": Group(len(LEVELS), NUM_STEPS, False),
    "offset": Group(len(OFFSETS), NUM_STEPS, True),
}
# The number of the first table of a group, where those of all groups are counted.
GROUP_STARTS = dict(zip(GROUPS, accumulate((group.tables for group in GROUPS.values()), initial=0), strict=False))


# --- counts and frequencies ------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def start_counts(mean: int, weight: int, signed: bool, most: int) -> tuple[int, ...]:
    """Counts in proportion to a geometric distribution of magnitudes up to `most`: integers, at least 1."""
    ratio = (mean << 16) // (mean + 16)
    tail = [2**32]  # 2^32 times the chance of a magnitude of at least k
    while tail[-1]:
        tail.append(tail[-1] * ratio >> 16)

    def at_least(k: int) -> int:
        return tail[k] if k <= most and k < len(tail) else 0

    counts = []
    for token in range(NUM_TOKENS):
        first, width = int(TOKEN_FIRST[token]), 1 << int(TOKEN_RAW[token])
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


# 2^(24 - i / 8), rounded.
EIGHTHS = np.array([16777216, 15384775, 14107901, 12937002, 11863283, 10878679, 9975792, 9147842], np.int64)


def counts_of(logarithms: np.ndarray, *, signed: bool) -> np.ndarray:
    """(.., T) counts of (.., s) bytes: minus eight times the binary logarithm of the probability of each step.

    Steps beyond them are not counted; the first has at least 1.
    """
    by_step = EIGHTHS[logarithms & 7] >> (logarithms.astype(np.int64) >> 3)
    counts = np.zeros((*logarithms.shape[:-1], NUM_TOKENS), np.int64)
    counts[..., 2 : 2 * by_step.shape[-1] : 2] = by_step[..., 1:] >> int(signed)
    counts[..., 1 : 2 * by_step.shape[-1] - 1 : 2] = (by_step[..., 1:] >> 1) * int(signed)
    counts[..., 0] = np.maximum(by_step[..., 0], 1)
    return counts


@dataclass(frozen=True, eq=False)
class Model:
    """How likely each token is: (T,) integers of at least 1 that sum to 2^24."""

    frequencies: np.ndarray

    @cached_property
    def of_coder(self):
        """The same for constriction, which adds one to each of T weights that sum to 2^24 - T."""
        weights = (self.frequencies - 1).astype(np.float64)
        return constriction.stream.model.Categorical(weights, perfect=False)


# --- tables ----------------------------------------------------------------------------------------------


class Tables(ABC):
    """The models of every channel and context."""

    @abstractmethod
    def models(self, channel: Channel, contexts: list[int]) -> list[Model]:
        """The models of k contexts of a channel."""

    @abstractmethod
    def learn(self, channel: Channel, contexts: list[int], sizes: list[int], tokens: np.ndarray) -> None:
        """Counts tokens that have been coded: as many as the sizes say, of the k contexts one after the other."""


class LearningTables(Tables):
    """Version 1: counts of every channel and context met so far; carried from stage to stage."""

    def __init__(self):
        self._counts: dict[str, np.ndarray] = {}

    def counts(self, channel: Channel, contexts: list[int]) -> np.ndarray:
        """(k, T) counts of k tables, which are made when one of their channel is first asked for."""
        if channel.name not in self._counts:
            start = start_counts(channel.mean, channel.weight, channel.signed, channel.most)
            self._counts[channel.name] = np.tile(np.array(start, np.int64), (_MAX_CONTEXTS, 1))
        return self._counts[channel.name][contexts]

    def models(self, channel, contexts):
        return [Model(row) for row in frequencies(self.counts(channel, contexts))]

    def learn(self, channel, contexts, sizes, tokens):
        seen = count_tokens(np.repeat(np.arange(len(contexts)), sizes), tokens, tables=len(contexts))
        counts = self.counts(channel, contexts) + _UNIT * seen
        while np.any(large := counts.sum(axis=1) > _LIMIT):
            counts[large] -= counts[large] // 2
        self._counts[channel.name][contexts] = counts


class ConstantTables(Tables):
    """Version 2: for every group, in the order of GROUPS, the number of the set that a stage has chosen."""

    def __init__(self, chosen: Sequence[int]):
        self._chosen = dict(zip(GROUPS, chosen, strict=True))

    def models(self, channel, contexts):
        models = _models_of(channel.group, self._chosen[channel.group])
        return [models[channel.first + context] for context in contexts]

    def learn(self, channel, contexts, sizes, tokens):
        pass


def count_tokens(table: np.ndarray, tokens: np.ndarray, *, tables: int) -> np.ndarray:
    """(tables, T) how often each token occurs with each table."""
    return np.bincount(NUM_TOKENS * table + tokens, minlength=NUM_TOKENS * tables).reshape(-1, NUM_TOKENS)


def pack_sets(logarithms: dict[str, np.ndarray]) -> bytes:
    """The bytes of FILE; for every group (NUM_SETS, tables, steps) bytes, see `counts_of`."""
    parts = []
    for name, group in GROUPS.items():
        if logarithms[name].shape != (shape := (NUM_SETS, group.tables, group.steps)):
            raise ValueError(f"{name}: expected {shape}, got {logarithms[name].shape}")
        parts.append(logarithms[name].astype(np.uint8).tobytes())
    return b"".join(parts)


@lru_cache(maxsize=1)
def _all_logarithms() -> dict[str, np.ndarray]:
    """(NUM_SETS, tables, steps) bytes of every group: inverse of `pack_sets`."""
    data = np.frombuffer(resources.files(__package__).joinpath(FILE).read_bytes(), np.uint8)
    result, start = {}, 0
    for name, group in GROUPS.items():
        size = NUM_SETS * group.tables * group.steps
        result[name] = data[start : start + size].reshape(NUM_SETS, group.tables, group.steps)
        start += size
    return result


def frequencies_of(group: str, sets: int | slice = slice(None)) -> np.ndarray:
    """(.., tables, T) frequencies of the shipped sets of a group, or of one of them."""
    return frequencies(counts_of(_all_logarithms()[group][sets], signed=GROUPS[group].signed))


@lru_cache(maxsize=len(GROUPS) * NUM_SETS)
def _models_of(group: str, number: int) -> tuple[Model, ...]:
    return tuple(map(Model, frequencies_of(group, number)))


@lru_cache(maxsize=len(GROUPS))
def _bits_of(group: str) -> np.ndarray:
    """(tables * T, NUM_SETS) 1024ths of bits of every token; integers, so that their sums are exact."""
    bits = PRECISION - np.log2(frequencies_of(group).reshape(NUM_SETS, -1))
    return np.ascontiguousarray(np.rint(1024 * bits).astype(np.int64).T)


def _cheapest_set(group: str, seen: np.ndarray) -> int:
    occurring = np.flatnonzero(seen)  # few of them do
    return int(np.argmin(seen.flat[occurring] @ _bits_of(group)[occurring]))


def choose_sets(seen: dict[str, np.ndarray]) -> tuple[int, ...]:
    """The set of every group that codes (tables, T) counts of tokens in the fewest bits; 0 where there are none."""
    return tuple(_cheapest_set(name, seen[name]) if name in seen else 0 for name in GROUPS)
