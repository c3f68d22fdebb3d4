"""Which photographs to compare: all with all while they are few, else neighbors and those that look alike.

Letters: v views, d numbers of a local descriptor.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.cluster.vq import kmeans2

MOST_EXHAUSTIVE = 60  # photographs up to which all pairs are compared
_WORDS, _SAMPLE, _SEED = 64, 400, 0  # words of the vocabulary, descriptors of a photograph that it is made of


def all_pairs(count: int) -> list[tuple[int, int]]:
    """Every pair of `count` photographs, (i, j) with i < j."""
    return list(itertools.combinations(range(count), 2))


def near_and_alike(descriptors: Sequence[np.ndarray], *, neighbors: int = 8, alike: int = 16) -> list[tuple[int, int]]:
    """Pairs (i, j) with i < j: of each photograph with the next ones in the order given, and those most alike.

    `descriptors` holds an array (n, d) for each photograph, n may be 0. Neighbors are the next `neighbors`, and those
    that are 16, 32, .. ahead, which join a slow walk; `alike` photographs by their `signatures` close loops.
    """
    count = len(descriptors)
    steps = [*range(1, neighbors + 1), *(2**k for k in range(4, 10) if 2**k > neighbors)]
    pairs = {(i, i + step) for i in range(count) for step in steps if i + step < count}
    likeness = (table := signatures(descriptors)) @ table.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, : min(alike, count - 1)]
    pairs |= {(min(i, int(j)), max(i, int(j))) for i in range(count) for j in nearest[i]}
    return sorted(pairs)


def signatures(descriptors: Sequence[np.ndarray]) -> np.ndarray:
    """(v, words * d) float32 of length 1, near each other for photographs of the same things; 0 without descriptors.

    Sums of differences from the nearest word of a vocabulary (VLAD), which is made of the photographs themselves.
    """
    width = max((array.shape[1] for array in descriptors if len(array)), default=1)
    random = np.random.default_rng(_SEED)
    samples = [array[random.permutation(len(array))[:_SAMPLE]] for array in descriptors if len(array)]
    if not samples:
        return np.zeros((len(descriptors), width), np.float32)
    sample = np.concatenate(samples).astype(np.float32)
    words, _ = kmeans2(sample, min(_WORDS, len(sample)), iter=10, minit="points", rng=np.random.default_rng(_SEED))
    rows = [_signature(np.asarray(array, np.float32).reshape(-1, width), words) for array in descriptors]
    return np.stack(rows)


def _signature(array: np.ndarray, words: np.ndarray) -> np.ndarray:
    nearest = np.argmin((words**2).sum(axis=1) - 2 * array @ words.T, axis=1)
    sums = np.zeros_like(words)
    np.add.at(sums, nearest, array - words[nearest])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    row = np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0).ravel()
    return row / max(float(np.linalg.norm(row)), 1e-12)
