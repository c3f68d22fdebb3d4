"""Which Gaussians touch which tile: static lists from a patch grid, sorted lists for any set.

Letters: n Gaussians, T tiles, K (Gaussian, tile) pairs, L slots of a chunk, M chunks. A tile's list is cut into chunks
of L slots, so that lists of any length fit static shapes without a bound per tile. Only the pairs of the whole image
have a capacity, and overflow is reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from airjax.arrays import AnyArray, size_of
from airjax.gaussians import CUTOFF_RADIUS, Gaussians2D, extents, factors

CHUNK = 8  # slots of a chunk: half a chunk per tile is empty on average, and a chunk costs one row of the image sum


class Capacity(NamedTuple):
    """Static sizes of sorted lists."""

    pairs: int  # largest number of (Gaussian, tile) pairs, boxes against tiles, as counted by `pair_counts`
    chunks: int | None = None  # as many at most; None for the most that `pairs` can need


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tiling:
    """The tiles of an image, row by row.

    Static, or an argument of a jitted function: the image size is then traced, and `room` must be given.
    """

    image_size: tuple[Any, Any]  # (h, w) pixels, int or traced; tiles of the last row and column may hang over
    tile_size: int = field(metadata={"static": True})  # B, pixels
    # the box of a Gaussian covers whole blocks of so many tiles on a side
    block_tiles: int = field(default=1, metadata={"static": True})
    # T, where arrays have more tiles than the image; the last ones stay empty
    room: int | None = field(default=None, metadata={"static": True})

    @property
    def grid(self) -> tuple[Any, Any]:
        """(rows, columns) of tiles."""
        return patch_grid(self.image_size, self.tile_size)

    @property
    def num_tiles(self) -> int:
        """Number of tiles T of an array."""
        return self.grid[0] * self.grid[1] if self.room is None else self.room


class TiledImage(NamedTuple):
    """An image cut into tiles, on which images of many sizes look alike.

    Fields:
      tiles: the pixels of each tile, channel by channel, k = c Q; NaN where there is no image.
      size: (h, w) pixels.
    """

    tiles: Float[AnyArray, "T k"]
    size: Int[AnyArray, " 2"]

    def tiling(self, tile_size: int) -> Tiling:
        """Its tiles."""
        return Tiling((self.size[0], self.size[1]), tile_size, room=self.tiles.shape[0])


def room_for(image_size: tuple[int, int], tile_size: int) -> int:
    """Tiles of arrays for an image, of few numbers: powers of two from 512 on, every other one of those below 2^15."""
    rows, columns = patch_grid(image_size, tile_size)
    exponent = max(9, math.ceil(math.log2(rows * columns)))
    return 2 ** (exponent if exponent > 15 else exponent | 1)


def tiled(image: Float[np.ndarray, "h w c"], tile_size: int) -> TiledImage:
    """A concrete image in tiles, with the room of `room_for`."""
    size, (rows, columns) = image.shape[:2], patch_grid(size_of(image), tile_size)
    missing = (rows * tile_size - size[0], columns * tile_size - size[1])
    image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), constant_values=np.nan)
    tiles = image.reshape(rows, tile_size, columns, tile_size, -1).transpose(0, 2, 4, 1, 3).reshape(rows * columns, -1)
    room = room_for(size_of(image), tile_size) - len(tiles)
    return TiledImage(np.pad(tiles, ((0, room), (0, 0)), constant_values=np.nan), np.array(size, np.int32))


def untiled(tiles: Float[AnyArray, "T k"], image_size: tuple[int, int], tile_size: int) -> Float[np.ndarray, "h w c"]:
    """The (h, w) image that concrete tiles show."""
    rows, columns = patch_grid(image_size, tile_size)
    image = np.asarray(tiles)[: rows * columns].reshape(rows, columns, -1, tile_size, tile_size)
    image = image.transpose(0, 3, 1, 4, 2).reshape(rows * tile_size, columns * tile_size, -1)
    return np.ascontiguousarray(image[: image_size[0], : image_size[1]])


class PatchGrid(NamedTuple):
    """Patches of a predicted set, one Gaussian each: the tiles of static lists."""

    shape: tuple[int, int]  # (rows, columns) of patches
    size: int  # side of a patch, pixels
    rings: int  # how many patches away, on each axis, a Gaussian can still be drawn


class TileLists(NamedTuple):
    """Sorted tile lists in chunks."""

    ids: Int[Array, "L M"]  # index of the Gaussian in each slot of each chunk; n where the slot is empty
    tiles: Int[Array, " M"]  # tile of each chunk, row by row; T where the chunk is unused
    overflow: Bool[Array, ""]  # whether they did not fit the capacity: then they are incomplete, not to be used


class Footprints(NamedTuple):
    """Where n Gaussians are drawn: the input of tile lists."""

    means: Float[Array, "n 2"]  # pixels
    half_extents: Float[Array, "n 2"]  # half width and half height of a box outside which nothing is drawn, pixels
    factors: Float[Array, "n 3"]  # p, r, s of `airjax.gaussians.factors`, 1/pixel
    limits: Float[Array, " n"]  # largest exponent |U d|^2 / 2 that is drawn
    active: Bool[AnyArray, " n"]  # slots in use


def footprints_of(gaussians: Gaussians2D) -> Footprints:
    """Where additive Gaussians are drawn: up to the cut-off ellipse. Constants to every gradient."""
    gaussians = jax.lax.stop_gradient(without_colors(gaussians))
    means = jnp.where(gaussians.active[:, None], gaussians.means, 0.0)
    limits = jnp.full((gaussians.num_slots,), 0.5 * CUTOFF_RADIUS**2, means.dtype)
    return Footprints(means, extents(gaussians), factors(gaussians), limits, gaussians.active)


def slot_table(gaussians: Gaussians2D) -> Float[Array, "m k"]:
    """(n + 1, 5 + c) rows of `accumulate`: mean, factor, colours; inactive rows and the last one are empty."""
    active = gaussians.active[:, None]
    table = jnp.concatenate(
        [jnp.where(active, gaussians.means, 0.0), factors(gaussians), jnp.where(active, gaussians.colors, 0.0)], axis=-1
    )
    blank = jnp.zeros((1, table.shape[1]), table.dtype).at[:, 2:5:2].set(1.0)
    return jnp.concatenate([table, blank])


def without_colors(gaussians: Gaussians2D) -> Gaussians2D:
    """The geometry alone, no colour channel: JAX's transposes then see no dependence on colours."""
    return gaussians.with_colors(jnp.zeros((gaussians.num_slots, 0), gaussians.colors.dtype))


