"""Alpha compositing: Gaussians drawn over one another from front to back, exactly, through tile lists.

Letters: n Gaussians in front-to-back order, M chunks of L slots (`airjax.raster.tiles`), B tile side in pixels,
Q = B * B pixels, T tiles, c channels. At a pixel, with a_i the alpha of the i-th Gaussian of its tile,

  T_i = (1 - a_1) .. (1 - a_i)                       transmittance behind it
  w_i = T_i-1 a_i  where T_i > stop, else 0          its weight: at so small a transmittance nothing more is drawn
  channel = sum of w_i * value_i,   alpha = sum of w_i

T_i only falls, so no Gaussian needs to know which one was drawn last: the chunks of a list are multiplied in parallel,
a segmented scan over chunks gives the transmittance before each, and then all chunks are summed in parallel. The last
axis is always the pixels of a tile.

XLA computes a fused value again for every use of it, in a chain of slots a number of times that grows with the square
of their number. Loops (`lax.scan` over slots, `lax.map` over blocks of chunks) stand where a value must be computed
once.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from airjax.gaussians import CUTOFF
from airjax.raster.exponent import gauss, geometry_gradients, monomials
from airjax.raster.tiles import Footprints, TileLists, Tiling, gather_table, sum_chunks, tile_pixels

GEOMETRY = 6  # rows of a slot before its values: mean x, mean y (from the tile's centre), factor p, r, s, opacity
_BLOCK = 256  # chunks of a block of the gradient: its weights take L * Q times as many numbers, about a cache


class Splats(NamedTuple):
    """n Gaussians on the image plane, front to back."""

    means: Float[Array, "n 2"]  # pixels
    factors: Float[Array, "n 3"]  # p, r, s with d^T Sigma^-1 d = (p dx + r dy)^2 + (s dy)^2, 1/pixel
    opacities: Float[Array, " n"]  # in [0, 1]
    values: Float[Array, "n c"]  # what is drawn: colours, depths
    half_extents: Float[Array, "n 2"]  # half sides of a box outside which nothing is drawn, pixels; constant
    active: Bool[Array, " n"]

    @property
    def footprints(self) -> Footprints:
        """Where they are drawn: in the box, up to the ellipse at which alpha is the cut-off. A constant."""
        limits = jnp.log(jnp.maximum(self.opacities, 1e-30) / CUTOFF)
        return jax.lax.stop_gradient(
            Footprints(self.means, self.half_extents, self.factors, limits, self.active & (self.opacities >= CUTOFF))
        )


class Drawn(NamedTuple):
    """Composited splats, over nothing."""

    values: Float[Array, "h w c"]  # sum of weight times value
    alpha: Float[Array, "h w"]  # sum of weights, in [0, 1]


def composite(
    splats: Splats, lists: TileLists, tiling: Tiling, *, alpha_max: float, stop: float, any_order: bool = False
) -> Drawn:
    """Splats over one another, the first in front; add (1 - alpha) * background.

    Args:
      lists: tile lists of `splats.footprints`, which keep the order; constants to every gradient.
      alpha_max: largest alpha of a Gaussian at a pixel; no gradient passes where it is reached.
      stop: see the module.
      any_order: see `airjax.raster.additive.accumulate`.
    """
    slots = _gather(splats, lists, tiling)
    composite = _sum_chunks if any_order else _composite_chunks
    channels = composite(slots, _runs(lists), _Options(tiling.tile_size, alpha_max, stop))
    *values, alpha = (_assemble(rows, lists, tiling) for rows in channels)
    return Drawn(jnp.stack(values, axis=-1), alpha)


def _assemble(rows: Float[Array, "M Q"], lists: TileLists, tiling: Tiling) -> Float[Array, "h w"]:
    """Chunks added up to tiles, tiles put side by side and cropped."""
    (row_count, column_count), size = tiling.grid, tiling.tile_size
    tiles = sum_chunks(rows, lists, tiling)
    image = tiles.reshape(row_count, column_count, size, size).transpose(0, 2, 1, 3)
    return image.reshape(row_count * size, column_count * size)[: tiling.image_size[0], : tiling.image_size[1]]


class _Options(NamedTuple):
    tile_size: int
    alpha_max: float
    stop: float


class _Runs(NamedTuple):
    """Whether a chunk is the first, or the last, of its run: the chunks of a tile are neighbours."""

    first: Bool[Array, "M 1"]
    last: Bool[Array, "M 1"]


def _runs(lists: TileLists) -> _Runs:
    new = lists.tiles[1:] != lists.tiles[:-1]
    end = jnp.ones((1,), bool)
    return _Runs(jnp.concatenate([end, new])[:, None], jnp.concatenate([new, end])[:, None])


def _gather(splats: Splats, lists: TileLists, tiling: Tiling) -> Float[Array, "L k M"]:
    """The slots of every chunk, means measured from the chunk's tile centre; an empty slot has opacity 0."""
    rows = jnp.concatenate([splats.means, splats.factors, splats.opacities[:, None], splats.values], axis=1)
    table = jnp.where(splats.active[:, None], rows, 0.0)
    table = jnp.concatenate([table, jnp.zeros((1, table.shape[1]), table.dtype)])
    return gather_table(table, lists, tiling)


