"""Hostile .air files: valid ones of both profiles, broken in many ways, must decode or be refused in one line.

    python tests/helpers/fuzz.py --cases 100000 --seed 0

Checksums are repaired in most cases, since nothing else gets past them. A case depends on the seed and its number only.
The first case that fails ends the run with status 1, its traceback, and its file in the current folder.
"""

from __future__ import annotations

import argparse
import re
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians2D
from airjax.image.codec.air_file import Encoded, decode, encode, info
from airjax.image.codec.payload import Quantised
from airjax.image.codec.quantise import (
    CENTER_UNITS,
    SCALE_RANGE,
    SCALE_UNITS,
    Rows,
    bin_widths,
    classes_of,
    geometry_of,
)
from airjax.raster.tiles import patch_grid

MAX_SECONDS = 2.0  # of one case
MAX_MEMORY = 2**30  # bytes by which the cases may raise the peak of the process
LARGEST = 2**16 - 1  # magnitude of a symbol that may be written
_START = 10  # bytes of signature and version


# --- valid sets ------------------------------------------------------------------------------------------


def spread_integers(rng: np.random.Generator, shape, largest: int = LARGEST) -> np.ndarray:
    """Signed integers whose magnitudes cover all octaves up to `largest`, small ones more often."""
    magnitude = 2.0 ** (rng.random(shape) ** 2 * np.log2(largest + 1)) - 1
    return (rng.choice([-1, 1], shape) * np.floor(magnitude + 0.5)).astype(np.int64).clip(-largest, largest)