def tile_ranges(footprints: Footprints, tiling: Tiling) -> Int[Array, "n 4"]:
    """First and one past the last tile column, then row, of each box; empty for a non-finite or off-canvas Gaussian."""
    (rows, columns), block_tiles = tiling.grid, tiling.block_tiles
    half = footprints.half_extents * (1 + 1e-5)  # rounding of the box must never lose a pixel
    limits = jnp.array([columns, rows], jnp.int32)
    bound = 2.0**30 / block_tiles

    def block(x):
        x = jnp.clip(jnp.nan_to_num(x / (tiling.tile_size * block_tiles), nan=0.0), -bound, bound)
        return jnp.floor(x).astype(jnp.int32)

    first = block(footprints.means - half) * block_tiles
    last = (block(footprints.means + half) + 1) * block_tiles
    first, last = jnp.clip(first, 0, limits[None]), jnp.clip(last, 0, limits[None])
    visible = footprints.active & jnp.all(jnp.isfinite(footprints.means) & jnp.isfinite(half), axis=-1)
    last = jnp.where(visible[:, None], last, first)
    return jnp.stack([first[:, 0], last[:, 0], first[:, 1], last[:, 1]], axis=-1)


def pair_counts(footprints: Footprints, tiling: Tiling) -> Int[Array, " n"]:
    """How many tiles the box of each Gaussian touches: their sum is the capacity that `sorted_lists` needs."""
    left, right, top, bottom = tile_ranges(footprints, tiling).T
    return (right - left) * (bottom - top)


