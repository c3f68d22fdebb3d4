"""Which photographs are compared with which."""

import numpy as np
import pytest

from airjax.scene.pairs import all_pairs, near_and_alike, signatures


def descriptors(places, seed=0):
    """Of photographs at places along a walk, which show what lies within 2 steps of them; (n, 8) each."""
    random = np.random.default_rng(seed)
    things = random.integers(0, 256, (max(places) + 5, 40, 8))
    noise = [random.integers(-3, 4, (5, 40, 8)) for _ in places]
    return [
        (things[p : p + 5] + n).reshape(-1, 8).clip(0, 255).astype(np.uint8) for p, n in zip(places, noise, strict=True)
    ]


def test_all_pairs_are_each_once():
    assert all_pairs(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_neighbors_and_ever_longer_steps_are_compared():
    nothing = [np.zeros((0, 8), np.uint8)] * 40
    pairs = near_and_alike(nothing, neighbors=2, alike=0)
    assert {b - a for a, b in pairs} == {1, 2, 16, 32} and (38, 39) in pairs


def test_a_walk_that_comes_back_is_closed():
    """Photographs of the same things find each other, however far apart they were taken in time."""
    places = [*range(0, 60, 2), *range(0, 60, 2)]  # twice along the same way
    pairs = near_and_alike(descriptors(places), neighbors=1, alike=3)
    assert sum((i, i + 30) in pairs for i in range(30)) == 30
    assert len(pairs) < len(all_pairs(60)) / 4


def test_the_order_does_not_matter_to_what_looks_alike():
    places = list(range(0, 40, 2))
    shuffled = np.random.default_rng(1).permutation(20)
    pairs = near_and_alike(descriptors([places[i] for i in shuffled]), neighbors=0, alike=2)
    steps = [abs(int(shuffled[i]) - int(shuffled[j])) for i, j in pairs if abs(i - j) < 16]
    assert np.median(steps) == 1


@pytest.mark.parametrize("count", [0, 1, 5])
def test_photographs_with_few_features_or_none_have_signatures(count):
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (count, 8), dtype=np.uint8), np.zeros((0, 8), np.uint8)]
    found = signatures(arrays)
    assert np.isfinite(found).all() and len(found) == 2 and not found[1].any()