def random_codes(rng: np.random.Generator, *, span: int = 40) -> np.ndarray:
    """Bin widths of `span` / 8 octaves around 1, and a centre inside the scales that can be stored."""
    center = rng.integers(*(limit * CENTER_UNITS // SCALE_UNITS for limit in SCALE_RANGE)).clip(-128, 127)
    return np.array([*rng.integers(-span, span + 1, 5), center], np.int64)


def random_rows(
    rng: np.random.Generator, image_size, patch_size: int, *, fill=0.5, codes=None, largest=LARGEST
) -> Rows:
    """Rows in about `fill` of the patches; every integer over the range that a file may hold."""
    codes = random_codes(rng) if codes is None else np.asarray(codes, np.int64)
    rows, columns = patch_grid(image_size, patch_size)
    patches = np.flatnonzero(rng.random(rows * columns) < fill)
    n = len(patches)
    symbols = np.zeros((n, 8), np.int64)
    symbols[:, :3] = spread_integers(rng, (n, 3), largest)
    # Scales first as targets between the limits, then as the symbols that come closest, half of them round.
    step = np.ldexp(bin_widths(codes)[3] * SCALE_UNITS, -classes_of(symbols[:, :3]))
    low, high = SCALE_RANGE
    center = codes[5] * (SCALE_UNITS // CENTER_UNITS)
    symbols[:, 3] = ((rng.uniform(low, high, n) - center) / step).clip(-largest, largest)
    first = np.rint(center + symbols[:, 3] * step)
    room = np.maximum(first - low, 0) / step * rng.random(n) * (rng.random(n) < 0.8)
    symbols[:, 4] = room.clip(0, largest)
    second = np.rint(first - symbols[:, 4] * step)
    good = (first <= high) & (second >= low)
    patches, symbols = patches[good], symbols[good]
    symbols[:, 5] = rng.integers(0, geometry_of(symbols, codes).levels)
    symbols[:, 6:] = spread_integers(rng, (len(symbols), 2), largest)
    return Rows(patch_size, patches, symbols, codes)


def random_quantised(rng: np.random.Generator, image_size, patch_sizes, *, fill=0.5, largest=LARGEST) -> Quantised:
    """A stage of `random_rows` for each patch size."""
    stages = (random_rows(rng, image_size, size, fill=fill, largest=largest) for size in patch_sizes)
    return Quantised(tuple(stages), image_size)


def random_lossless(rng: np.random.Generator, image_size, counts, channels: int = 3) -> Encoded:
    """Floats of a lossless file over all exponents that the format allows."""
    n = sum(counts)

    def signed(*shape):
        return (rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.uniform(-30, 24, shape)).astype(np.float32)

    scales = (2.0 ** rng.uniform(-19.9, 24, (n, 2))).astype(np.float32)
    gaussians = Gaussians2D(signed(n, 2), scales, signed(n), signed(n, channels), np.ones(n, bool))
    return Encoded(gaussians, tuple(counts), image_size)


def valid_files(seed: int = 0) -> list[bytes]:
    """Small files of both profiles; what the cases are made from."""
    rng = np.random.default_rng((seed, 2**32))
    compact = [
        ((40, 56), (16, 8)),
        ((21, 35), (16, 8, 16)),
        ((1, 1), (8,)),
        ((33, 70), (8,)),
        ((40, 56), (16, 16, 8, 8)),
    ]
    sets = [random_quantised(rng, *one, largest=most) for one in compact for most in (9, LARGEST)]
    files = [encode(quantised, version=version) for quantised in sets for version in (2, 1)]
    files.append(encode(random_quantised(rng, (40, 56), (16, 8), fill=0)))
    files.append(encode(Quantised((), (40, 56))))
    lossless = [((40, 56), (3, 0, 2), 3), ((21, 35), (1,), 1), ((1, 1), (), 3)]
    return files + [encode(random_lossless(rng, *one)) for one in lossless]


# --- broken files ----------------------------------------------------------------------------------------


class Chunks(list):
    """(tag, payload) of every chunk of a file, and its version."""

    version = 2


def chunks_of(data: bytes) -> Chunks:
    """The chunks of a valid file."""
    chunks, offset = Chunks(), _START
    chunks.version = data[_START - 2]
    while offset < len(data):
        length, tag = struct.unpack_from("<I4s", data, offset)
        chunks.append((tag, data[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    return chunks


def join(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A file of these chunks, lengths and checksums right; of their version, or of that which encoders write."""
    lossless = any(tag == b"AHDR" and payload[9:10] == b"\x01" for tag, payload in chunks)
    version = getattr(chunks, "version", 1 if lossless else Chunks.version)
    parts = [b"\x89AIR\r\n\x1a\n" + bytes([version, 0])]
    for tag, payload in chunks:
        parts.append(struct.pack("<I", len(payload)) + tag + payload + struct.pack("<I", zlib.crc32(tag + payload)))
    return b"".join(parts)


class Case(NamedTuple):
    """One broken file, and how it was broken."""

    kind: str
    data: bytes


def _pick(rng, items):
    return items[int(rng.integers(len(items)))]


def _damaged(rng, data: bytes) -> bytes:
    """1 to 8 bytes set, or single bits of them turned over."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if data else 0):
        position = int(rng.integers(len(data)))
        data[position] = int(rng.integers(256)) if rng.random() < 0.5 else data[position] ^ 1 << int(rng.integers(8))
    return bytes(data)


def _bytes(rng, files):
    return _damaged(rng, _pick(rng, files))


def _repaired(rng, files):
    """Damage inside the payloads, under right checksums."""
    chunks = chunks_of(_pick(rng, files))
    for _ in range(int(rng.integers(1, 4))):
        index = int(rng.integers(len(chunks)))
        chunks[index] = (chunks[index][0], _damaged(rng, chunks[index][1]))
    return join(chunks)


def _truncated(rng, files):
    data = _pick(rng, files)
    return data[: int(rng.integers(len(data)))] + _pick(rng, [b"", b"", data[-12:], rng.bytes(5)])


def _spliced(rng, files):
    """Chunks of two files swapped, doubled, reordered, left out, renamed, or made of two bodies."""
    chunks, other = chunks_of(_pick(rng, files)), chunks_of(_pick(rng, files))
    for _ in range(int(rng.integers(1, 4))):
        a, b = int(rng.integers(len(chunks))), int(rng.integers(len(chunks)))
        c = int(rng.integers(len(other)))
        what = int(rng.integers(7))
        if what == 0:
            chunks[a] = other[c]
        elif what == 1:
            chunks.insert(a, chunks[b])
        elif what == 2:
            chunks[a], chunks[b] = chunks[b], chunks[a]
        elif what == 3 and len(chunks) > 1:
            del chunks[a]
        elif what == 4:
            chunks[a] = (_pick(rng, [b"ROWS", b"STAG", b"AHDR", b"AEND", b"note", b"NOTE"]), chunks[a][1])
        elif what == 5:
            body, tail = chunks[a][1], other[c][1]
            cuts = rng.integers(0, len(body) + 1), rng.integers(0, len(tail) + 1)
            chunks[a] = (chunks[a][0], body[: int(cuts[0])] + tail[int(cuts[1]) :])
        else:
            data, more = join(chunks), join(other)
            return data[: int(rng.integers(len(data)))] + more[int(rng.integers(len(more))) :]
    return join(chunks)


def _random(rng, files):
    """Random bytes, alone or after a sound start."""
    size = int(rng.integers(0, 400))
    start = _pick(rng, [b"", join([]), join(chunks_of(_pick(rng, files))[:1])])
    return start + rng.bytes(size)


_SIDES = (0, 1, 2, 255, 256, 4096, 8192, 60_000, 2**20, 2**20 + 1, 2**27, 2**31, 2**32 - 1)
_COUNTS = (0, 1, 2, 3, 64, 4096, 4097, 65_536, 2**22, 2**22 + 1, 10**9, 2**31, 2**32 - 1)
_SMALL = (0, 1, 2, 3, 4, 8, 16, 17, 63, 64, 65, 127, 128, 255)


def _set(rng, payload: bytes, fields) -> bytes:
    """One to three of (offset, format, values) written into a payload, where they fit."""
    payload = bytearray(payload)
    for _ in range(int(rng.integers(1, 4))):
        offset, form, values = _pick(rng, fields)
        if offset + struct.calcsize(form) <= len(payload):
            struct.pack_into(form, payload, offset, _pick(rng, values))
    return bytes(payload)


_HEADER_FIELDS = (
    (0, "<I", _SIDES),
    (4, "<I", _SIDES),
    (8, "B", _SMALL),
    (9, "B", _SMALL),
    (10, "<H", (*_SMALL, 65535)),
)
_STAGE_FIELDS = (
    (0, "B", _SMALL),
    (1, "B", _SMALL),
    (2, "<I", _COUNTS),
    *((offset, "b", (-128, -127, -64, -1, 0, 1, 64, 126, 127)) for offset in range(6, 16)),
)
_FLOATS = (0x7F800000, 0xFF800000, 0x7FC00000, 1, 0x80000000, 0x4B800000, 0x4B800001, 0x35800000, 0x357FFFFF)
_ROW_FIELDS = ((0, "<I", _COUNTS), (4, "<I", _COUNTS), *((8 + 4 * i, "<I", _FLOATS) for i in range(8)))


def _extreme(rng, files):
    """Numbers of the heads set to extremes, under right checksums."""
    chunks = chunks_of(_pick(rng, files))
    fields = {b"AHDR": _HEADER_FIELDS, b"STAG": _STAGE_FIELDS, b"ROWS": _ROW_FIELDS}
    where = [i for i, (tag, _) in enumerate(chunks) if tag in fields]
    for _ in range(int(rng.integers(1, 3))):
        index = _pick(rng, where)
        tag, payload = chunks[index]
        chunks[index] = (tag, _set(rng, payload, fields[tag]))
    return join(chunks)


def _code(rng, files):
    """The code of a compact stage replaced, lengthened or shortened by whole words."""
    chunks = chunks_of(_pick(rng, [data for data in files if b"STAG" in data]))
    index = _pick(rng, [i for i, (tag, _) in enumerate(chunks) if tag == b"STAG"])
    size = {1: 12, 2: 16}[chunks.version]
    head, code = chunks[index][1][:size], chunks[index][1][size:]
    words = 4 * int(rng.integers(0, 40))
    code = _pick(
        rng, [rng.bytes(words), bytes(words), b"\xff" * words, code + rng.bytes(words), code[words:], code[:words]]
    )
    chunks[index] = (chunks[index][0], head + code)
    return join(chunks)


KINDS: dict[str, Callable] = {
    "bytes": _bytes,
    "repaired": _repaired,
    "truncated": _truncated,
    "spliced": _spliced,
    "random": _random,
    "extreme": _extreme,
    "code": _code,
}


def make_case(seed: int, number: int, files: list[bytes]) -> Case:
    """Case `number`; damage under right checksums, which goes deepest, is the most frequent kind."""
    rng = np.random.default_rng((seed, number))
    kind = _pick(rng, [*KINDS, "repaired", "repaired", "spliced", "extreme", "code"])
    return Case(kind, KINDS[kind](rng, files))


# --- the check -------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What the three readers said: "read", or the class of the message (see `message_class`)."""

    decode: str
    partial: str
    info: str


def message_class(message: str) -> str:
    """A message without what it got, its numbers, and tags that mean nothing."""
    message = re.sub(r"\bgot .*", "got ...", message)
    message = re.sub(r"chunk (?!AHDR|ROWS|STAG|AEND)[A-Za-z]{4}\b", "chunk ????", message)
    return re.sub(r"\d[\d.]*", "#", message)


def _partial(data: bytes) -> Encoded:
    return decode(data, partial=True)


def check(data: bytes) -> Outcome:
    """Reads a file in three ways; every exception but AirjaxError comes through.

    Raises:
      AssertionError: a message of several lines, or a partial read at odds with the full one.
    """
    said, sets = [], []
    for read in (decode, _partial, info):
        try:
            sets.append(read(data))
            said.append("read")
        except AirjaxError as error:
            assert str(error) and "\n" not in str(error), f"expected one line, got {error}"
            sets.append(None)
            said.append(message_class(str(error)))
    if sets[0] is not None:
        assert sets[1] is not None and sets[1].stage_counts == sets[0].stage_counts, "partial differs from full"
    return Outcome(*said)


class _Saved:
    """Writes the file of a case that fails, and lets the exception go on."""

    def __init__(self, seed: int, number: int, case: Case):
        self.seed, self.number, self.case = seed, number, case

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None:
            path = Path(f"fuzz_{self.seed}_{self.number}.air")
            path.write_bytes(self.case.data)
            print(f"seed {self.seed}, case {self.number} ({self.case.kind}) failed, saved as {path}", file=sys.stderr)


def peak_memory() -> int:
    """Bytes that the process has had at most so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(args: list[str] | None = None) -> None:
    """Runs the cases and prints what they came to."""
    parser = argparse.ArgumentParser(prog="python tests/helpers/fuzz.py", description="Damaged .air files.")
    parser.add_argument("--cases", type=int, default=100_000, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other cases (default %(default)s)")
    options = parser.parse_args(args)
    files = valid_files()
    for data in files:
        assert check(data) == Outcome("read", "read", "read")
    before = peak_memory()
    outcomes: Counter[tuple] = Counter()
    messages: Counter[str] = Counter()
    slowest = (0.0, 0)
    for number in tqdm(range(options.cases), unit="files", mininterval=1.0, disable=None):
        case = make_case(options.seed, number, files)
        with _Saved(options.seed, number, case):
            start = time.perf_counter()
            outcome = check(case.data)
            seconds = time.perf_counter() - start
            slowest = max(slowest, (seconds, number))
            assert seconds <= MAX_SECONDS, f"expected at most {MAX_SECONDS} s, got {seconds:.2f} s"
            growth = peak_memory() - before
            assert growth <= MAX_MEMORY, f"expected at most {MAX_MEMORY} bytes more, got {growth}"
        outcomes[case.kind, *("read" if part == "read" else "refused" for part in outcome)] += 1
        messages[outcome.decode] += 1
    print(f"slowest: case {slowest[1]}, {slowest[0]:.3f} s; memory: {(peak_memory() - before) / 2**20:.0f} MiB more")
    print("\n     cases  kind        decode    partial   info")
    for (kind, *parts), count in sorted(outcomes.items()):
        print(f"{count:10}  {kind:10}  " + "  ".join(f"{part:8}" for part in parts))
    print("\n     cases  decode says")
    for message, count in messages.most_common():
        print(f"{count:10}  {message}")


if __name__ == "__main__":
    main()