def num_pairs(footprints: Footprints, tiling: Tiling) -> Int[Array, ""]:
    """Number of (Gaussian, tile) pairs, boxes against tiles; 2^31 - 1 where it might exceed 2^30."""
    return _saturating_sum(pair_counts(footprints, tiling))


def _saturating_sum(counts: Int[Array, " n"]) -> Int[Array, ""]:
    """An int32 sum, exact until it wraps around; the float sum says when it might have."""
    too_many = jnp.sum(counts, dtype=jnp.float32) > 2.0**30
    return jnp.where(too_many, jnp.int32(2**31 - 1), jnp.sum(counts, dtype=jnp.int32))


def _touches(
    slots: Float[Array, "K 6"], tile_x: Float[Array, " K"], tile_y: Float[Array, " K"], tile_size: int
) -> Bool[Array, " K"]:
    """Whether the ellipse of a slot (mean, factor, limit) reaches the box of the tile's pixel centres.

    Exact up to a safe rounding margin. The exponent is convex, so for a mean outside the box its minimum lies on one of
    the two sides that face the mean.
    """
    half = (tile_size - 1) / 2
    u, v = slots[:, 0] - tile_x, slots[:, 1] - tile_y
    p, r, s = slots[:, 2], slots[:, 3], slots[:, 4]

    def exponent(x, y):
        dx, dy = x - u, y - v
        return 0.5 * ((p * dx + r * dy) ** 2 + (s * dy) ** 2)

    side_x, side_y = jnp.clip(u, -half, half), jnp.clip(v, -half, half)
    on_x = exponent(side_x, jnp.clip(v - p * r / (r * r + s * s) * (side_x - u), -half, half))
    on_y = exponent(jnp.clip(u - r / p * (side_y - v), -half, half), side_y)
    limit = slots[:, 5]
    return jnp.minimum(on_x, on_y) <= limit + 1e-3 * jnp.abs(limit)


def _list_pairs(
    footprints: Footprints, tiling: Tiling, num_pairs: int
) -> tuple[Int[Array, " K"], Int[Array, " K"], Bool[Array, ""]]:
    """Tile and Gaussian of each of K pairs, Gaussian by Gaussian, and whether there are more than K.

    The tile is T where the ellipse does not reach the tile of its box, and for pairs that do not exist.
    """
    n = footprints.means.shape[0]
    footprints = jax.lax.stop_gradient(footprints)
    ranges = tile_ranges(footprints, tiling)
    widths = ranges[:, 1] - ranges[:, 0]
    counts = widths * (ranges[:, 3] - ranges[:, 2])
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    # Pair p belongs to Gaussian g and is the k-th tile of its box.
    p = jnp.arange(num_pairs, dtype=jnp.int32)
    g = jnp.repeat(jnp.arange(n, dtype=jnp.int32), counts, total_repeat_length=num_pairs)
    k = p - (ends - counts)[g]
    width = jnp.maximum(widths[g], 1)
    column, row = ranges[g, 0] + k % width, ranges[g, 2] + k // width
    center_x, center_y = ((i.astype(footprints.means.dtype) + 0.5) * tiling.tile_size for i in (column, row))
    table = jnp.concatenate([footprints.means, footprints.factors, footprints.limits[:, None]], axis=1)
    drawn = (p < ends[-1]) & _touches(table[g], center_x, center_y, tiling.tile_size)
    return jnp.where(drawn, row * tiling.grid[1] + column, tiling.num_tiles), g, _saturating_sum(counts) > num_pairs


def _tile_sizes(tile: Int[Array, " K"], num_tiles: int) -> Int[Array, " T"]:
    """How many pairs each tile has."""
    return jnp.zeros((num_tiles + 1,), jnp.int32).at[tile].add(1)[:num_tiles]


