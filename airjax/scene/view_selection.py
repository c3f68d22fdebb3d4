"""View selection: held-out views, views that are spread over a scene, and the source views of each.

Letters: v views. Views are named by their number in the scene.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from airjax.scene.cameras import Camera
from airjax.scene.defaults import HOLD_OUT

_BASELINE = 0.25  # of the depth: the best distance between two views that are compared


def held_out(splits: Sequence[str], *, every: int | None = None) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """(views that are given, views that are held out).

    Validation views ("val") are neither, unless there are too few others. Nothing is held out where fewer than two
    views would be left.

    Args:
      splits: "train", "val", "test" or "" for each view.
      every: >= 0; every N-th view is held out, from the first one on, and marks do not count; 0 holds out none. None
        for the views marked "test", or every `HOLD_OUT`-th where there is no such mark.
    """
    views = np.array([i for i, split in enumerate(splits) if split != "val"])
    if len(views) < 2:
        views = np.arange(len(splits))
    marked = np.array([splits[i] == "test" for i in views])
    if every is None and marked.any():
        held = marked
    else:
        every = HOLD_OUT if every is None else every
        held = np.arange(len(views)) % every == 0 if every else np.zeros(len(views), bool)
    if np.sum(~held) < 2:
        held = np.zeros(len(views), bool)
    return views[~held], views[held]


def spread(cameras: Camera, count: int) -> Int[np.ndarray, " k"]:
    """At most `count` views of a stack that show different parts of a scene, in the order of the stack.

    Farthest-point selection: the first view is the one nearest to the mean of all, each further one differs most from
    those before it, in its place (in units of the mean distance from the middle) and in twice its direction.
    """
    centers, forward = np.asarray(cameras.center), np.asarray(cameras.forward)
    size = np.mean(np.linalg.norm(centers - centers.mean(axis=0), axis=1))
    place = np.concatenate([centers / max(size, 1e-12), 2 * forward], axis=1)
    chosen = [int(np.argmin(np.linalg.norm(place - place.mean(axis=0), axis=1)))]
    while len(chosen) < min(count, len(place)):
        apart = np.linalg.norm(place[:, None] - place[None, chosen], axis=-1).min(axis=1)
        chosen.append(int(np.argmax(apart)))
    return np.sort(np.array(chosen))


def nearest(cameras: Camera, i: int, count: int) -> Int[np.ndarray, " k"]:
    """At most `count` views nearest to view `i`, those whose directions differ by less than 60 degrees first.

    A view at the very same place has no parallax, and comes last.
    """
    centers, forward = np.asarray(cameras.center), np.asarray(cameras.forward)
    distances = np.linalg.norm(centers - centers[i], axis=1)
    away = np.where(forward @ forward[i] > 0.5, 0.0, 1e6) + np.where(distances > 0, distances, np.inf)
    order = np.argsort(away, kind="stable")
    return order[order != i][:count]


def comparisons(
    cameras: Camera, chosen: Sequence[int] | np.ndarray, *, depths: Float[np.ndarray, " v"], count: int = 2
) -> Int[np.ndarray, "k m"]:
    """The `sets` of `airjax.scene.predictor.predict`: each chosen view, and its best source views.

    The `count` best ones look the same way from a quarter of the depth aside: nearer ones have too little parallax, and
    ones farther away show something else. `depths` are those of each view, about, in world units.
    """
    centers, forward = np.asarray(cameras.center, float), np.asarray(cameras.forward, float)
    sets = []
    for i in chosen:
        depth = depths[i]
        aside = centers - centers[i]
        aside = np.linalg.norm(aside - (aside @ forward[i])[:, None] * forward[i], axis=1) / (_BASELINE * depth)
        apart = np.linalg.norm(centers - centers[i], axis=1) / (_BASELINE * depth)
        angle = np.arccos(np.clip(forward @ forward[i], -1, 1)) / 0.5
        cost = np.abs(np.log(np.maximum(aside, 1e-6))) + np.maximum(apart - 1, 0) + angle**2
        order = np.argsort(cost, kind="stable")
        sets.append([i, *order[order != i][:count]])
    return np.array(sets)
