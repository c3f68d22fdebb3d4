"""The fast additive renderer: image(x) = sum over n of colour_n * weight_n(x), exactly, through tile lists.

Letters: T tiles (or chunks of a tile's list), L slots of a list, B tile side in pixels, Q = B * B pixels, c channels.
The last axis is always T: neighbouring tiles fill a vector register, whatever the tile size, and a list slot is one
elementwise loop. `accumulate` is the one kernel; `airjax.raster.tiles` gives it its slots, for a patch grid and for
any set.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.gaussians import CUTOFF, Gaussians2D
from airjax.raster.exponent import gauss, geometry_gradients, monomials
from airjax.raster.tiles import (
    PatchGrid,
    TileLists,
    Tiling,
    gather_colors,
    gather_slots,
    patch_colors,
    patch_slots,
    sum_chunks,
    tile_pixels,
    without_colors,
)

GEOMETRY = 5  # rows of a slot before its colours: mean x, mean y (from the tile's centre), factor p, r, s
_UNROLL = 8  # slots fused into one elementwise loop; more make the loop longer without making it faster
_BLOCK = 4096  # slots times tiles of a block of the gradient: its weights take Q times as many numbers, about a cache


def _gauss(slot: Float[Array, "k T"], pixels: np.ndarray) -> Float[Array, "Q T"]:
    """exp(-d^T Sigma^-1 d / 2) at every pixel."""
    dx, dy = pixels[0][:, None] - slot[None, 0], pixels[1][:, None] - slot[None, 1]
    return gauss(dx, dy, slot[None, 2], slot[None, 3], slot[None, 4])


def _weight(slot: Float[Array, "k T"], pixels: np.ndarray, smooth_cutoff: bool) -> Float[Array, "Q T"]:
    """The Gaussian, zero below the cut-off."""
    weight = _gauss(slot, pixels)
    if not smooth_cutoff:
        return jnp.where(weight >= CUTOFF, weight, 0.0)
    return weight * _ramp(jnp.clip(weight / CUTOFF - 1.0, 0.0, 1.0))


def _ramp(t):
    """0 to 1 over [0, 1] with two vanishing derivatives at both ends."""
    return t * t * t * (10.0 - 15.0 * t + 6.0 * t * t)


def _weight_and_slope(slot, pixels, smooth_cutoff):
    """The weight, and minus its derivative by the exponent q; equal without the smooth cut-off."""
    if not smooth_cutoff:
        weight = _weight(slot, pixels, False)
        return weight, weight
    weight = _gauss(slot, pixels)
    t = jnp.clip(weight / CUTOFF - 1.0, 0.0, 1.0)
    ramp_slope = 30.0 * (t * (1.0 - t)) ** 2
    return weight * _ramp(t), weight * (_ramp(t) + weight / CUTOFF * ramp_slope)


def _sum_slots(slots: Float[Array, "L k T"], tile_size: int, smooth_cutoff: bool) -> Float[Array, "c Q T"]:
    pixels = tile_pixels(tile_size, slots.dtype)

    def add(image, group):
        # One unrolled expression per channel: XLA's CPU backend then vectorises over T and computes a weight again
        # for each channel, which costs less than storing it.
        return tuple(
            image[c] + sum(_weight(slot, pixels, smooth_cutoff) * slot[None, GEOMETRY + c] for slot in group)
            for c in range(len(image))
        )

    return _scan_groups(add, slots, (tile_size * tile_size, slots.shape[2]), slots.shape[1] - GEOMETRY)


def _sum_colors(
    geometry: Float[Array, "L k T"], colors: Float[Array, "L c T"], tile_size: int, smooth_cutoff: bool
) -> Float[Array, "c Q T"]:
    """`_sum_slots` with separate colours: a sum that JAX knows to be linear in them, and can transpose."""
    pixels = tile_pixels(tile_size, geometry.dtype)

    def add(image, group):
        colors, geometry = group
        weights = [_weight(slot, pixels, smooth_cutoff) for slot in geometry]
        return tuple(
            image[c] + sum(w * k[None, c] for w, k in zip(weights, colors, strict=True)) for c in range(len(image))
        )

    shape = (tile_size * tile_size, geometry.shape[2])
    return _scan_groups(add, (colors, geometry), shape, colors.shape[1])


def _scan_groups(add, slots, shape: tuple[int, int], channels: int) -> Float[Array, "c Q T"]:
    """Sum of all slots by `add(image, group)`, a few slots at a time; an image is `channels` arrays of `shape`.

    The groups run in a loop, the odd slots before it. The result of a loop is stored, so a transposition after it is
    not fused with the sum, which would then lose its vector axis (ten times slower).
    """
    num_slots, dtype = jax.tree.leaves(slots)[0].shape[0], jax.tree.leaves(slots)[0].dtype
    image = tuple(jnp.zeros(shape, dtype) for _ in range(channels))
    size = min(_UNROLL, max(1, num_slots // 2))
    odd = num_slots % size
    if odd:
        image = add(image, jax.tree.map(lambda a: a[:odd], slots))
    groups = jax.tree.map(lambda a: a[odd:].reshape(-1, size, *a.shape[1:]), slots)
    image, _ = jax.lax.scan(lambda carry, group: (add(carry, group), None), image, groups)
    return jnp.stack(image)


def _slot_cotangents(slots, cotangent, tile_size, smooth_cutoff):
    """Gradient of <cotangent, image> by every slot row, weights computed again.

    With h = (cotangent . colour) * slope, `airjax.raster.exponent.geometry_gradients` gives the rows of the geometry.
    Tiles are taken in blocks, all slots of a block side by side, so that what is stored stays in the cache.
    """
    num_slots, rows, tiles = slots.shape
    channels = rows - GEOMETRY
    block = min(tiles, max(16, _BLOCK // max(1, num_slots) // 16 * 16))
    num_blocks = -(-tiles // block)
    padding = ((0, 0), (0, 0), (0, num_blocks * block - tiles))
    # Padded columns have factor zero, hence weight one, and cotangent zero: they add nothing.
    slots, cotangent = jnp.pad(slots, padding), jnp.pad(cotangent, padding)
    pixels, powers = tile_pixels(tile_size, slots.dtype), jnp.asarray(monomials(tile_size, slots.dtype))

    def by_block(args):
        slot, cotangent = args  # (k, L, block) and (c, Q, block)
        flat = slot.reshape(rows, -1)
        weight, slope = _weight_and_slope(flat, pixels, smooth_cutoff)
        # Stored once and read by every sum below. XLA's CPU backend stores them without the barrier, which it drops
        # before it fuses; other backends need it.
        if smooth_cutoff:
            weight, slope = jax.lax.optimization_barrier((weight, slope))
        else:
            weight = slope = jax.lax.optimization_barrier(weight)
        weight, slope = (a.reshape(-1, num_slots, block) for a in (weight, slope))
        h = sum(cotangent[c][:, None] * slot[None, GEOMETRY + c] for c in range(channels)) * slope
        moments = jax.lax.dot(powers, h.reshape(h.shape[0], -1), precision="highest")
        geometry = geometry_gradients(moments, [flat[i] for i in range(GEOMETRY)])
        colors = [jnp.sum(weight * cotangent[c][:, None], axis=0).reshape(-1) for c in range(channels)]
        return jnp.stack(geometry + colors)

    blocks = (
        slots.reshape(num_slots, rows, num_blocks, block).transpose(2, 1, 0, 3),
        cotangent.reshape(channels, -1, num_blocks, block).transpose(2, 0, 1, 3),
    )
    out = jax.lax.map(by_block, blocks).reshape(num_blocks, rows, num_slots, block)
    return out.transpose(2, 1, 0, 3).reshape(num_slots, rows, -1)[..., :tiles]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _accumulate(slots, tile_size, smooth_cutoff):
    return _sum_slots(slots, tile_size, smooth_cutoff)


def _accumulate_fwd(slots, tile_size, smooth_cutoff):
    return _sum_slots(slots, tile_size, smooth_cutoff), slots


def _accumulate_bwd(tile_size, smooth_cutoff, slots, cotangent):
    return (_slot_cotangents(slots, cotangent, tile_size, smooth_cutoff),)


_accumulate.defvjp(_accumulate_fwd, _accumulate_bwd)


def accumulate(
    slots: Float[Array, "L k T"], *, tile_size: int, smooth_cutoff: bool = False, any_order: bool = False
) -> Float[Array, "c Q T"]:
    """Sum of L Gaussians over each of T tiles of `tile_size` squared pixels.

    Args:
      slots: (L, 5 + c, T); rows are mean x, mean y (pixels from the tile's centre), the factor p, r, s of
        `airjax.gaussians.factors` (1/pixel) and the colours. An empty slot has colour zero and p, s > 0.
      tile_size: B, pixels.
      smooth_cutoff: a C2 ramp in place of the step at the cut-off (same support), so that finite differences hold.
      any_order: differentiate through the plain sum, to any order and in both modes (slower, more memory); the
        renderers then also have a `jax.linear_transpose` in the colours. By default reverse mode only, by a gradient
        that computes the weights again.

    Returns:
      (c, Q, T), not clipped.
    """
    if any_order:
        return _sum_colors(slots[:, :GEOMETRY], slots[:, GEOMETRY:], tile_size, smooth_cutoff)
    return _accumulate(slots, tile_size, smooth_cutoff)


def slot_weights(slots: Float[Array, "L k T"], *, tile_size: int, smooth_cutoff: bool = False) -> Float[Array, "L Q T"]:
    """The weights themselves: the matrix by which the image depends on the colours (AIR section 3.1)."""
    pixels = tile_pixels(tile_size, slots.dtype)
    return jnp.stack([_weight(slot, pixels, smooth_cutoff) for slot in slots])


def untile(tiles: Float[Array, "c Q T"], *, grid: tuple[int, int], tile_size: int) -> Float[Array, "h w c"]:
    """Tiles side by side: (rows * B, columns * B, c)."""
    image = tiles.reshape(-1, tile_size, tile_size, *grid)
    return image.transpose(3, 1, 4, 2, 0).reshape(grid[0] * tile_size, grid[1] * tile_size, -1)


def render_patches(gaussians: Gaussians2D, *, patches: PatchGrid, any_order: bool = False) -> Float[Array, "h w c"]:
    """Image of a predicted set, one Gaussian per patch, through static lists: no sort, no capacity.

    Args:
      gaussians: rows * columns slots, row by row.
      patches: the grid; a Gaussian that reaches farther than `patches.rings` is drawn incompletely.
      any_order: see `accumulate`.

    Returns:
      (rows * P, columns * P, c), whole patches; crop it to the image.
    """
    if any_order:
        slots, colors = (
            patch_slots(without_colors(gaussians), patches=patches),
            patch_colors(_shown(gaussians), patches=patches),
        )
        tiles = _sum_colors(slots, colors, patches.size, False)
    else:
        tiles = accumulate(patch_slots(gaussians, patches=patches), tile_size=patches.size)
    return untile(tiles, grid=patches.shape, tile_size=patches.size)


def render_lists(
    gaussians: Gaussians2D,
    lists: TileLists,
    tiling: Tiling,
    *,
    smooth_cutoff: bool = False,
    any_order: bool = False,
) -> Float[Array, "h w c"]:
    """Image of a set whose tile lists are known; linear in `gaussians.colors`."""
    if any_order:
        slots = gather_slots(without_colors(gaussians), lists, tiling)
        chunks = _sum_colors(slots, gather_colors(_shown(gaussians), lists), tiling.tile_size, smooth_cutoff)
    else:
        slots = gather_slots(gaussians, lists, tiling)
        chunks = accumulate(slots, tile_size=tiling.tile_size, smooth_cutoff=smooth_cutoff)
    return _assemble(chunks, lists, tiling)


def _shown(gaussians: Gaussians2D) -> Float[Array, "n c"]:
    """Colours, zero where inactive."""
    return jnp.where(gaussians.active[:, None], gaussians.colors, 0.0)


def draw_slots(
    weights: Float[Array, "L Q M"], lists: TileLists, colors: Float[Array, "n c"], tiling: Tiling
) -> Float[Array, "h w c"]:
    """Image for given colours from weights that `slot_weights` computed once; linear in both."""
    return _assemble(_weigh(weights, gather_colors(colors, lists)), lists, tiling)


def draw_patches(
    weights: Float[Array, "L Q T"], colors: Float[Array, "n c"], *, patches: PatchGrid
) -> Float[Array, "h w c"]:
    """`draw_slots` for the static lists of one Gaussian per patch; whole patches."""
    tiles = _weigh(weights, patch_colors(colors, patches=patches))
    return untile(tiles, grid=patches.shape, tile_size=patches.size)


@jax.custom_vjp
def _weigh(weights: Float[Array, "L Q M"], colors: Float[Array, "L c M"]) -> Float[Array, "c Q M"]:
    """Sum over slots of colour times weight; the rule for its gradient is fast and can itself be differentiated."""

    def add(image, group):
        return tuple(image[c] + sum(w * k[None, c] for w, k in zip(*group, strict=True)) for c in range(len(image)))

    return _scan_groups(add, (weights, colors), (weights.shape[1], weights.shape[2]), colors.shape[1])


def _weigh_bwd(residuals, cotangent):
    weights, colors = residuals
    ones = jnp.ones((1, weights.shape[1]), weights.dtype)

    def one(slot):
        weight, color = slot
        # A product with ones is a sum over the pixels that XLA's CPU backend vectorises over the chunks.
        sums = [jax.lax.dot(ones, weight * image, precision="highest")[0] for image in cotangent]
        return sum(color[None, c] * image for c, image in enumerate(cotangent)), jnp.stack(sums)

    return jax.lax.map(one, (weights, colors))


_weigh.defvjp(lambda weights, colors: (_weigh(weights, colors), (weights, colors)), _weigh_bwd)


def _assemble(chunks: Float[Array, "c Q M"], lists: TileLists, tiling: Tiling) -> Float[Array, "h w c"]:
    """Chunks added up to tiles, tiles put side by side and cropped."""
    channels, pixels, num_chunks = chunks.shape
    tiles = sum_chunks(chunks.reshape(channels * pixels, num_chunks).T, lists, tiling)
    image = untile(tiles.T.reshape(channels, pixels, -1), grid=tiling.grid, tile_size=tiling.tile_size)
    return image[: tiling.image_size[0], : tiling.image_size[1]]
