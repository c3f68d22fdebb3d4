"""The constant tables of compact files (`airjax.image.codec.tables`): python -m train.image.code_tables FILES OUT

FILES is a folder of compact .air files of training photographs, of any version: many qualities, and efforts. For every
group of channels the stages of all files are shared out among the sets so that each is coded by the set that suits it
best, and each set is the mean of what it codes, again and again (Lloyd's algorithm, with bits for distances).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from airjax.errors import AirjaxError, FormatError
from airjax.image.codec import air_file
from airjax.image.codec.payload import encoders
from airjax.image.codec.tables import (
    ANGLES,
    ASPECT,
    COLORS,
    GROUPS,
    MASK,
    NUM_SETS,
    NUM_TOKENS,
    OFFSETS,
    PRECISION,
    SCALE,
    counts_of,
    frequencies,
    pack_sets,
    start_counts,
)

_ROUNDS = 12
_PRIOR = 20.0  # symbols that the start of a learning table counts as


def symbols_seen(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """(stages, tables, T) counts of tokens of every group, a row for each stage of each file."""
    seen: dict[str, list[np.ndarray]] = {name: [] for name in GROUPS}
    for file in files:
        try:
            quantised = air_file.decode_quantised(file.read_bytes())
        except FormatError as error:
            raise FormatError(f"{file}: {error}") from error
        for _, encoder in encoders(quantised, 2):
            for name, counts in encoder.seen().items():
                seen[name].append(counts)
    empty = {name: np.zeros((0, group.tables, NUM_TOKENS), np.int64) for name, group in GROUPS.items()}
    return {name: np.stack(parts) if parts else empty[name] for name, parts in seen.items()}


def prior_of(name: str) -> np.ndarray:
    """(tables, T) probabilities before any photograph: what learning tables of version 1 start with."""
    channels = [c for c in (MASK, *COLORS, SCALE, ASPECT, *ANGLES, *OFFSETS) if c.group == name]
    rows = np.array([start_counts(c.mean, c.weight, c.signed, c.most) for c in channels], float)
    rows = np.broadcast_to(rows, (GROUPS[name].tables, NUM_TOKENS)) if len(rows) == 1 else rows
    return rows / rows.sum(axis=1, keepdims=True)


def logarithms_of(counts: np.ndarray, name: str) -> np.ndarray:
    """(.., tables, steps) bytes for counts (.., tables, T), see `airjax.image.codec.tables.counts_of`."""
    group = GROUPS[name]
    counts = counts + _PRIOR * prior_of(name)
    by_step = counts[..., ::2].copy()
    by_step[..., 1:] += counts[..., 1::2]
    share = by_step[..., : group.steps] / by_step.sum(axis=-1, keepdims=True)
    return np.clip(np.rint(-8 * np.log2(np.maximum(share, 2.0**-40))), 0, 255).astype(np.uint8)


def bits_with(seen: np.ndarray, logarithms: np.ndarray, name: str) -> np.ndarray:
    """(stages, sets) bits of stages coded with sets of tables."""
    likely = frequencies(counts_of(logarithms, signed=GROUPS[name].signed))
    bits = PRECISION - np.log2(likely)
    return seen.reshape(len(seen), -1) @ bits.reshape(len(bits), -1).T


def train_sets(seen: np.ndarray, name: str) -> np.ndarray:
    """(NUM_SETS, tables, steps) bytes for stages (n, tables, T)."""
    total = seen.sum(axis=(1, 2))
    size = (seen @ ((np.arange(NUM_TOKENS) + 1) // 2)).sum(axis=1) / np.maximum(total, 1)
    own = np.argsort(np.argsort(size)) * NUM_SETS // len(size)  # at first by mean magnitude
    sets = np.zeros(0)
    for _ in range(_ROUNDS):
        sums = np.stack([seen[own == number].sum(axis=0) for number in range(NUM_SETS)])
        sets = logarithms_of(sums, name)
        own = np.argmin(bits_with(seen, sets, name), axis=1)
    return sets


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the files, writes the tables, and says what they bring on files left out."""
    parser = argparse.ArgumentParser(prog="python -m train.image.code_tables", description=__doc__)
    parser.add_argument("files", type=Path, help="folder of compact .air files")
    parser.add_argument("out", type=Path, help="file of tables to write")
    parser.add_argument("--held-out", type=int, default=0, help="every so many-th file is for the test alone (0: none)")
    options = parser.parse_args(argv)
    files = sorted(options.files.glob("*.air"))
    every = options.held_out
    held = files[::every] if every else []
    if len(files) <= len(held):
        parser.error(f"{options.files}: expected compact .air files, found {len(files)}, {len(held)} of them held out")
    try:
        seen = symbols_seen([file for file in files if file not in set(held)])
    except AirjaxError as error:
        parser.error(str(error))
    sets = {name: train_sets(seen[name], name) for name in GROUPS}
    options.out.write_bytes(pack_sets(sets))
    print(f"{options.out}: {options.out.stat().st_size:,} bytes, from {len(files) - len(held)} files")
    if held:
        test = symbols_seen(held)
        for name in GROUPS:
            bits = bits_with(test[name], sets[name], name).min(axis=1).sum()
            print(f"{name}: {bits / test[name].sum():.3f} bits a symbol on {len(held)} files left out")


if __name__ == "__main__":
    main()
