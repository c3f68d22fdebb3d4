"""The linear colour solve: with the geometry fixed, the image is linear in the colours, so the best ones are a
least-squares problem, and a few conjugate-gradient steps from the predicted colours come close.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.gaussians import CUTOFF_RADIUS, Gaussians2D, ladder, octaves, pad, take
from airjax.image.strips import by_strips, strips_of
from airjax.progress import Count
from airjax.raster.additive import draw_slots, slot_weights
from airjax.raster.draw import TILE_SIZE, planned_lists, render
from airjax.raster.tiles import TileLists, Tiling, gather_slots, trim

DAMPING = 0.01  # against the squared norm of a weight, which is pi * scale^2, a few pixels squared


def solve_colors(
    draw: Callable[[Float[Array, "n c"]], Float[Array, "h w c"]],
    colors: Float[AnyArray, "n c"],
    image: Float[AnyArray, "h w c"],
    *,
    active: Bool[AnyArray, " n"],
    norms: Float[Array, " n"],
    num_steps: int,
    damping: float = DAMPING,
) -> Float[Array, "n c"]:
    """Colours after `num_steps` >= 0 of preconditioned conjugate gradients on

        min over d of |draw(colors + d) - image|^2 + damping * |d|^2,

    each channel a problem of its own, preconditioned by the diagonal of the normal equations. Differentiable in
    everything that `draw` closes over, in `colors` and in `image`.

    Args:
      draw: colours to image, linear, geometry fixed; its adjoint is taken by `jax.vjp`.
      active: rows that may change; the others come back untouched.
      norms: squared norm of each weight over the image, sum of weight^2 (>= 0).
      damping: > 0; keeps colours of nearly coinciding Gaussians from growing against each other.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps: expected at least 0, got {num_steps}")
    if num_steps == 0:
        return jnp.asarray(colors)
    rendered, adjoint = jax.vjp(draw, jnp.where(active[:, None], colors, 0.0))
    inverse = jnp.where(active, 1.0 / (norms + damping), 0.0)[:, None]

    def dot(a, b):
        return jnp.sum(a * b, axis=0, keepdims=True)

    def ratio(a, b):
        # Zero over zero once a channel is solved (a flat image): no step.
        return jnp.where(b > 0, a, 0.0) / jnp.where(b > 0, b, 1.0)

    def step(carry, _):
        change, r, z, p, rz = carry
        applied = adjoint(draw(p))[0] + damping * p
        length = ratio(rz, dot(p, applied))
        change, r = change + length * p, r - length * applied
        z = inverse * r
        rz_next = dot(r, z)
        return (change, r, z, z + ratio(rz_next, rz) * p, rz_next), None

    r = adjoint(image - rendered)[0]
    z = inverse * r
    start = (jnp.zeros_like(colors), r, z, z, dot(r, z))
    (change, *_), _ = jax.lax.scan(step, start, None, length=num_steps)
    return jnp.where(active[:, None], colors + change, colors)


def solve(gaussians: Gaussians2D, image: np.ndarray, *, num_steps: int, progress: Count | None = None) -> Gaussians2D:
    """The colour solve of a whole image (all rows active).

    The image may lie on a canvas (`airjax.image.canvas`). A large one is solved in strips (`airjax.image.strips`): the
    Gaussians centred in a strip, against what all others leave over. Each strip can only lower the error, and memory is
    bounded. `progress` is told of the strips.
    """
    height, width = image.shape[:2]
    scales = np.asarray(gaussians.scales)
    strips = strips_of((height, width), reach=CUTOFF_RADIUS * float(np.max(scales, initial=0)) + 1)
    if len(strips) == 1:
        return gaussians.with_colors(_solve_window(gaussians, image, num_steps))
    gaussians = jax.tree.map(np.asarray, gaussians)
    y = np.clip(gaussians.means[:, 1], 0, height - 1)
    inside = [np.flatnonzero((y >= strip.owned[0]) & (y < strip.owned[1])) for strip in strips]
    parts = [moved(take(gaussians, rows), -strip.window[0]) for rows, strip in zip(inside, strips, strict=True)]

    def work(part: Gaussians2D, target: np.ndarray) -> Gaussians2D:
        return part.with_colors(_solve_window(part, target, num_steps)) if part.num_slots else part

    colors = np.array(gaussians.colors)
    for rows, part in zip(inside, by_strips(image, strips, parts, drawn, work, progress), strict=True):
        colors[rows] = part.colors
    return gaussians.with_colors(colors)


def moved(gaussians: Gaussians2D, down: int) -> Gaussians2D:
    """The set in coordinates whose origin lies that many rows of pixels higher."""
    return replace(gaussians, means=gaussians.means + np.array([[0, down]], np.float32))


def drawn(gaussians: Gaussians2D, image_size: tuple[int, int]) -> np.ndarray:
    """(h, w, c) image of a concrete set."""
    return np.asarray(render(gaussians, image_size=image_size).image)


def _solve_window(gaussians, image, num_steps) -> np.ndarray:
    """Solved colours of a set."""
    n = gaussians.num_slots
    gaussians = pad(gaussians, octaves(n))
    lists = planned_lists(gaussians, image_size=image.shape[:2])
    used = int(np.count_nonzero(lists.tiles < Tiling(image.shape[:2], TILE_SIZE).num_tiles))
    lists = trim(lists, min(ladder(used), lists.tiles.size))  # the weights of all chunks are stored
    return np.asarray(_solve(gaussians, lists, image, num_steps=num_steps))[:n]


@partial(jax.jit, static_argnames=("num_steps",))
def _solve(gaussians, lists, image, *, num_steps):
    tiling = Tiling(image.shape[:2], TILE_SIZE)
    slots = gather_slots(gaussians, lists, tiling)
    weights = slot_weights(slots, tile_size=TILE_SIZE) * _there(image, lists, tiling)[None]
    image = jnp.nan_to_num(image)
    norms = jnp.zeros((gaussians.num_slots,), weights.dtype)
    norms = norms.at[lists.ids].add(jnp.sum(jnp.square(weights), axis=1), mode="drop")
    draw = partial(draw_slots, weights, lists, tiling=tiling)
    return solve_colors(draw, gaussians.colors, image, active=gaussians.active, norms=norms, num_steps=num_steps)


def _there(image: Float[Array, "h w c"], lists: TileLists, tiling: Tiling) -> Float[Array, "Q M"]:
    """1 at the pixels of every chunk's tile where there is an image, else 0."""
    (rows, columns), size = tiling.grid, tiling.tile_size
    there = (~jnp.isnan(image[..., 0])).astype(image.dtype)
    there = jnp.pad(there, ((0, rows * size - there.shape[0]), (0, columns * size - there.shape[1])))
    tiles = there.reshape(rows, size, columns, size).transpose(0, 2, 1, 3).reshape(rows * columns, size * size)
    return tiles.at[lists.tiles].get(mode="fill", fill_value=0).T
