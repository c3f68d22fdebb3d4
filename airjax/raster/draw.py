"""`render` of 2D Gaussians: any set to an image, the sizes of its tile lists found for the caller."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from airjax.gaussians import Gaussians2D, extents, octaves, on_ladder, pad, take
from airjax.programs import kept
from airjax.progress import Count
from airjax.raster import plan
from airjax.raster.additive import render_lists, render_tiles
from airjax.raster.plan import (
    check_pairs,
    check_request,
    count_needs,
    count_pairs,
    is_traced,
    plan_lists,
    roomy,
    scaled_size,
    too_small,
)
from airjax.raster.shrink import averaged, finer
from airjax.raster.tiles import Capacity, Footprints, TileLists, Tiling, footprints_of, sorted_lists, untiled

TILE_SIZE = 8  # pixels; the fewest evaluations per Gaussian of the sizes that a photograph needs
STRIP_PIXELS = 2**21  # larger images are drawn in strips of about this many pixels, which bounds the memory


class Rendered(NamedTuple):
    """A rendered image."""

    image: Float[Array, "h w c"]  # not clipped. All NaN where the lists overflowed
    overflow: Bool[Array, ""]  # True when the given capacity did not hold all (Gaussian, tile) pairs


def rescale(gaussians: Gaussians2D, scale: float) -> Gaussians2D:
    """The same picture on a plane `scale` times as large: means and scales multiplied."""
    if scale == 1:
        return gaussians
    return replace(gaussians, means=gaussians.means * scale, scales=gaussians.scales * scale)


def render(
    gaussians: Gaussians2D,
    *,
    image_size: tuple[int, int],
    scale: float = 1.0,
    tile_size: int = TILE_SIZE,
    capacity: int | Capacity | None = None,
    smooth_cutoff: bool = False,
    any_order: bool = False,
    progress: Count | None = None,
) -> Rendered:
    """Image of any set of Gaussians: the exact additive sum (AIR section 3.1), by sorted tile lists.

    Args:
      image_size: (h, w) pixels of the plane that the set was made for.
      scale: the result has round(scale * image_size) pixels; means and scales are multiplied by it. Below 1 the pixels
        are means of finer ones (`airjax.raster.shrink`), which are what `capacity` counts.
      tile_size: pixels; it changes the speed, not the image.
      capacity: largest number of (Gaussian, tile) pairs, see `airjax.raster.tiles.Capacity`. None counts them, which
        needs concrete arrays: inside `jit`, `grad` or `vmap` give one (`capacity_of`). Where it is given, the image
        is drawn in one piece, whatever its size.
      smooth_cutoff: see `airjax.raster.additive.accumulate`.
      any_order: see there.
      progress: told of every strip of a large image that is drawn without a capacity.

    Raises:
      ValueError: an impossible size or scale; no capacity inside a JAX transformation; with concrete arrays, a
        capacity that is too small. Inside a transformation the image is then NaN, and `overflow` True.
      AirjaxError: no capacity, and more than `airjax.raster.plan.MAX_PAIRS` pairs in a single row of tiles.
    """
    check_request(image_size, scale, tile_size)
    times, size = finer(image_size, scale)
    if times > 1:
        large, overflow = _render_at(
            gaussians, times * scale, Tiling(size, tile_size), capacity, smooth_cutoff, any_order, progress
        )
        return Rendered(averaged(large, times, scaled_size(image_size, scale)), overflow)
    return _render_at(gaussians, scale, Tiling(size, tile_size), capacity, smooth_cutoff, any_order, progress)


def _render_at(
    gaussians: Gaussians2D,
    scale: float,
    tiling: Tiling,
    capacity: int | Capacity | None,
    smooth_cutoff: bool,
    any_order: bool,
    progress: Count | None = None,
) -> Rendered:
    """The sum at the pixels of a scaled plane."""
    if is_traced(gaussians):
        if capacity is None:
            raise ValueError("capacity: expected a number of pairs inside a JAX transformation, got None")
        gaussians = gaussians if gaussians.num_slots else pad(gaussians, 1)
        return _render(rescale(gaussians, scale), tiling, capacity, smooth_cutoff, any_order)
    gaussians = rescale(gaussians, scale)
    gaussians = on_ladder(gaussians, size_of=lambda _: slots_for(gaussians, image_size=tiling.image_size))
    if capacity is None:
        draw = partial(_draw, smooth_cutoff=smooth_cutoff, any_order=any_order)
        return Rendered(jnp.asarray(_render_planned(gaussians, tiling, draw, progress)), jnp.asarray(False))
    rendered = _render_jitted(gaussians, tiling, capacity, smooth_cutoff, any_order)
    if rendered.overflow:
        raise too_small(capacity, *count_needs(_footprints(gaussians), tiling))
    return rendered


def slots_for(gaussians: Gaussians2D, *, image_size: tuple[int, int], headroom: float = 1.0) -> int:
    """How many slots a concrete set is given, of few numbers: an eighth of the room for its (Gaussian, tile) pairs, or
    more. Sets of about as many pairs then share programs, whether these are of many Gaussians or of few.
    """
    footprints = _footprints(on_ladder(gaussians, size_of=octaves))
    pairs = min(count_pairs(footprints, Tiling(image_size, TILE_SIZE)), plan.MAX_PAIRS)
    return max(octaves(gaussians.num_slots), octaves(math.ceil(headroom * pairs)) // 8)


def planned_lists(gaussians: Gaussians2D, *, image_size: tuple[int, int], tile_size: int = TILE_SIZE) -> TileLists:
    """`plan_lists` of a concrete set, of a `roomy` image."""
    return plan_lists(_footprints(gaussians), roomy(image_size, tile_size), size_of=octaves)


def capacity_of(
    gaussians: Gaussians2D, *, image_size: tuple[int, int], tile_size: int = TILE_SIZE, headroom: float = 1.0
) -> Capacity:
    """What `render` needs inside a JAX transformation for a concrete set; AirjaxError for more pairs than MAX_PAIRS.

    At another scale, give the size of the `rescale`d set, and that; below 1, those of `airjax.raster.shrink`. There is
    room for `headroom` times as many pairs.
    """
    pairs = count_pairs(_footprints(on_ladder(gaussians, size_of=octaves)), Tiling(image_size, tile_size))
    check_pairs(pairs)
    return Capacity(octaves(math.ceil(headroom * pairs)))  # chunks that stay unused are not drawn


def render_in_tiles(
    gaussians: Gaussians2D,
    tiling: Tiling,
    *,
    capacity: int | Capacity,
    any_order: bool = False,
) -> Float[Array, "T k"]:
    """`render` of a set in tiles (`airjax.raster.tiles.TiledImage`), for use inside `jit`; NaN where lists overflow."""
    lists = sorted_lists(footprints_of(gaussians), tiling, capacity=capacity)
    tiles = render_tiles(gaussians, lists, tiling, any_order=any_order)
    return jnp.where(lists.overflow, jnp.nan, tiles)


def _render(
    gaussians: Gaussians2D, tiling: Tiling, capacity: int | Capacity, smooth_cutoff: bool, any_order: bool
) -> Rendered:
    """One piece through lists of a given capacity."""
    lists = sorted_lists(footprints_of(gaussians), tiling, capacity=capacity)
    image = render_lists(gaussians, lists, tiling, smooth_cutoff=smooth_cutoff, any_order=any_order)
    return Rendered(jnp.where(lists.overflow, jnp.nan, image), lists.overflow)


_extents = kept()(extents)
_footprints = kept()(footprints_of)
_render_jitted = kept(static_argnames=("tiling", "capacity", "smooth_cutoff", "any_order"))(_render)
_draw = kept(static_argnames=("smooth_cutoff", "any_order"))(render_tiles)


def _render_planned(
    gaussians: Gaussians2D, tiling: Tiling, draw: Callable, progress: Count | None = None
) -> np.ndarray:
    """One piece where the image and its pairs are few enough, else strips; `draw(set, lists, tiling)` draws tiles."""
    (height, width), tile_size = tiling.image_size, tiling.tile_size
    rows = min(max(1, STRIP_PIXELS // (width * tile_size)), -(-height // tile_size)) * tile_size
    if rows >= height:
        piece = roomy((height, width), tile_size)
        footprints = _footprints(gaussians)
        pairs = count_pairs(footprints, piece)
        if pairs <= plan.MAX_PAIRS:
            return _draw_piece(gaussians, footprints, piece, pairs, draw)
    reach = np.asarray(_extents(gaussians))[:, 1]
    gaussians = jax.tree.map(np.asarray, gaussians)
    image = np.empty((height, width, gaussians.colors.shape[1]), gaussians.colors.dtype)
    for top in range(0, height, rows):
        strip = _render_strip(gaussians, reach, top, rows, tiling, draw)
        image[top : top + rows] = strip[: height - top]
        if progress is not None:
            progress(top // rows + 1, -(-height // rows))
    return image


def _render_strip(
    gaussians: Gaussians2D, reach: np.ndarray, top: int, rows: int, tiling: Tiling, draw: Callable
) -> np.ndarray:
    """`rows` rows of pixels from row `top` on, by the Gaussians that touch them; `reach` is their half height.

    A strip that too many Gaussians touch is drawn as two of half the height.
    """
    y = gaussians.means[:, 1]
    part = take(gaussians, (y + reach >= top - 1) & (y - reach <= top + rows + 1) & gaussians.active)
    part = replace(part, means=part.means - np.array([[0, top]], part.means.dtype))
    part = on_ladder(part, size_of=octaves)
    footprints, strip = _footprints(part), roomy((rows, tiling.image_size[1]), tiling.tile_size)
    pairs = count_pairs(footprints, strip)
    upper = -(-rows // (2 * tiling.tile_size)) * tiling.tile_size
    if upper < rows and pairs > plan.MAX_PAIRS:
        halves = ((top, upper), (top + upper, rows - upper))
        return np.concatenate([_render_strip(gaussians, reach, *half, tiling, draw) for half in halves])
    return _draw_piece(part, footprints, strip, pairs, draw)


def _draw_piece(
    gaussians: Gaussians2D, footprints: Footprints, tiling: Tiling, pairs: int, draw: Callable
) -> np.ndarray:
    tiles = draw(gaussians, plan_lists(footprints, tiling, pairs=pairs, size_of=octaves), tiling)
    return untiled(tiles, tiling.image_size, tiling.tile_size)
