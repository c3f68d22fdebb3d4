"""`render`: any set of Gaussians to an image, with the capacities of the fast renderer found for the caller."""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians2D, extents, ladder, pad
from airjax.raster.additive import Rendered, render_lists
from airjax.raster.tiles import (
    Capacity,
    Footprints,
    TileLists,
    footprints_of,
    pair_counts,
    patch_grid,
    sorted_lists,
    trim,
)

TILE_SIZE = 8  # pixels; the fewest evaluations per Gaussian of the sizes that a photograph needs
MAX_PAIRS = 2**24  # (Gaussian, tile) pairs of one strip: about 2 GB while it is drawn
STRIP_PIXELS = 2**21  # larger images are drawn in strips of about this many pixels, which bounds the memory


def scaled_size(image_size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(h, w) of an image drawn at a scale: rounded, at least one pixel."""
    return tuple(max(1, round(side * scale)) for side in image_size)


def rescale(gaussians: Gaussians2D, scale: float) -> Gaussians2D:
    """The same picture on a plane `scale` times as large: means and scales multiplied."""
    return Gaussians2D(
        gaussians.means * scale,
        gaussians.scales * scale,
        gaussians.angles,
        gaussians.colors,
        gaussians.active,
    )


def render(
    gaussians: Gaussians2D,
    *,
    image_size: tuple[int, int],
    scale: float = 1.0,
    tile_size: int = TILE_SIZE,
    capacity: int | Capacity | None = None,
    smooth_cutoff: bool = False,
    any_order: bool = False,
) -> Rendered:
    """Image of any set of Gaussians: the exact additive sum, by sorted tile lists.

    Args:
      gaussians: n slots, c channels.
      image_size: (h, w) pixels of the plane that the set was made for.
      scale: the result has round(scale * image_size) pixels; means and scales are multiplied by it.
      tile_size: pixels; it changes the speed, not the image.
      capacity: largest number of (Gaussian, tile) pairs, see `airjax.raster.tiles.Capacity`. Left out, it is
        counted, which needs concrete arrays: give it inside `jit`, `grad` or `vmap` (`capacity_of`).
      smooth_cutoff, any_order: see `airjax.raster.additive.accumulate`.

    Returns:
      `Rendered`; not clipped. Where a given capacity is too small the image is NaN and `overflow` is True.

    Raises:
      ValueError: an impossible size or scale; no capacity under a JAX transformation; with concrete arrays, a
        capacity that is too small.
      AirjaxError: more than MAX_PAIRS pairs in a single row of tiles.
    """
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size: expected (h, w) of at least 1, got {image_size}")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale: expected a finite number > 0, got {scale}")
    if tile_size < 1:
        raise ValueError(f"tile_size: expected at least 1, got {tile_size}")
    image_size = scaled_size(image_size, scale)
    gaussians = gaussians if gaussians.num_slots else pad(gaussians, 1)
    options = {"tile_size": tile_size, "smooth_cutoff": smooth_cutoff, "any_order": any_order}
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(gaussians)):
        if capacity is None:
            raise ValueError("capacity: expected a number of pairs inside a JAX transformation, got None")
        grid = patch_grid(image_size, tile_size)
        gaussians = rescale(gaussians, scale)
        lists = sorted_lists(footprints_of(gaussians), grid=grid, tile_size=tile_size, capacity=capacity)
        image = render_lists(gaussians, lists, image_size=image_size, **options)
        return Rendered(jnp.where(lists.overflow, jnp.nan, image), lists.overflow)
    gaussians = rescale(jax.tree.map(np.asarray, gaussians), scale)
    capacity = capacity.pairs if isinstance(capacity, Capacity) else capacity
    return Rendered(_render_planned(gaussians, image_size, capacity, options), jnp.asarray(False))


def planned_lists(
    gaussians: Gaussians2D,
    *,
    image_size: tuple[int, int],
    tile_size: int = TILE_SIZE,
    capacity: int | None = None,
) -> TileLists:
    """`plan_lists` of a concrete set of additive Gaussians."""
    footprints = _footprints(gaussians)
    return plan_lists(footprints, image_size=image_size, tile_size=tile_size, capacity=capacity)


def capacity_of(
    gaussians: Gaussians2D, *, image_size: tuple[int, int], tile_size: int = TILE_SIZE, headroom: float = 1.0
) -> Capacity:
    """`plan_capacity` of a concrete set of additive Gaussians."""
    return plan_capacity(_footprints(gaussians), image_size=image_size, tile_size=tile_size, headroom=headroom)


def plan_lists(
    footprints: Footprints,
    *,
    image_size: tuple[int, int],
    tile_size: int = TILE_SIZE,
    block_tiles: int = 1,
    capacity: int | None = None,
) -> TileLists:
    """Tile lists of concrete footprints: pairs are counted, listed, and the chunks that stayed unused cut off.

    Sizes are taken from a coarse ladder (`ladder`), so that sets of about the same size share what is compiled.

    Raises:
      ValueError: more pairs than `capacity`.
      AirjaxError: more pairs than MAX_PAIRS.
    """
    options = {"grid": patch_grid(image_size, tile_size), "tile_size": tile_size, "block_tiles": block_tiles}
    pairs = num_pairs(footprints, **options)
    if capacity is not None and pairs > capacity:
        raise ValueError(f"capacity: expected at least {pairs} pairs for this set, got {capacity}")
    if pairs > MAX_PAIRS:
        raise AirjaxError(f"Gaussians: expected to touch at most {MAX_PAIRS} tiles in a strip, got {pairs}")
    lists = _lists(footprints, capacity=ladder(pairs) if capacity is None else capacity, **options)
    return trim(lists, min(ladder(_used_chunks(lists, options["grid"])), lists.tiles.size))


def plan_capacity(
    footprints: Footprints,
    *,
    image_size: tuple[int, int],
    tile_size: int = TILE_SIZE,
    block_tiles: int = 1,
    headroom: float = 1.0,
) -> Capacity:
    """What a renderer needs inside a JAX transformation for concrete footprints, and for `headroom` times as many.

    Raises:
      AirjaxError: more pairs than MAX_PAIRS.
    """
    grid = patch_grid(image_size, tile_size)
    lists = plan_lists(footprints, image_size=image_size, tile_size=tile_size, block_tiles=block_tiles)
    pairs = num_pairs(footprints, grid=grid, tile_size=tile_size, block_tiles=block_tiles)
    counts = (pairs, _used_chunks(lists, grid))
    return Capacity(*(ladder(math.ceil(headroom * count)) for count in counts))


def _used_chunks(lists: TileLists, grid: tuple[int, int]) -> int:
    return int(np.count_nonzero(np.asarray(lists.tiles) < grid[0] * grid[1]))


def num_pairs(footprints: Footprints, *, grid: tuple[int, int], tile_size: int, block_tiles: int = 1) -> int:
    """Number of (Gaussian, tile) pairs of concrete footprints, boxes against tiles."""
    counts = _count(footprints, grid=grid, tile_size=tile_size, block_tiles=block_tiles)
    return int(np.asarray(counts).sum(dtype=np.int64))


def _num_pairs(gaussians: Gaussians2D, image_size: tuple[int, int], tile_size: int) -> int:
    return num_pairs(_footprints(gaussians), grid=patch_grid(image_size, tile_size), tile_size=tile_size)


_extents = jax.jit(extents)
_footprints = jax.jit(footprints_of)
_count = jax.jit(pair_counts, static_argnames=("grid", "tile_size", "block_tiles"))
_lists = jax.jit(sorted_lists, static_argnames=("grid", "tile_size", "capacity", "block_tiles"))
_draw = jax.jit(render_lists, static_argnames=("image_size", "tile_size", "smooth_cutoff", "any_order"))


def _strip(gaussians: Gaussians2D, top: int) -> Gaussians2D:
    """The set on a plane whose upper edge lies `top` pixels lower."""
    return replace(gaussians, means=gaussians.means - np.array([[0, top]], gaussians.means.dtype))


def _render_planned(gaussians, image_size, capacity, options) -> jax.Array:
    """Strips, each with the Gaussians that touch it, all through the same compiled functions."""
    height, width = image_size
    tile_size = options["tile_size"]
    rows = min(max(1, STRIP_PIXELS // (width * tile_size)), -(-height // tile_size)) * tile_size
    gaussians = pad(gaussians, ladder(gaussians.num_slots))
    if rows >= height:
        gaussians = jax.tree.map(jnp.asarray, gaussians)
        if capacity is not None or _num_pairs(gaussians, image_size, tile_size) <= MAX_PAIRS:
            lists = planned_lists(gaussians, image_size=image_size, tile_size=tile_size, capacity=capacity)
            return _draw(gaussians, lists, image_size=image_size, **options)
    strips = [_render_strip(gaussians, top, (rows, width), capacity, options) for top in range(0, height, rows)]
    return jnp.asarray(np.concatenate(strips)[:height])


def _render_strip(gaussians, top, size, capacity, options) -> np.ndarray:
    """`size` pixels below row `top`; a strip that too many Gaussians touch is drawn as two of half the height."""
    rows, tile_size = size[0], options["tile_size"]
    y, half = (np.asarray(a)[:, 1] for a in (gaussians.means, _extents(gaussians)))
    near = np.flatnonzero((y + half >= top - 1) & (y - half <= top + rows + 1) & np.asarray(gaussians.active))
    part = _strip(jax.tree.map(lambda leaf: np.asarray(leaf)[near], gaussians), top)
    part = jax.tree.map(jnp.asarray, pad(part, ladder(part.num_slots)))
    upper = -(-rows // (2 * tile_size)) * tile_size
    if upper < rows and _num_pairs(part, size, tile_size) > MAX_PAIRS:
        halves = [(top, (upper, size[1])), (top + upper, (rows - upper, size[1]))]
        return np.concatenate([_render_strip(gaussians, *half, capacity, options) for half in halves])
    lists = planned_lists(part, image_size=size, tile_size=tile_size, capacity=capacity)
    return np.asarray(_draw(part, lists, image_size=size, **options))