def _alpha(slot: Float[Array, "k M"], options: _Options) -> Float[Array, "M Q"]:
    """Alpha of one slot of every chunk at every pixel; 0 below the cut-off."""
    x, y = tile_pixels(options.tile_size, slot.dtype)
    u, v, p, r, s, opacity = (row[:, None] for row in slot[:GEOMETRY])
    alpha = opacity * gauss(x[None] - u, y[None] - v, p, r, s)
    # Not `minimum`, whose gradient at a tie is one half: where alpha_max is reached none passes.
    alpha = jnp.where(alpha > options.alpha_max, options.alpha_max, alpha)
    return jnp.where(alpha >= CUTOFF, alpha, 0.0)


def _transmittance_before(slots: Float[Array, "L k M"], runs: _Runs, options: _Options) -> Float[Array, "M Q"]:
    """Transmittance of every pixel before each chunk."""
    whole = jnp.ones((slots.shape[2], options.tile_size**2), slots.dtype)
    through, _ = jax.lax.scan(lambda through, slot: (through * (1.0 - _alpha(slot, options)), None), whole, slots)
    return _segmented_scan(jnp.multiply, through, runs.first, 1.0, reverse=False)


def _segmented_scan(combine, rows: Float[Array, "M Q"], start: Bool[Array, "M 1"], neutral: float, *, reverse: bool):
    """Segmented exclusive scan of `combine`: all earlier rows of the same run; runs begin where `start` is set."""

    def join(a, b):
        (flag_a, rows_a), (flag_b, rows_b) = a, b
        return flag_a | flag_b, jnp.where(flag_b, rows_b, combine(rows_a, rows_b))

    _, total = jax.lax.associative_scan(join, (start, rows), reverse=reverse)
    edge = jnp.full_like(rows[:1], neutral)
    shifted = jnp.concatenate([total[1:], edge] if reverse else [edge, total[:-1]])
    return jnp.where(start, neutral, shifted)


def _sum_chunks(slots: Float[Array, "L k M"], runs: _Runs, options: _Options) -> tuple[Float[Array, "M Q"], ...]:
    """Every chunk's part of each value, and last of alpha, at the pixels of its tile."""
    return _draw_chunks(slots, _transmittance_before(slots, runs, options), options)


def _draw_chunks(slots, transmittance, options):
    channels = [0.0] * (slots.shape[1] - GEOMETRY + 1)
    for slot in slots:
        transmittance, weight = _weigh(slot, transmittance, options)
        for c, value in enumerate(slot[GEOMETRY:]):
            channels[c] += weight * value[:, None]
        channels[-1] += weight
    return tuple(channels)


def _weigh(slot, transmittance, options):
    """Transmittance behind a slot, and its weight."""
    alpha = _alpha(slot, options)
    behind = transmittance * (1.0 - alpha)
    return behind, jnp.where(behind > options.stop, transmittance * alpha, 0.0)


def _composite_chunks_fwd(slots, runs, options):
    transmittance = _transmittance_before(slots, runs, options)
    return _draw_chunks(slots, transmittance, options), (slots, runs, transmittance)


