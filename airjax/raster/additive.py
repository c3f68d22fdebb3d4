"""The fast additive renderer: image(x) = sum over n of colour_n * weight_n(x), exactly, through tile lists.

Letters: T tiles (or chunks of a tile's list), L slots of a list, B tile side in pixels, Q = B * B pixels, c channels.
The last axis is always T: neighbouring tiles fill a vector register, whatever the tile size, and a list slot is one
elementwise loop. `accumulate` is the one kernel; `airjax.raster.tiles` gives it its slots, for a patch grid and for
any set.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from airjax.arrays import AnyArray
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
# Pixels of the tiles that are taken at once: a quarter of a MB of a CPU's cache for each array, work for a whole GPU.
_BLOCK, _LARGE_BLOCK = 2**16, 2**20


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


class _Options(NamedTuple):
    """Static."""

    tile_size: int
    smooth_cutoff: bool
    room: int | None  # tiles of the result, of lists; None for a tile of its own for each of them


def _sum_blocks(
    slots: Float[Array, "L k M"], tiles: Int[AnyArray, " M"] | None, used: Int[AnyArray, ""], options: _Options
):
    """`_sum_slots` of the first `used` chunks, a block after another: (c, Q, M), or their tiles' sums (T, c Q)."""
    _, rows, count = slots.shape

    def one(start, fresh, block, out):
        part = jax.lax.dynamic_slice_in_dim(slots, start, block, 2)
        image = _sum_slots(part, options.tile_size, options.smooth_cutoff)
        if tiles is None:
            return jax.lax.dynamic_update_slice_in_dim(out, image, start, 2)
        own = _slice_where(tiles, start, fresh, block, out.shape[0])
        return out.at[own].add(image.reshape(-1, block).T, mode="drop")

    pixels, channels = options.tile_size**2, rows - GEOMETRY
    shape = (channels, pixels, count) if options.room is None else (options.room, channels * pixels)
    return _for_blocks(one, jnp.zeros(shape, slots.dtype), count, used, pixels)


def _slot_cotangents(options: _Options, residuals, cotangent):
    """Gradient of <cotangent, image> by every slot row, weights computed again.

    With h = (cotangent . colour) * slope, `airjax.raster.exponent.geometry_gradients` gives the rows of the geometry.
    """
    slots, tiles, used = residuals
    size = options.tile_size
    pixels, powers = tile_pixels(size, slots.dtype), jnp.asarray(monomials(size, slots.dtype))

    def rows(slot, images):
        weight, slope = _weight_and_slope(slot, pixels, options.smooth_cutoff)
        h = sum(image * color[None] for color, image in zip(slot[GEOMETRY:], images, strict=True)) * slope
        moments = jax.lax.dot(powers, h, precision="highest")
        return geometry_gradients(moments, [slot[i] for i in range(GEOMETRY)]) + _pixel_sums(weight, images)

    return _for_slots(rows, slots, cotangent, tiles, slots.shape[1], used, size), None, None


def _pixel_sums(weight: Float[Array, "Q M"], images) -> list[Float[Array, " M"]]:
    """<weight, image> of each image; as products with ones, which XLA's CPU backend vectorises over the chunks."""
    ones = jnp.ones((1, weight.shape[0]), weight.dtype)
    return [jax.lax.dot(ones, weight * image, precision="highest")[0] for image in images]


def _for_slots(
    of,
    slots: Float[Array, "L k M"],
    images: Float[Array, ...],
    tiles: Int[AnyArray, " M"] | None,
    num_rows: int,
    used: Int[AnyArray, ""],
    tile_size: int,
) -> Float[Array, "L m M"]:
    """The m rows `of(slot, images)` of every slot of the first `used` chunks, a block after another.

    Images are (c, Q, M), or (T, c Q) of the tiles that the chunks belong to.

    What an elementwise loop reads is carried from one turn to the next: XLA's CPU backend stores what it carries, and
    would otherwise slice inside the loop, which then is no vector loop (four times slower).
    """
    num_slots, _, count = slots.shape
    pixels = tile_size * tile_size

    def one(start, fresh, block, out):
        part = jax.lax.dynamic_slice_in_dim(slots, start, block, 2)

        def add(index, carry):
            out, slot, images = carry
            index = index.astype(jnp.int32)
            rows = jnp.stack(of(slot, images))[None]
            out = jax.lax.dynamic_update_slice(out, rows, (index, jnp.int32(0), start))
            return out, jax.lax.dynamic_index_in_dim(part, index + 1, keepdims=False), images

        if tiles is None:
            seen = jax.lax.dynamic_slice_in_dim(images, start, block, 2)
        else:
            own = jax.lax.dynamic_slice_in_dim(tiles, start, block)
            seen = images.at[own].get(mode="fill", fill_value=0).T.reshape(-1, pixels, block)
        return jax.lax.fori_loop(0, num_slots, add, (out, part[0], tuple(seen)))[0]

    return _for_blocks(one, jnp.zeros((num_slots, num_rows, count), slots.dtype), count, used, pixels)


