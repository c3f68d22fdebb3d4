"""Drawing as the released program of AIR does it: a tile has only its first Gaussians, and only near ones.

For the residuals that its weights were trained with; `airjax.raster.draw.render` draws all of a set.

Letters: n Gaussians, K (Gaussian, tile) pairs, B side of a tile in pixels.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from airjax.gaussians import Gaussians2D, extents, octaves, only_active, pad
from airjax.image.stages import Release
from airjax.programs import kept
from airjax.raster.additive import render_lists
from airjax.raster.tiles import CHUNK, TileLists, Tiling, patch_grid

TILE = 16  # B
_RADIUS, _LEAST_SPREAD = 3.0, 0.1  # standard deviations, and what the release adds to the larger one at least, squared


def draw(gaussians: Gaussians2D, image_size: tuple[int, int], release: Release) -> Float[np.ndarray, "h w c"]:
    """The image of a concrete set, its Gaussians in the order of the stages; not clipped."""
    gaussians = only_active(gaussians)
    lists = lists_of(gaussians, image_size, release)
    padded = pad(gaussians, octaves(gaussians.num_slots))
    return np.asarray(_drawn(padded, lists, tiling=Tiling(image_size, TILE)))


def radii_of(gaussians: Gaussians2D) -> Float[np.ndarray, " n"]:
    """The release's bound of a Gaussian, whole pixels: 3 standard deviations of the longer axis, rounded up."""
    variances = np.square(np.asarray(gaussians.scales, np.float64))
    half, product = variances.mean(axis=1), variances.prod(axis=1)
    return np.ceil(_RADIUS * np.sqrt(half + np.sqrt(np.maximum(_LEAST_SPREAD, half**2 - product))))


def lists_of(gaussians: Gaussians2D, image_size: tuple[int, int], release: Release) -> TileLists:
    """Tile lists of a set that has only active slots, and is then padded to `octaves`; in a tile in its order."""
    rows, columns = patch_grid(image_size, TILE)
    if release.tile_bound:
        half = np.repeat(radii_of(gaussians)[:, None], 2, axis=1)
    else:
        half = np.asarray(extents(gaussians), np.float64)
    centers, limits = np.asarray(gaussians.means, np.float64) - 0.5, np.array([columns, rows])
    first = np.clip(np.floor((centers - half) / TILE), 0, limits).astype(np.int64)
    past = np.clip(np.floor((centers + half) / TILE + 1), first, limits).astype(np.int64)
    tile, index = _pairs(first, past, columns)
    order = np.argsort(tile, kind="stable")
    tile, index = tile[order], index[order]
    rank = np.arange(len(tile)) - np.searchsorted(tile, tile)
    if release.tile_cap is not None:
        within = rank < release.tile_cap
        tile, index, rank = tile[within], index[within], rank[within]
    chunks = -(-np.bincount(tile, minlength=rows * columns) // CHUNK)
    starts = np.cumsum(chunks) - chunks
    count = octaves(int(chunks.sum()))
    ids = np.full((CHUNK, count), octaves(gaussians.num_slots), np.int32)
    ids[rank % CHUNK, starts[tile] + rank // CHUNK] = index
    tiles = np.full(count, rows * columns, np.int32)
    tiles[: chunks.sum()] = np.repeat(np.arange(rows * columns), chunks)
    return TileLists(*map(jnp.asarray, (ids, tiles, np.zeros((), bool))))


def _pairs(
    first: Int[np.ndarray, "n 2"], past: Int[np.ndarray, "n 2"], columns: int
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """(tile, Gaussian) of every tile in the boxes of all Gaussians, Gaussian by Gaussian."""
    widths, counts = past[:, 0] - first[:, 0], (past - first).prod(axis=1)
    index = np.repeat(np.arange(len(counts)), counts)
    k = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    return (first[index, 1] + k // widths[index]) * columns + first[index, 0] + k % widths[index], index


@kept(static_argnames="tiling")
def _drawn(gaussians, lists, *, tiling):
    return render_lists(gaussians, lists, tiling)