def _composite_chunks_bwd(options, residuals, cotangent):
    """Gradient of <cotangent, rows> by every slot row, weights computed again.

    With g_i = sum over channels of cotangent * value_i (for alpha the value is 1), for a slot that is drawn:

      dO / da_i = T_i-1 g_i - S_i / (1 - a_i),     S_i = sum over j > i of w_j g_j

    S is summed from the last slot of a tile to the first: nothing is subtracted, so it loses no digits.
    """
    slots, runs, transmittance = residuals
    products = _by_blocks(partial(_chunk_products, options=options), slots, transmittance, cotangent)
    later = _segmented_scan(jnp.add, products, runs.last, 0.0, reverse=True)
    cotangents = _by_blocks(partial(_slot_cotangents, options=options), slots, transmittance, later, cotangent)
    return jnp.moveaxis(cotangents, 0, 2), None


def _by_blocks(fn, slots: Float[Array, "L k M"], *rows):
    """fn(slots, *rows) -> (M, ..), one block of chunks after the other; 0 without computing where no slot is used.

    Chunks that are used come first, and capacities have room to spare. (Under `vmap` all blocks are computed.)
    """
    num_chunks = slots.shape[2]
    block = min(num_chunks, _BLOCK)
    num_blocks = -(-num_chunks // block)

    def cut(array):
        array = jnp.pad(array, [(0, num_blocks * block - num_chunks)] + [(0, 0)] * (array.ndim - 1))
        return array.reshape(num_blocks, block, *array.shape[1:])

    def compute(slots, *rows):
        return fn(jnp.moveaxis(slots, 0, 2), *rows)

    def compute_used(part):
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(compute, *part))
        used = jnp.any(part[0][:, :, GEOMETRY - 1] > 0)
        return jax.lax.cond(used, compute, lambda *part: blank, *part)

    parts = jax.tree.map(cut, (jnp.moveaxis(slots, 2, 0), *rows))
    blocks = jax.lax.map(compute_used, parts)
    return blocks.reshape(-1, *blocks.shape[2:])[:num_chunks]


def _chunk_products(slots, transmittance, cotangent, options):
    """(M, Q) sum of w_i g_i over the slots of each chunk."""
    total = 0.0
    for slot in slots:
        transmittance, weight = _weigh(slot, transmittance, options)
        total += weight * _against(slot, cotangent)
    return total


def _against(slot, cotangent):
    """g_i of one slot."""
    *by_value, by_alpha = cotangent
    return by_alpha + sum(value[:, None] * rows for value, rows in zip(slot[GEOMETRY:], by_value, strict=True))


def _slot_cotangents(slots, transmittance, later, cotangent, options):
    """`_composite_chunks_bwd` for some of the chunks: (M, L, k).

    With h = dO / d(alpha before its clamp) * alpha, `airjax.raster.exponent.geometry_gradients` gives the rows of the
    geometry.
    """
    powers = jnp.asarray(monomials(options.tile_size, slots.dtype).T)
    ones = jnp.ones((powers.shape[0], 1), slots.dtype)

    def forward(transmittance, slot):
        alpha = _alpha(slot, options)
        after = transmittance * (1.0 - alpha)
        return after, (alpha, jnp.where(after > options.stop, transmittance, 0.0))

    def backward(later, part):
        slot, alpha, transmittance = part
        against, weight = _against(slot, cotangent), transmittance * alpha
        # Where the slot is not drawn, nothing behind it is drawn either: both terms are 0 there, as they should be.
        slope = transmittance * against - later / (1.0 - alpha)
        h = jnp.where(alpha < options.alpha_max, slope * alpha, 0.0)
        moments = jax.lax.dot(h, powers, precision="highest").T
        values = [jax.lax.dot(weight * rows, ones, precision="highest")[:, 0] for rows in cotangent[:-1]]
        return later + weight * against, (moments, values)

    _, drawn = jax.lax.scan(forward, transmittance, slots)
    _, (moments, values) = jax.lax.scan(backward, later, (slots, *drawn), reverse=True)
    moments, opacity = moments.transpose(1, 0, 2), slots[:, GEOMETRY - 1]
    geometry = geometry_gradients(moments, [slots[:, i] for i in range(GEOMETRY - 1)])
    geometry.append(moments[0] / jnp.where(opacity > 0, opacity, 1.0))
    return jnp.stack(geometry + values, axis=-1).transpose(1, 0, 2)


_composite_chunks = jax.custom_vjp(_sum_chunks, nondiff_argnums=(2,))
_composite_chunks.defvjp(_composite_chunks_fwd, _composite_chunks_bwd)
