"""Which views of a scene serve for what: kept back to measure with, seen by the predictor, compared with one another.

Letters: v views. Views are named by their number in the scene.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from airjax.scene.cameras import Camera

HOLD_OUT = 8  # every so many-th view is kept back, as for LLFF scenes
_BASELINE = 0.25  # of the depth: how far from a view those stand, at best, that it is compared with


def held_out(splits: Sequence[str], *, every: int = HOLD_OUT) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """(views to be seen, views kept back).

    Kept back is what the pose file calls "test", or else every so many-th view from the first one on; none where fewer
    than two would be left.

    Args:
      splits: of each view "train", "test" or "".
      every: >= 0; 0 keeps none back.
    """
    views = np.arange(len(splits))
    marked = np.array([split == "test" for split in splits])
    back = np.zeros(len(views), bool) if every == 0 else marked if marked.any() else views % every == 0
    if np.sum(~back) < 2:
        back[:] = False
    return views[~back], views[back]


def spread(cameras: Camera, count: int) -> Int[np.ndarray, " k"]:
    """At most `count` views of a stack that see different things, in the order of the stack.

    The first is the one nearest to the middle of all; each further one is the one that is least like those before it,
    by where it stands, measured in the mean distance from the middle, and by where it looks.
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
    """At most `count` views nearest to one of them, first those that look the same way, within 60 degrees.

    A view at the very same place sees nothing else, and comes last.
    """
    centers, forward = np.asarray(cameras.center), np.asarray(cameras.forward)
    distances = np.linalg.norm(centers - centers[i], axis=1)
    away = np.where(forward @ forward[i] > 0.5, 0.0, 1e6) + np.where(distances > 0, distances, np.inf)
    order = np.argsort(away, kind="stable")
    return order[order != i][:count]


def comparisons(
    cameras: Camera, chosen: Sequence[int], *, near: float, far: float, count: int = 2
) -> Int[np.ndarray, "k m"]:
    """The `sets` of `airjax.scene.predictor.predict`: each chosen view, and the views that tell most of its depths.

    Those stand aside by a quarter of the depth at best and look the same way: nearer ones see too little of a
    difference, and ones farther away see something else.

    Args:
      cameras: a stack of all views.
      chosen: views that get Gaussians.
      near, far: depths of the scene.
      count: views that each is compared with.
    """
    centers, forward = np.asarray(cameras.center, float), np.asarray(cameras.forward, float)
    depth = 2 / (1 / near + 1 / far)
    sets = []
    for i in chosen:
        aside = centers - centers[i]
        aside = np.linalg.norm(aside - (aside @ forward[i])[:, None] * forward[i], axis=1) / (_BASELINE * depth)
        apart = np.linalg.norm(centers - centers[i], axis=1) / (_BASELINE * depth)
        angle = np.arccos(np.clip(forward @ forward[i], -1, 1)) / 0.5
        cost = np.abs(np.log(np.maximum(aside, 1e-6))) + np.maximum(apart - 1, 0) + angle**2
        order = np.argsort(cost, kind="stable")
        sets.append([i, *order[order != i][:count]])
    return np.array(sets)
