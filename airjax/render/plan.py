"""`render`: any set of Gaussians to an image, with the capacities of the fast renderer found for the caller."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from airjax.gaussians import Gaussians2D, concatenate, empty, patch_grid
from airjax.render.additive import Rendered, render_lists
from airjax.render.lists import pair_counts, round_capacity, sorted_lists

TILE_SIZE = 8  # pixels; the fewest evaluations per Gaussian of the sizes that a photograph needs
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


def pad_capacity(gaussians: Gaussians2D, capacity: int) -> Gaussians2D:
    """The same set with inactive slots added up to `capacity`."""
    missing = capacity - gaussians.capacity
    if missing < 0:
        raise ValueError(f"capacity: expected at least {gaussians.capacity}, got {capacity}")
    if not missing:
        return gaussians
    return concatenate([gaussians, empty(missing, gaussians.colors.shape[1], gaussians.means.dtype)])


def render(
    gaussians: Gaussians2D,
    *,
    image_size: tuple[int, int],
    scale: float = 1.0,
    tile_size: int = TILE_SIZE,
    capacity: int | None = None,
    smooth_cutoff: bool = False,
    any_order: bool = False,
) -> Rendered:
    """Image of any set of Gaussians: the exact additive sum, by sorted tile lists.

    Args:
      gaussians: n slots, c channels.
      image_size: (h, w) pixels of the plane that the set was made for.
      scale: the result has round(scale * image_size) pixels; means and scales are multiplied by it.
      tile_size: pixels; it changes the speed, not the image.
      capacity: largest number of (Gaussian, tile) pairs, see `airjax.render.lists.pair_counts`. Left out, it is
        counted, which needs concrete arrays: give it inside `jit`, `grad` or `vmap`.
      smooth_cutoff, any_order: see `airjax.render.additive.accumulate`.

    Returns:
      `Rendered`; not clipped. Where a given capacity is too small the image is NaN and `overflow` is True.

    Raises:
      ValueError: an impossible size or scale; no capacity under a JAX transformation; with concrete arrays, a
        capacity that is too small.
    """
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size: expected (h, w) of at least 1, got {image_size}")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale: expected a finite number > 0, got {scale}")
    if tile_size < 1:
        raise ValueError(f"tile_size: expected at least 1, got {tile_size}")
    image_size = scaled_size(image_size, scale)
    options = {"tile_size": tile_size, "smooth_cutoff": smooth_cutoff, "any_order": any_order}
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(gaussians)):
        if capacity is None:
            raise ValueError("capacity: expected a number of pairs inside a JAX transformation, got None")
        return _render(gaussians, scale, 0.0, image_size=image_size, capacity=capacity, **options)
    return _render_strips(gaussians, scale, image_size, capacity, options)


@partial(jax.jit, static_argnames=("image_size", "tile_size", "capacity", "smooth_cutoff", "any_order"))
def _render(gaussians, scale, top, *, image_size, tile_size, capacity, smooth_cutoff, any_order) -> Rendered:
    """One strip, `top` pixels below the upper edge of the scaled plane."""
    gaussians = _strip(gaussians, scale, top)
    lists = sorted_lists(
        gaussians, grid=patch_grid(image_size, tile_size), tile_size=tile_size, capacity=capacity
    )
    image = render_lists(
        gaussians,
        lists,
        image_size=image_size,
        tile_size=tile_size,
        smooth_cutoff=smooth_cutoff,
        any_order=any_order,
    )
    return Rendered(jnp.where(lists.overflow, jnp.nan, image), lists.overflow)


def _strip(gaussians, scale, top):
    gaussians = rescale(gaussians, jnp.asarray(scale, gaussians.means.dtype))
    shift = jnp.stack([jnp.zeros_like(gaussians.means[0, 0]), jnp.asarray(top, gaussians.means.dtype)])
    return Gaussians2D(
        gaussians.means - shift[None], gaussians.scales, gaussians.angles, gaussians.colors, gaussians.active
    )


@partial(jax.jit, static_argnames=("image_size", "tile_size"))
def _count(gaussians, scale, top, *, image_size, tile_size):
    gaussians = _strip(gaussians, scale, top)
    return pair_counts(gaussians, grid=patch_grid(image_size, tile_size), tile_size=tile_size)


def _render_strips(gaussians, scale, image_size, capacity, options) -> Rendered:
    """Strips of equal height, each with the Gaussians that touch it, all through one compiled function."""
    height, width = image_size
    tile_size = options["tile_size"]
    rows = max(1, STRIP_PIXELS // (width * tile_size)) * tile_size
    strip = (min(rows, height), width)
    tops = range(0, height, strip[0])
    # Few distinct sizes reach the compiler: sets and pairs are padded to a coarse ladder.
    if gaussians.capacity == 0:
        gaussians = pad_capacity(gaussians, 1)
    gaussians = pad_capacity(gaussians, round_capacity(gaussians.capacity))
    counts = [
        np.asarray(_count(gaussians, scale, top, image_size=strip, tile_size=tile_size)) for top in tops
    ]
    pairs = [int(count.sum(dtype=np.int64)) for count in counts]
    if capacity is not None and max(pairs) > capacity:
        raise ValueError(f"capacity: expected at least {max(pairs)} pairs for this set, got {capacity}")
    capacity = round_capacity(max(pairs)) if capacity is None else capacity
    parts = [gaussians]
    if len(tops) > 1:
        most = round_capacity(max(int((count > 0).sum()) for count in counts))
        parts = (pad_capacity(_select(gaussians, count > 0), most) for count in counts)
    images = [
        _render(part, scale, float(top), image_size=strip, capacity=capacity, **options).image
        for part, top in zip(parts, tops, strict=True)
    ]
    image = images[0] if len(images) == 1 else jnp.asarray(np.concatenate(images)[:height])
    return Rendered(image, jnp.asarray(False))


def _select(gaussians, rows):
    index = np.flatnonzero(rows)
    return jax.tree.map(lambda leaf: leaf[index], gaussians)
