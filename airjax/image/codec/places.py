"""Where the rows of an image's stages lie: the patches of all their grids in one row of slots.

Letters: S stages, N slots, one for every patch of every stage, stage after stage; n rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from airjax.arrays import AnyArray
from airjax.gaussians import octaves
from airjax.image.codec.quantise import NUM_CODES, Rows, geometry_of
from airjax.raster.tiles import patch_centers, patch_grid


class Layout(NamedTuple):
    """The slots of all stages of an image, one for every patch; static."""

    image_size: tuple[int, int]  # (h, w) pixels
    patch_sizes: tuple[int, ...]  # S, pixels

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of every stage."""
        return tuple(patch_grid(self.image_size, size) for size in self.patch_sizes)

    @property
    def ends(self) -> tuple[int, ...]:
        """S + 1 numbers: slots before each stage, and of all."""
        return tuple(np.cumsum([0, *(rows * columns for rows, columns in self.grids)]).tolist())

    @property
    def num_slots(self) -> int:
        """N."""
        return self.ends[-1]

    def of_stages(self, values: np.ndarray) -> np.ndarray:
        """(N, ..) from (S, ..): to every slot what its stage has."""
        return np.repeat(values, np.diff(self.ends), axis=0)

    def centers(self) -> Float[Array, "N 2"]:
        """(x, y) of the patches, pixels."""
        pairs = zip(self.grids, self.patch_sizes, strict=True)
        return jnp.concatenate([patch_centers(grid, size) for grid, size in pairs])


class Places(NamedTuple):
    """Where rows lie, and how finely their stage is rounded; constants of a refinement.

    Fields:
      slots: their slots in a `Layout`; N for none.
      centers: of their patches, pixels.
      patch_sizes: pixels.
      codes: of their stages (`airjax.image.codec.quantise`).
      around: rows in the eight patches around each, of its stage; n for none.
      first: whether they are of the first stage.
    """

    slots: Int[AnyArray, " n"]
    centers: Float[AnyArray, "n 2"]
    patch_sizes: Float[AnyArray, " n"]
    codes: Float[AnyArray, "n 6"]
    around: Int[AnyArray, "n 8"]
    first: Bool[AnyArray, " n"]


def places_of(codes: Sequence[Float[AnyArray, " 6"]], layout: Layout) -> Places:
    """The places of all slots of a layout, for the codes of every stage."""
    sizes = layout.of_stages(np.asarray(layout.patch_sizes, np.float32))
    rows = [jnp.broadcast_to(c, (k, NUM_CODES)) for c, k in zip(codes, np.diff(layout.ends).tolist(), strict=True)]
    slots = np.arange(layout.num_slots)
    around, first = _around(slots, layout.num_slots, layout), slots < layout.ends[1]
    return Places(slots.astype(np.int32), layout.centers(), sizes, jnp.concatenate(rows), around, first)


def places_at(
    patches: Sequence[np.ndarray], codes: Sequence[np.ndarray], layout: Layout, *, count: int | None = None
) -> Places:
    """The places of these patches of every stage, numpy.

    There are `count` of them, or a power of two; those beyond the patches are nowhere.
    """
    slots = np.concatenate([start + part for start, part in zip(layout.ends[:-1], patches, strict=True)])
    sizes = layout.of_stages(np.asarray(layout.patch_sizes, np.float32))[slots]
    rows = layout.of_stages(np.stack(codes).astype(np.float32))[slots]
    centers = np.asarray(layout.centers())[slots]
    count = octaves(len(slots)) if count is None else count
    missing = (0, count - len(slots))
    return Places(
        np.pad(slots, missing, constant_values=layout.num_slots).astype(np.int32),
        np.pad(centers, (missing, (0, 0))),
        np.pad(sizes, missing, constant_values=1),
        np.pad(rows, (missing, (0, 0))),
        np.pad(_around(slots, count, layout), (missing, (0, 0)), constant_values=count),
        np.pad(slots < layout.ends[1], missing),
    )


def _around(slots: np.ndarray, nowhere: int, layout: Layout) -> Int[np.ndarray, "n 8"]:
    """Which rows are in the eight patches around those of the rows in these slots; `nowhere` for none."""
    row = np.full(layout.num_slots, nowhere, np.int32)
    row[slots] = np.arange(len(slots), dtype=np.int32)
    parts = []
    for (rows, columns), start, end in zip(layout.grids, layout.ends[:-1], layout.ends[1:], strict=True):
        padded = np.pad(row[start:end].reshape(rows, columns), 1, constant_values=nowhere)
        steps = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
        parts.append(np.stack([padded[i : i + rows, j : j + columns].ravel() for i, j in steps], axis=1))
    return np.concatenate(parts)[slots]


def rows_at(
    symbols: Float[AnyArray, "n 8"],
    levels: Float[AnyArray, " n"],
    active: Bool[AnyArray, " n"],
    places: Places,
    layout: Layout,
    codes: Sequence[np.ndarray],
) -> tuple[Rows, ...]:
    """The rows of every stage that are active and somewhere, by patch; `codes` are those of the stages.

    `levels` are the numbers of angles that the symbols mean; where a file has another one (float32 near a limit), the
    angle is the nearest.
    """
    slots: np.ndarray = np.where(np.asarray(active), np.asarray(places.slots), layout.num_slots)
    order = np.argsort(slots, kind="stable")
    slots, whole = slots[order], np.rint(np.asarray(symbols)[order]).astype(np.int64)
    turns = whole[:, 5] / np.asarray(levels)[order]
    stages = []
    for (start, end), size, own in zip(pairwise(layout.ends), layout.patch_sizes, codes, strict=True):
        part = slice(*np.searchsorted(slots, (start, end)))
        stored = geometry_of(whole[part], own).levels
        whole[part, 5] = np.rint(turns[part] * stored).astype(np.int64) % stored
        stages.append(Rows(size, slots[part].astype(np.int64) - start, whole[part], own))
    return tuple(stages)
