"""The linear colour solve: with the geometry fixed, the image is linear in the colours, so the best ones are a
least-squares problem, and a few conjugate-gradient steps from the predicted colours come close.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray, size_of
from airjax.gaussians import CUTOFF_RADIUS, Gaussians2D, pad, take
from airjax.image.canvas import without_canvas
from airjax.image.strips import by_strips, strips_of
from airjax.programs import kept
from airjax.progress import Count
from airjax.raster.additive import ColorMap
from airjax.raster.draw import TILE_SIZE, planned_lists, render, slots_for
from airjax.raster.tiles import TiledImage, TileLists, tiled

DAMPING = 0.01  # against the squared norm of a weight, which is pi * scale^2, a few pixels squared


def solve_colors(
    draw: Callable[[Float[Array, "n c"]], Float[Array, ...]],
    colors: Float[AnyArray, "n c"],
    image: Float[AnyArray, ...],
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
    n, image = gaussians.num_slots, without_canvas(image)
    gaussians = pad(gaussians, slots_for(gaussians, image_size=size_of(image)))
    lists = planned_lists(gaussians, image_size=size_of(image))
    return np.asarray(_solve(gaussians, lists, tiled(image, TILE_SIZE), num_steps=num_steps))[:n]


@kept(static_argnames="num_steps")
def _solve(gaussians: Gaussians2D, lists: TileLists, image: TiledImage, *, num_steps: int) -> Float[Array, "n c"]:
    there = ~jnp.isnan(image.tiles[:, : TILE_SIZE**2])
    colored = ColorMap.of(gaussians, lists, image.tiling(TILE_SIZE), there.astype(image.tiles.dtype))
    norms = colored.norms(gaussians.num_slots)
    tiles = jnp.nan_to_num(image.tiles)
    return solve_colors(
        colored.draw, gaussians.colors, tiles, active=gaussians.active, norms=norms, num_steps=num_steps
    )
