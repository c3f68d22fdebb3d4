"""A second decoder of compact files, written from docs/format.md alone: plain Python, one integer at a time.

It knows neither airjax nor numpy nor constriction, so that what it shares with the library is only the page. Section
numbers in the comments are those of docs/format.md. A file that breaks a rule ends in an AssertionError.
"""

import math
import struct
import zlib
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

ANGLE_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
ANGLE_LIMITS = (0, 1.5, 2.5, 3.5, 5, 7, 10, 14, 20, 28, 40, 56, 80, 112, 160, 224)
OFFSET_MEANS = (1, 2, 2, 3, 5, 7, 10, 14, 19, 27, 38, 54, 77, 109, 154, 218, 308, 435, 615)
# Section 7: (mean in sixteenths, weight, signed, largest magnitude)
CHANNELS = {
    "mask": (16, 96, False, 1),
    "luma": (37, 400, True, 2**17 - 1),
    "chroma 1": (24, 400, True, 2**17 - 1),
    "chroma 2": (16, 400, True, 2**17 - 1),
    "scale": (37, 1000, True, 2**17 - 1),
    "aspect": (40, 1000, False, 2**17 - 1),
}
CHANNELS |= {f"base {name}": CHANNELS[name] for name in ("mask", "luma", "chroma 1", "chroma 2")}
CHANNELS |= {f"angle {count}": (16 * count, 1000, False, min(count, 48) - 1) for count in ANGLE_COUNTS[1:]}
CHANNELS |= {f"offset {g}": (mean, 1200, True, 2**17 - 1) for g, mean in enumerate(OFFSET_MEANS)}

TOKENS = 71
# Section 7, version 2: (tables, bytes of a table, signed) in the order of the file
GROUPS = {
    "mask": (120, 2, False),
    "luma": (14, 36, True),
    "chroma 1": (40, 36, True),
    "chroma 2": (40, 36, True),
    "scale": (9, 36, True),
    "aspect": (72, 36, False),
    "angle": (16, 36, False),
    "offset": (19, 36, True),
}
EIGHTHS = (16777216, 15384775, 14107901, 12937002, 11863283, 10878679, 9975792, 9147842)
TABLES_FILE = Path(__file__).resolve().parents[2] / "airjax" / "image" / "codec" / "tables_v2.bin"


class Stage(NamedTuple):
    """One stage: patch numbers in ascending order, eight integers for each, and the Gaussians (8 float32 each)."""

    patch_size: int
    patches: list
    symbols: list
    codes: tuple
    gaussians: list  # (mean x, mean y, scale 1, scale 2, angle, red, green, blue)


