"""Planning: how large the tile lists of a concrete set must be. Both renderers use it.

JAX compiles for static sizes. They are counted on the set itself and taken from a coarse ladder
(`airjax.gaussians.ladder`), so that sets of about the same size share what is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from airjax.errors import AirjaxError
from airjax.gaussians import ladder
from airjax.programs import kept
from airjax.raster.tiles import (
    Capacity,
    Footprints,
    TileLists,
    Tiling,
    num_chunks,
    num_pairs,
    room_for,
    sorted_lists,
)

MAX_PAIRS = 2**24  # (Gaussian, tile) pairs that are drawn in one piece: about 2 GB while it is drawn


def is_traced(*trees: Any) -> bool:
    """Whether the caller is inside `jit`, or any array of the trees inside another JAX transformation."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in (*jax.tree.leaves(trees), jnp.zeros(())))


def check_request(image_size: tuple[int, int], scale: float, tile_size: int) -> None:
    """Raises ValueError for sizes that no renderer can draw."""
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size: expected (h, w) of at least 1, got {image_size}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale: expected a finite number > 0, got {scale}")
    if tile_size < 1:
        raise ValueError(f"tile_size: expected at least 1, got {tile_size}")


def scaled_size(image_size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(h, w) of an image drawn at a scale: rounded, at least one pixel."""
    height, width = (max(1, round(side * scale)) for side in image_size)
    return height, width


def roomy(image_size: tuple[int, int], tile_size: int) -> Tiling:
    """The tiles of an image in arrays that images of other sizes share."""
    return Tiling(image_size, tile_size, room=room_for(image_size, tile_size))


def count_pairs(footprints: Footprints, tiling: Tiling) -> int:
    """Number of (Gaussian, tile) pairs of concrete footprints, boxes against tiles."""
    return int(_num_pairs(footprints, tiling))


def count_needs(footprints: Footprints, tiling: Tiling) -> tuple[int, int]:
    """Pairs and chunks of concrete footprints; AirjaxError for more pairs than MAX_PAIRS."""
    pairs = count_pairs(footprints, tiling)
    check_pairs(pairs)
    return pairs, int(_num_chunks(footprints, tiling, max_pairs=ladder(pairs)))


def plan_lists(
    footprints: Footprints, tiling: Tiling, *, pairs: int | None = None, size_of: Callable[[int], int]
) -> TileLists:
    """Tile lists of concrete footprints, with room for a number of pairs from a ladder.

    `pairs` is the result of `count_pairs`, where it is known already. AirjaxError for more of them than MAX_PAIRS.
    """
    pairs = count_pairs(footprints, tiling) if pairs is None else pairs
    check_pairs(pairs)
    return _lists(footprints, replace(tiling, room=tiling.num_tiles), capacity=size_of(pairs))


def check_pairs(pairs: int) -> None:
    """Raises AirjaxError for more pairs than are drawn in one piece."""
    if pairs > MAX_PAIRS:
        raise AirjaxError(
            f"Gaussians: expected to touch at most {MAX_PAIRS} tiles, got {pairs}; draw fewer or smaller ones, "
            "or at a smaller scale"
        )


def too_small(capacity: int | Capacity, pairs: int, chunks: int) -> ValueError:
    """The error for a capacity that a concrete set does not fit."""
    given = capacity if isinstance(capacity, Capacity) else Capacity(capacity)
    if given.pairs < pairs or given.chunks is None:
        return ValueError(f"capacity: expected at least {pairs} pairs for this set, got {given.pairs}")
    return ValueError(f"capacity: expected at least {chunks} chunks for this set, got {given.chunks}")


_num_pairs = kept()(num_pairs)
_num_chunks = kept(static_argnames=("tiling", "max_pairs"))(num_chunks)
_lists = kept(static_argnames="capacity")(sorted_lists)