def num_chunks(footprints: Footprints, tiling: Tiling, *, max_pairs: int) -> Int[Array, ""]:
    """Number of chunks that the lists of a set fill; it has at most `max_pairs` pairs."""
    tile, _, _ = _list_pairs(footprints, tiling, max_pairs)
    return jnp.sum(-(-_tile_sizes(tile, tiling.num_tiles) // CHUNK), dtype=jnp.int32)


def sorted_lists(footprints: Footprints, tiling: Tiling, *, capacity: int | Capacity) -> TileLists:
    """Tile lists of any set; within a tile in the order of the set.

    `capacity` is at least 1; a number is that of the pairs. By default there are pairs // L + T chunks, always enough.
    """
    max_pairs, max_chunks = capacity if isinstance(capacity, Capacity) else (capacity, None)
    if max_pairs < 1:
        raise ValueError(f"capacity: expected at least 1 pair, got {max_pairs}")
    num_tiles, n = tiling.num_tiles, footprints.means.shape[0]
    max_chunks = max_pairs // CHUNK + min(num_tiles, max_pairs) if max_chunks is None else max_chunks
    tile, g, overflow = _list_pairs(footprints, tiling, max_pairs)
    tile, g = _sort_by_tile(tile, g, num_tiles, n)
    sizes = _tile_sizes(tile, num_tiles)
    chunks = -(-sizes // CHUNK)
    first_pair, first_chunk = (
        jnp.concatenate([jnp.zeros((1,), jnp.int32), jnp.cumsum(a, dtype=jnp.int32)]) for a in (sizes, chunks)
    )
    overflow = overflow | (first_chunk[-1] > max_chunks)
    rank = jnp.arange(max_pairs, dtype=jnp.int32) - first_pair[tile]
    position = (rank % CHUNK) * max_chunks + first_chunk[tile] + rank // CHUNK
    position = jnp.where(tile < num_tiles, position, CHUNK * max_chunks)
    ids = jnp.full((CHUNK * max_chunks,), n, jnp.int32).at[position].set(g, mode="drop")
    tiles = jnp.repeat(jnp.arange(num_tiles, dtype=jnp.int32), chunks, total_repeat_length=max_chunks)
    tiles = jnp.where(jnp.arange(max_chunks, dtype=jnp.int32) < first_chunk[-1], tiles, num_tiles)
    return TileLists(ids.reshape(CHUNK, max_chunks), tiles, overflow)


def _sort_by_tile(tile, g, num_tiles, n):
    """Pairs ordered by tile, by one packed 32-bit key where it fits: XLA sorts a single key five times faster."""
    bits = max(1, (n - 1).bit_length())
    if num_tiles.bit_length() + bits > 32:
        return jax.lax.sort((tile, g), num_keys=1)
    key = jnp.sort((tile.astype(jnp.uint32) << jnp.uint32(bits)) | g.astype(jnp.uint32))
    mask = jnp.uint32((1 << bits) - 1)
    return (key >> jnp.uint32(bits)).astype(jnp.int32), (key & mask).astype(jnp.int32)


def trim(lists: TileLists, num_chunks: int) -> TileLists:
    """The first `num_chunks` chunks; the others must be unused."""
    return TileLists(lists.ids[:, :num_chunks], lists.tiles[:num_chunks], lists.overflow)


def gather_slots(gaussians: Gaussians2D, lists: TileLists, tiling: Tiling) -> Float[Array, "L k M"]:
    """`gather_table` of the `slot_table`."""
    return gather_table(slot_table(gaussians), lists, tiling)


def gather_table(table: Float[Array, "m k"], lists: TileLists, tiling: Tiling) -> Float[Array, "L k M"]:
    """Rows of a table in the slots of every chunk, the first two (a mean) measured from the chunk's tile centre.

    The table has n + 1 rows for lists of n Gaussians; the last row is what an empty slot gets, its mean 0.
    """
    tile, columns = jnp.minimum(lists.tiles, tiling.num_tiles - 1), tiling.grid[1]
    centers = (jnp.stack([tile % columns, tile // columns]).astype(table.dtype) + 0.5) * tiling.tile_size
    slots = jnp.moveaxis(table[lists.ids], -1, 1)
    used = (lists.ids < len(table) - 1)[:, None]
    return jnp.concatenate([jnp.where(used, slots[:, :2] - centers[None], 0.0), slots[:, 2:]], axis=1)


def sum_chunks(rows: Float[Array, "M k"], lists: TileLists, tiling: Tiling) -> Float[Array, "T k"]:
    """Rows of chunks added up to rows of tiles."""
    tiles = jnp.zeros((tiling.num_tiles, rows.shape[1]), rows.dtype)
    return tiles.at[lists.tiles].add(rows, mode="drop", indices_are_sorted=True)


def tile_pixels(tile_size: int, dtype) -> np.ndarray:
    """(2, Q) x and y of a tile's pixel centres, measured from the tile's centre, row by row."""
    axis = np.arange(tile_size) + 0.5 - tile_size / 2
    return np.stack([np.tile(axis, tile_size), np.repeat(axis, tile_size)]).astype(dtype)


def gather_colors(colors: Float[Array, "n c"], lists: TileLists) -> Float[Array, "L c M"]:
    """The colour rows of `gather_slots` alone; linear in the colours."""
    table = jnp.concatenate([colors, jnp.zeros((1, colors.shape[1]), colors.dtype)])
    return jnp.moveaxis(table[lists.ids], -1, 1)


def patch_slots(gaussians: Gaussians2D, *, patches: PatchGrid) -> Float[Array, "L k T"]:
    """Static lists of a predicted set: for each patch, the Gaussians of the patches around it, as for `accumulate`.

    There is one Gaussian per patch, row by row. Patches are the tiles; L = (2 * rings + 1)^2, k = 5 + c.
    """
    grid, size, rings = patches
    rows, columns = grid
    if gaussians.num_slots != rows * columns:
        raise ValueError(f"gaussians: expected one per patch, {rows * columns}, got {gaussians.num_slots}")
    table = slot_table(gaussians)
    blank = table[-1]
    local = table[:-1].at[:, :2].add(-patch_centers(grid, size, table.dtype))
    local = jnp.where(gaussians.active[:, None], local, blank[None])
    border = np.pad(np.zeros(grid, table.dtype), rings, constant_values=1)
    field = _pad_grid(local, grid, rings) + blank[:, None, None] * border[None]
    slots = []
    for i, j, part in _neighbors(field, grid, rings):
        shift = jnp.zeros_like(blank).at[0].set(j * size).at[1].set(i * size)
        slots.append(part + shift[:, None])
    return jnp.stack(slots)


def patch_colors(colors: Float[Array, "n c"], *, patches: PatchGrid) -> Float[Array, "L c T"]:
    """The colour rows of `patch_slots` alone; linear in the colours."""
    field = _pad_grid(colors, patches.shape, patches.rings)
    return jnp.stack([part for _, _, part in _neighbors(field, patches.shape, patches.rings)])


def _pad_grid(rows: Float[Array, "n k"], grid: tuple[int, int], rings: int) -> Float[Array, "k r c"]:
    """One row per patch as planes over the patch grid, with `rings` zeros around."""
    return jnp.pad(rows.T.reshape(-1, *grid), ((0, 0), (rings, rings), (rings, rings)))


def _neighbors(field: Float[Array, "k r c"], grid: tuple[int, int], rings: int):
    """(i, j, (k, T) rows of the patches i rows and j columns away) for all neighbours within `rings`."""
    rows, columns = grid
    for i in range(-rings, rings + 1):
        for j in range(-rings, rings + 1):
            part = field[:, rings + i : rings + i + rows, rings + j : rings + j + columns]
            yield i, j, part.reshape(-1, rows * columns)


def patch_grid(image_size: tuple[Any, Any], patch_size: int) -> tuple[Any, Any]:
    """(rows, columns) of the grid of P x P patches that covers an (h, w) image; edge patches may hang over.

    The size may be traced, and the grid is then.
    """
    return -(-image_size[0] // patch_size), -(-image_size[1] // patch_size)


def patch_centers(grid: tuple[int, int], patch_size: float, dtype=jnp.float32) -> Float[Array, "n 2"]:
    """Centres (x, y) in pixels of the patches of a (rows, columns) grid, row by row."""
    y, x = jnp.meshgrid(*[(jnp.arange(size, dtype=dtype) + 0.5) * patch_size for size in grid], indexing="ij")
    return jnp.stack([x.ravel(), y.ravel()], axis=-1)