def decode(data: bytes) -> tuple[tuple[int, int], list[Stage]]:
    """(height, width) and the stages."""
    assert data[:8] == b"\x89AIR\r\n\x1a\n" and data[8] in (1, 2) and data[9] == 0
    version, offset, tag, stages = data[8], 10, b"", []
    tables, before = Learning(), None
    while tag != b"AEND":
        (length,) = struct.unpack_from("<I", data, offset)
        tag, payload = data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]
        assert data[offset + 8 + length : offset + 12 + length] == struct.pack("<I", zlib.crc32(tag + payload))
        offset += 12 + length
        if tag == b"AHDR":
            width, height, channels, profile, num_stages = struct.unpack("<IIBBH", payload)
            assert channels == 3 and profile == 2
        elif tag == b"STAG":
            assert payload[0] == len(stages)
            if version == 2:
                tables = Constant([payload[12 + i // 2] // 16 ** (i % 2) % 16 for i in range(8)])
                payload = payload[:12] + payload[16:]
            stages.append(stage_of(payload, width, height, tables, before))
            before = stages[-1] if stages[-1].patches else before
    assert offset == len(data) and len(stages) == num_stages
    return (height, width), stages


# --- section 8: the code --------------------------------------------------------------------------------------


class Code:
    """The words of one stage and the state of the coder."""

    def __init__(self, words):
        self.words, self.state = list(words), 0
        while self.words and self.words[-1] == 0:  # section 5
            self.words.pop()
        self.refill()

    def refill(self):
        while self.state < 2**32 and self.words:
            self.state = self.state * 2**32 + self.words.pop()

    def symbol(self, frequencies, sums) -> int:
        q = self.state % 2**24
        i = bisect_right(sums, q) - 1
        self.state = self.state // 2**24 * frequencies[i] + q - sums[i]
        self.refill()
        return i

    def raw(self, bits) -> int:
        """A symbol of 2^bits equal frequencies."""
        q, frequency = self.state % 2**24, 2 ** (24 - bits)
        i = q // frequency
        self.state = self.state // 2**24 * frequency + q - i * frequency
        self.refill()
        return i


# --- section 7: tables, groups, passes ------------------------------------------------------------------------


def first_of(step) -> tuple[int, int]:
    """(Smallest magnitude, raw bits) of a step: the inverse of "The step of m ...", worked out by hand."""
    if step < 8:
        return step, 0
    e, below = (step - 8) // 2 + 3, (step - 8) % 2
    return 2**e + below * 2 ** (e - 1), e - 1


def new_table(mean, weight, signed, largest) -> list:
    ratio = 65536 * mean // (mean + 16)
    powers = [2**32]
    while powers[-1] and len(powers) <= largest:
        powers.append(powers[-1] * ratio // 65536)

    def q(i):
        return powers[i] if i < len(powers) and i <= largest else 0

    counts = []
    for token in range(TOKENS):
        first, bits = first_of((token + 1) // 2)
        count = weight * (q(first) - q(first + 2**bits)) // 2**32
        if signed and token > 0:
            count //= 2
        counts.append(1 if token % 2 and not signed else 1 + count)
    return counts


def frequencies_of(counts) -> list:
    total = sum(counts)
    frequencies = [1 + c * (2**24 - TOKENS) // total for c in counts]
    frequencies[0] += 2**24 - sum(frequencies)
    return frequencies


class Learning:
    """Version 1."""

    levels = (8, 4, 2, 1)

    def __init__(self):
        self.counts = {}

    def of(self, channel, context) -> list:
        if (channel, context) not in self.counts:
            self.counts[channel, context] = new_table(*CHANNELS[channel])
        return self.counts[channel, context]

    def learn(self, channel, context, tokens):
        counts = self.of(channel, context)
        for token in tokens:
            counts[token] += 32
        while sum(counts) > 2**14:
            counts[:] = [c - c // 2 for c in counts]


class Constant:
    """Version 2."""

    levels = (2, 1)

    def __init__(self, sets):
        self.sets = sets

    def of(self, channel, context) -> list:
        name = channel.removeprefix("base ")
        if name.startswith("angle"):
            name, context = "angle", ANGLE_COUNTS.index(int(name.split()[1]))
        elif name.startswith("offset"):
            name, context = "offset", int(name.split()[1])
        start, data = 0, TABLES_FILE.read_bytes()
        for group, (tables, size, signed) in GROUPS.items():
            if group == name:
                chosen = self.sets[list(GROUPS).index(name)]
                start += (chosen * tables + context) * size
                by_step = [EIGHTHS[byte % 8] // 2 ** (byte // 8) for byte in data[start : start + size]]
                counts = [0] * TOKENS
                counts[0] = max(by_step[0], 1)
                for step in range(1, size):
                    counts[2 * step] = by_step[step] // 2 if signed else by_step[step]
                    counts[2 * step - 1] = by_step[step] // 2 if signed else 0
                return counts
            start += 16 * tables * size
        raise AssertionError(name)

    def learn(self, channel, context, tokens):
        pass


def call(code, tables, channel, contexts) -> list:
    """The integers of one call, in the order of their contexts' list."""
    order = sorted(range(len(contexts)), key=lambda i: contexts[i])
    tokens = [0] * len(contexts)
    for context in sorted(set(contexts)):
        group = [i for i in order if contexts[i] == context]
        frequencies = frequencies_of(tables.of(channel, context))
        sums = [0, *accumulate(frequencies[:-1])]
        for i in group:
            tokens[i] = code.symbol(frequencies, sums)
        tables.learn(channel, context, [tokens[i] for i in group])
    values = [0] * len(contexts)
    starts = [first_of((token + 1) // 2) for token in tokens]
    for i in sorted(order, key=lambda i: starts[i][1]):  # a stable sort keeps the order within equal raw bits
        magnitude = starts[i][0] + (code.raw(starts[i][1]) if starts[i][1] else 0)
        values[i] = -magnitude if tokens[i] % 2 else magnitude
    return values


def passes_of(rows, columns, levels) -> list:
    """Patch numbers of every pass and where it looks."""
    first = 2 * levels[0]
    passes = [([i * columns + j for i in range(0, rows, first) for j in range(0, columns, first)], ())]
    for s in levels:
        grid = [(i, j) for i in range(0, rows, s) for j in range(0, columns, s)]
        odd = [i * columns + j for i, j in grid if i // s % 2 and j // s % 2]
        passes.append((odd, ((-s, -s), (-s, s), (s, -s), (s, s))))
        mixed = [i * columns + j for i, j in grid if (i // s + j // s) % 2]
        passes.append((mixed, ((-s, 0), (s, 0), (0, -s), (0, s))))
    return passes


def around(patch, rows, columns, where) -> list:
    """Numbers of the patches seen from `patch` that lie in the grid."""
    i, j = divmod(patch, columns)
    return [(i + y) * columns + j + x for y, x in where if 0 <= i + y < rows and 0 <= j + x < columns]


def h(x) -> int:
    x = abs(x)
    if x < 4:
        return x
    bits = x.bit_length()
    return 2 * bits - 2 + (x >> (bits - 2)) % 2


# --- section 6: from integers to Gaussians --------------------------------------------------------------------


def e(u, n) -> float:
    return round(2.0 ** (u % n / n) * 2**40) / 2**40 * 2.0 ** (u // n)


def class_of(luma, chroma1, chroma2) -> int:
    energy = sum(min(abs(v), 2**20) ** 2 for v in (luma, chroma1, chroma2))
    return sum(2 * 4**i <= energy for i in range(8))


def axes_of(codes, k, scale, aspect) -> tuple[int, int]:
    """A and B."""
    assert aspect >= 0
    s = e(codes[3], 8) * 256 * 2.0**-k
    larger = round(codes[5] * 16 + scale * s)
    smaller = round(larger - aspect * s)
    assert larger <= 12 * 256 and smaller >= -5 * 256
    return larger, smaller


def angles_of(codes, k, larger, smaller) -> int:
    """L."""
    r = e(larger - smaller, 256)
    ideal = (((r - 1 / r) * (math.pi / 2)) * 2**k) / e(codes[4], 8)
    return ANGLE_COUNTS[bisect_right(ANGLE_LIMITS, ideal) - 1]


def offset_step(codes, k, larger, smaller) -> float:
    a, b = e(larger, 256), e(smaller, 256)
    return ((2 * e(codes[2], 8)) / math.sqrt(1 / (a * a) + 1 / (b * b))) * 2.0**-k


def gaussian_of(v, codes, patch_size, i, j) -> tuple:
    k = class_of(*v[:3])
    larger, smaller = axes_of(codes, k, v[3], v[4])
    a, b, d = e(larger, 256), e(smaller, 256), offset_step(codes, k, larger, smaller)
    area = math.sqrt(a * b)
    n0, n1, n2 = (v[0] * e(codes[0], 8)) / area, (v[1] * e(codes[1], 8)) / area, (v[2] * e(codes[1], 8)) / area
    r3, r2, r6 = math.sqrt(3), math.sqrt(2), math.sqrt(6)
    matrix = ((1 / r3, 1 / r3, 1 / r3), (1 / r2, 0 / r2, -1 / r2), (1 / r6, -2 / r6, 1 / r6))
    colors = [(n0 * matrix[0][c] + n1 * matrix[1][c]) + n2 * matrix[2][c] for c in range(3)]
    mean = (j + 0.5) * patch_size + v[6] * d, (i + 0.5) * patch_size + v[7] * d
    numbers = (*mean, a, b, (v[5] * math.pi) / angles_of(codes, k, larger, smaller), *colors)
    return struct.unpack("<8f", struct.pack("<8f", *numbers))


# --- sections 5 and 7: one stage ------------------------------------------------------------------------------


def stage_of(payload, width, height, tables, before) -> Stage:
    patch_size, count = struct.unpack_from("<BI", payload, 1)
    codes = struct.unpack_from("<6b", payload, 6)
    words = struct.unpack(f"<{(len(payload) - 12) // 4}I", payload[12:])
    rows, columns = -(-height // patch_size), -(-width // patch_size)
    assert 4 <= patch_size <= 64 and count <= rows * columns
    if count == 0:
        assert not words
        return Stage(patch_size, [], [], codes, [])
    assert 4 * len(words) >= max(0, count - 4096) // 32 + max(0, rows * columns - 65536) // 4096
    code = Code(words)
    patches = mask_of(code, tables, before, (patch_size, rows, columns), height, width)
    assert len(patches) == count
    symbols = [[0] * 8 for _ in patches]
    row_of = {patch: row for row, patch in enumerate(patches)}
    colours_into(symbols, row_of, code, tables, rows, columns, "" if before else "base ")
    classes = [class_of(*v[:3]) for v in symbols]

    for v, scale in zip(symbols, call(code, tables, "scale", classes), strict=True):
        v[3] = scale
    contexts = [8 * k + max(-3, min(3, v[3])) + 3 for k, v in zip(classes, symbols, strict=True)]
    for v, aspect in zip(symbols, call(code, tables, "aspect", contexts), strict=True):
        v[4] = aspect
    axes = [axes_of(codes, k, v[3], v[4]) for k, v in zip(classes, symbols, strict=True)]

    counts = [angles_of(codes, k, *ab) for k, ab in zip(classes, axes, strict=True)]
    for number in ANGLE_COUNTS[1:]:
        group = [v for v, its in zip(symbols, counts, strict=True) if its == number]
        bits = ((number - 1) // 48).bit_length()
        coarse = call(code, tables, f"angle {number}", [0] * len(group))
        for v, high in zip(group, coarse, strict=True):
            v[5] = high * 2**bits + (code.raw(bits) if bits else 0)
            assert 0 <= v[5] < number

    limits = [patch_size * (e(i % 2, 2) * 2.0 ** (1 - -(-i // 2))) for i in range(18)]
    steps = [offset_step(codes, k, *ab) for k, ab in zip(classes, axes, strict=True)]
    classes_of_offset = [sum(limit >= d for limit in limits) for d in steps]
    for coordinate in (6, 7):
        for g in sorted(set(classes_of_offset)):
            group = [v for v, its in zip(symbols, classes_of_offset, strict=True) if its == g]
            for v, value in zip(group, call(code, tables, f"offset {g}", [0] * len(group)), strict=True):
                v[coordinate] = value
    assert code.state == 0 and not code.words
    gaussians = [gaussian_of(v, codes, patch_size, *divmod(p, columns)) for p, v in zip(patches, symbols, strict=True)]
    return Stage(patch_size, patches, symbols, codes, gaussians)


def mask_of(code, tables, before, grid, height, width) -> list:
    """Numbers of the patches with a Gaussian."""
    patch_size, rows, columns = grid
    amplitude = [0] * (rows * columns)
    if before:
        last_row, last_column = (-(-side // before.patch_size) - 1 for side in (height, width))
        theirs = {patch: 1 + class_of(*v[:3]) for patch, v in zip(before.patches, before.symbols, strict=True)}
        for patch in range(rows * columns):
            i, j = divmod(patch, columns)
            i, j = ((2 * x + 1) * patch_size // (2 * before.patch_size) for x in (i, j))
            amplitude[patch] = theirs.get(min(i, last_row) * (last_column + 1) + min(j, last_column), 0)
    mask = [0] * (rows * columns)
    for patches, where in passes_of(rows, columns, tables.levels):
        contexts = []
        for patch in patches:
            ones = sum(mask[p] for p in around(patch, rows, columns, where))
            beside = sum(amplitude[p] > 0 for p in around(patch, rows, columns, ((-1, 0), (1, 0), (0, -1), (0, 1))))
            contexts.append(20 * (ones + (1 if where else 0)) + 5 * min(amplitude[patch], 3) + beside)
        channel = "mask" if before else "base mask"
        for patch, one in zip(patches, call(code, tables, channel, contexts), strict=True):
            assert one in (0, 1)
            mask[patch] = one
    return [patch for patch, one in enumerate(mask) if one]


def colours_into(symbols, row_of, code, tables, rows, columns, base) -> None:
    for column, channel in enumerate(("luma", "chroma 1", "chroma 2")):
        for patches, where in passes_of(rows, columns, tables.levels):
            patches = [patch for patch in patches if patch in row_of]
            contexts, predictions = [], []
            for patch in patches:
                seen = [symbols[row_of[p]][column] for p in around(patch, rows, columns, where) if p in row_of]
                number = max(len(seen), 1)
                k = min(12, h(2 * sum(map(abs, seen)) // number))
                predictions.append(sum(seen) // number if base else 0)
                if column == 0:
                    contexts.append(1 + k if seen else 0)
                else:
                    higher = min(9, h(symbols[row_of[patch]][column - 1])) // 2
                    contexts.append(8 * higher + (1 + k // 2 if seen else 0))
            values = call(code, tables, base + channel, contexts)
            for patch, value, prediction in zip(patches, values, predictions, strict=True):
                symbols[row_of[patch]][column] = value + prediction