def _for_blocks(one, out, count: int, used, pixels: int):
    """`one(start, fresh, block, out)` for blocks of `count` chunks, until `used` of them are done.

    The last block begins where it ends with the last chunk, and has those before `fresh` again.
    """
    block = min(count, max(1, (_BLOCK if jax.default_backend() == "cpu" else _LARGE_BLOCK) // pixels))

    def step(index, out):
        fresh = index.astype(jnp.int32) * block
        return one(jnp.minimum(fresh, count - block), fresh, block, out)

    return jax.lax.fori_loop(0, (used + block - 1) // block, step, out)


def _slice_where(values: Int[AnyArray, " M"], start, fresh, block: int, other: int) -> Int[Array, " b"]:
    """A block of values, and another number for those before `fresh`."""
    part = jax.lax.dynamic_slice_in_dim(values, start, block)
    return jnp.where(start + jnp.arange(block, dtype=jnp.int32) >= fresh, part, other)


_accumulate = jax.custom_vjp(_sum_blocks, nondiff_argnums=(3,))
_accumulate.defvjp(lambda *arguments: (_sum_blocks(*arguments), arguments[:3]), _slot_cotangents)


def accumulate(
    slots: Float[Array, "L k T"],
    *,
    tile_size: int,
    smooth_cutoff: bool = False,
    any_order: bool = False,
) -> Float[Array, "c Q T"]:
    """Sum of L Gaussians over each of T tiles of `tile_size` squared pixels.

    Args:
      slots: (L, 5 + c, T); rows are mean x, mean y (pixels from the tile's centre), the factor p, r, s of
        `airjax.gaussians.factors` (1/pixel) and the colours. An empty slot has colour zero and p, s > 0.
      smooth_cutoff: a C2 ramp in place of the step at the cut-off (same support), so that finite differences hold.
      any_order: differentiate through the plain sum, to any order and in both modes (slower, more memory); the
        renderers then also have a `jax.linear_transpose` in the colours. By default reverse mode only, by a gradient
        that computes the weights again.
    """
    if any_order:
        return _sum_colors(slots[:, :GEOMETRY], slots[:, GEOMETRY:], tile_size, smooth_cutoff)
    every = jnp.asarray(slots.shape[2], jnp.int32)
    return _accumulate(slots, None, every, _Options(tile_size, smooth_cutoff, None))


def slot_weights(slots: Float[Array, "L k T"], *, tile_size: int, smooth_cutoff: bool = False) -> Float[Array, "L Q T"]:
    """The weights themselves: the matrix by which the image depends on the colours (AIR section 3.1)."""
    pixels = tile_pixels(tile_size, slots.dtype)
    return jnp.stack([_weight(slot, pixels, smooth_cutoff) for slot in slots])


def untile(tiles: Float[Array, "c Q T"], *, grid: tuple[int, int], tile_size: int) -> Float[Array, "h w c"]:
    """Tiles side by side: (rows * B, columns * B, c)."""
    image = tiles.reshape(-1, tile_size, tile_size, *grid)
    return image.transpose(3, 1, 4, 2, 0).reshape(grid[0] * tile_size, grid[1] * tile_size, -1)


def render_patches(gaussians: Gaussians2D, *, patches: PatchGrid, any_order: bool = False) -> Float[Array, "h w c"]:
    """Image of a predicted set, one Gaussian per patch, row by row, through static lists: no sort, no capacity.

    Whole patches: crop it to the image. A Gaussian that reaches farther than `patches.rings` is drawn incompletely.
    `any_order` as in `accumulate`.
    """
    if any_order:
        slots = patch_slots(without_colors(gaussians), patches=patches)
        colors = patch_colors(_shown(gaussians), patches=patches)
        tiles = _sum_colors(slots, colors, patches.size, False)
    else:
        tiles = accumulate(patch_slots(gaussians, patches=patches), tile_size=patches.size)
    return untile(tiles, grid=patches.shape, tile_size=patches.size)


def render_lists(
    gaussians: Gaussians2D, lists: TileLists, tiling: Tiling, *, smooth_cutoff: bool = False, any_order: bool = False
) -> Float[Array, "h w c"]:
    """Image of a set whose tile lists are known; linear in `gaussians.colors`."""
    tiles = render_tiles(gaussians, lists, tiling, smooth_cutoff=smooth_cutoff, any_order=any_order)
    image = untile(_by_channel(tiles, tiling).transpose(1, 2, 0), grid=tiling.grid, tile_size=tiling.tile_size)
    return image[: tiling.image_size[0], : tiling.image_size[1]]


def render_tiles(
    gaussians: Gaussians2D, lists: TileLists, tiling: Tiling, *, smooth_cutoff: bool = False, any_order: bool = False
) -> Float[Array, "T k"]:
    """`render_lists` in tiles, as of a `airjax.raster.tiles.TiledImage`; here the size of the image may be traced."""
    if any_order:
        slots = gather_slots(without_colors(gaussians), lists, tiling)
        chunks = _sum_colors(slots, gather_colors(_shown(gaussians), lists), tiling.tile_size, smooth_cutoff)
        return sum_chunks(chunks.reshape(-1, chunks.shape[2]).T, lists, tiling)
    slots, options = gather_slots(gaussians, lists, tiling), _Options(tiling.tile_size, smooth_cutoff, tiling.num_tiles)
    return _accumulate(slots, lists.tiles, _used(lists, tiling), options)


def _used(lists: TileLists, tiling: Tiling) -> Int[Array, ""]:
    """How many chunks have slots that are not empty."""
    return jnp.sum(lists.tiles < tiling.num_tiles, dtype=jnp.int32)


def _shown(gaussians: Gaussians2D) -> Float[Array, "n c"]:
    """Colours, zero where inactive."""
    return jnp.where(gaussians.active[:, None], gaussians.colors, 0.0)


def draw_patches(
    weights: Float[Array, "L Q T"], colors: Float[Array, "n c"], *, patches: PatchGrid
) -> Float[Array, "h w c"]:
    """Image for given colours from weights that `slot_weights` computed once, one Gaussian per patch; whole patches."""
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

    def one(slot):
        weight, color = slot
        sums = jnp.stack(_pixel_sums(weight, cotangent))
        return sum(color[None, c] * image for c, image in enumerate(cotangent)), sums

    return jax.lax.map(one, (weights, colors))


_weigh.defvjp(lambda weights, colors: (_weigh(weights, colors), (weights, colors)), _weigh_bwd)


class ColorMap(NamedTuple):
    """A set whose colours are still open: a linear map from them to an image in tiles, with its adjoint.

    Fields:
      slots: geometry in the slots of chunks.
      lists, tiling: of the set.
      there: 1 at pixels of the image, 0 beyond it, where nothing is drawn.
    """

    slots: Float[Array, "L 5 M"]
    lists: TileLists
    tiling: Tiling
    there: Float[Array, "T Q"]

    @classmethod
    def of(cls, gaussians: Gaussians2D, lists: TileLists, tiling: Tiling, there: Float[Array, "T Q"]) -> ColorMap:
        """That of a set whose tile lists are known."""
        return cls(gather_slots(without_colors(gaussians), lists, tiling), lists, tiling, there)

    def draw(self, colors: Float[Array, "n c"]) -> Float[Array, "T k"]:
        """The image for these colours. The gradient is by the colours alone."""
        options = _Options(self.tiling.tile_size, False, self.tiling.num_tiles)
        used = _used(self.lists, self.tiling)
        tiles = _open_sum(self.slots, gather_colors(colors, self.lists), self.lists.tiles, used, options)
        return (_by_channel(tiles, self.tiling) * self.there[:, None]).reshape(len(tiles), -1)

    def norms(self, num_gaussians: int) -> Float[Array, " n"]:
        """Squared norm of the weight of each Gaussian over the image."""
        size = self.tiling.tile_size
        pixels = tile_pixels(size, self.there.dtype)

        def square(slot, there):
            return _pixel_sums(jnp.square(_weight(slot, pixels, False)), there)

        sums = _for_slots(square, self.slots, self.there, self.lists.tiles, 1, _used(self.lists, self.tiling), size)
        return jnp.zeros((num_gaussians,), sums.dtype).at[self.lists.ids].add(sums[:, 0], mode="drop")


def _sum_open(geometry: Float[Array, "L 5 M"], colors: Float[Array, "L c M"], tiles, used, options: _Options):
    """`_sum_blocks`, but its gradient is by the colours alone."""
    return _sum_blocks(jnp.concatenate([geometry, colors], axis=1), tiles, used, options)


def _open_cotangents(options: _Options, residuals, cotangent):
    geometry, tiles, used = residuals
    size = options.tile_size
    pixels = tile_pixels(size, geometry.dtype)

    def rows(slot, images):
        return _pixel_sums(_weight(slot, pixels, False), images)

    num_colors = cotangent.shape[1] // size**2
    return None, _for_slots(rows, geometry, cotangent, tiles, num_colors, used, size), None, None


_open_sum = jax.custom_vjp(_sum_open, nondiff_argnums=(4,))
_open_sum.defvjp(lambda geometry, *rest: (_sum_open(geometry, *rest), (geometry, *rest[1:3])), _open_cotangents)


def _by_channel(tiles: Float[Array, "T k"], tiling: Tiling) -> Float[Array, "T c Q"]:
    return tiles.reshape(len(tiles), -1, tiling.tile_size**2)
