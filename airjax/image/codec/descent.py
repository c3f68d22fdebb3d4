"""Descent on the integers of a file: rows change, or go, where that lowers distortion + slope * rate.

Rounding moves a refined set far from where it was best. Here every row proposes, in each sweep, one other set of
symbols: that one next to its own which a quadratic model likes best, with the colours that are best for it. What that
changes is then computed exactly, for that row alone: with f the row's share of the image, f' the proposed one and r the
residual, the change of half the squared error is

  -<r, f' - f> + |f' - f|^2 / 2.

Inner products with r are the transpose of drawing; those of f and f' have a closed form. Of all rows around a place
only the one that gains most moves, so that gains add up.

Letters: n rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray, size_of
from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians2D, join
from airjax.image.codec.lattice import (
    Lattice,
    Shape,
    classes_at,
    color_widths,
    gaussians_at,
    shape_of,
    symbols_of,
)
from airjax.image.codec.places import Layout, Places, places_at, rows_at
from airjax.image.codec.quantise import LUMA_CHROMA, SCALE_RANGE, SCALE_UNITS, Rows, dequantise
from airjax.image.codec.rate import Spreads, row_bits, spreads_of, symbol_bits
from airjax.inner.task import HEADROOMS
from airjax.programs import kept
from airjax.progress import Steps
from airjax.raster.draw import capacity_of, render
from airjax.raster.tiles import Capacity

_CELL = 8  # pixels; of the rows within so many cells of a place, one moves in a sweep
_AROUND = 2
_PASSED_OVER = 0.4  # of a row's moves in each sweep, so that one that is always refused does not stand in the way
_ROUND_UP = 0.6  # of colours, as `airjax.image.codec.quantise.round_colors`


def descend(
    stages: Sequence[Rows],
    image: Float[AnyArray, "h w 3"],
    *,
    slope: float,
    num_sweeps: int,
    progress: Steps | None = None,
) -> tuple[Rows, ...]:
    """The rows of all stages after `num_sweeps`, on concrete arrays; see `sweep`.

    The image may lie on a canvas (`airjax.image.canvas`). The number of sweeps done is told after each. Raises
    AirjaxError: the rows grew beyond what can be drawn.
    """
    layout = Layout(size_of(image), tuple(rows.patch_size for rows in stages))
    codes = [rows.codes for rows in stages]
    places = jax.tree.map(jnp.asarray, places_at([rows.patches for rows in stages], codes, layout))
    whole = np.concatenate([rows.symbols for rows in stages])
    symbols = jnp.asarray(np.pad(whole, ((0, len(places.slots) - len(whole)), (0, 0))), jnp.float32)
    active = places.slots < layout.num_slots
    stored = join([dequantise(rows, columns=grid[1]) for rows, grid in zip(stages, layout.grids, strict=True)])
    rooms, key, done = iter(HEADROOMS), jax.random.key(0), 0
    capacity = capacity_of(stored, image_size=layout.image_size, headroom=next(rooms))
    while done < num_sweeps:
        inputs = symbols, active, jnp.asarray(image), places, jnp.float32(slope), jax.random.fold_in(key, done)
        swept = sweep(*inputs, layout=layout, capacity=capacity)
        if not np.isfinite(swept.error):
            if (room := next(rooms, None)) is None:
                raise AirjaxError(f"descent: expected rows that can be drawn, got others after {done} sweeps")
            capacity = capacity_of(stored, image_size=layout.image_size, headroom=room)
            continue
        symbols, active, done = swept.symbols, swept.active, done + 1
        if progress is not None:
            progress(done)
    return rows_at(symbols, shape_of(symbols, places.codes).levels, active, places, layout, codes)


class Swept(NamedTuple):
    """The rows after a sweep, and what was there before it."""

    symbols: Float[Array, "n 8"]  # whole numbers
    active: Bool[Array, " n"]
    error: Float[Array, ""]  # half the squared error of the image
    bits: Float[Array, ""]
    moved: Float[Array, ""]  # number of rows that changed
    gain: Float[Array, ""]  # what that should have lowered error + slope * bits by


def _lattice(symbols: jax.Array, shape: Shape, active: jax.Array) -> Lattice:
    """Of whole symbols: an angle costs the logarithm of the number of angles."""
    return Lattice(
        symbols, shape.classes, shape.levels, shape.scale_step, shape.offset_step, shape.levels - 1.0, active
    )


@kept(static_argnames=("layout", "capacity"))
def sweep(
    symbols: Float[Array, "n 8"],
    active: Bool[Array, " n"],
    image: Float[AnyArray, "h w 3"],
    places: Places,
    slope: Float[AnyArray, ""],
    key: jax.Array,
    *,
    layout: Layout,
    capacity: Capacity,
) -> Swept:
    """One sweep; `slope` is what a bit is worth in half the squared error. NaN errors where the lists overflow."""
    codes, centers = places.codes, places.centers
    draw = partial(render, image_size=layout.image_size, capacity=capacity)
    shape = shape_of(symbols, codes)
    lattice = _lattice(symbols, shape, active)
    spreads = spreads_of(lattice, places)
    now = row_bits(lattice, spreads, places)

    def drawn(symbols):
        gaussians = gaussians_at(symbols, shape_of(symbols, codes), codes, centers, active)
        return draw(gaussians).image, gaussians

    rendered, transpose, own = jax.vjp(drawn, symbols, has_aux=True)
    residual = jnp.where(jnp.isnan(image), 0, image - rendered)
    slopes = transpose(residual)[0]  # of what a symbol explains of the residual

    moved = _best_moves(symbols, slopes, own, lattice, spreads, places, slope, key)
    proposes = active & jnp.any(moved != symbols, axis=1)
    recolored = jnp.any(moved[:, :3] != symbols[:, :3], axis=1)
    geometry = gaussians_at(moved, shape_of(moved, codes), codes, centers, active)
    geometry = jax.tree.map(lambda a, b: jnp.where(recolored.reshape(-1, *(1,) * (a.ndim - 1)), a, b), own, geometry)
    # The same place and turn in the steps of the new shape.
    proposed, new_shape = symbols_of(geometry, moved[:, :3], centers, codes)
    other = gaussians_at(proposed, new_shape, codes, centers, active)

    _, collect = jax.vjp(lambda colors: draw(other.with_colors(colors)).image, jnp.zeros_like(other.colors))
    explained = collect(residual)[0]
    shared = _overlap(own, other)
    colors = jnp.where(active[:, None], own.colors, 0.0)
    area = math.pi * new_shape.a * new_shape.b
    best = (explained + colors * shared[:, None]) / area[:, None]
    best = jnp.dot(best, jnp.asarray(LUMA_CHROMA, best.dtype).T, precision="highest")
    best = best * jnp.sqrt(new_shape.a * new_shape.b)[:, None] / color_widths(codes)
    best = jnp.sign(best) * jnp.floor(jnp.abs(best) + (1 - _ROUND_UP))
    fits = (classes_at(best) == new_shape.classes) & jnp.any(best != 0, axis=1)
    proposed = proposed.at[:, :3].set(jnp.where(fits[:, None], best, proposed[:, :3]))
    other = gaussians_at(proposed, new_shape, codes, centers, active)
    other_colors = jnp.where(active[:, None], other.colors, 0.0)

    before = jnp.sum(slopes[:, :3] * symbols[:, :3], axis=1)
    own_norm = math.pi * shape.a * shape.b * jnp.sum(jnp.square(colors), axis=1)
    norm = area * jnp.sum(jnp.square(other_colors), axis=1) + own_norm
    norm = norm - 2 * shared * jnp.sum(other_colors * colors, axis=1)
    bits = row_bits(_lattice(proposed, new_shape, active), spreads, places)
    change = before - jnp.sum(other_colors * explained, axis=1) + 0.5 * norm + slope * (bits - now)
    low, high = (2.0 ** (limit / SCALE_UNITS) for limit in SCALE_RANGE)
    possible = proposes & (new_shape.b > 1.01 * low) & (new_shape.a < 0.99 * high)
    change = jnp.where(possible, change, jnp.inf)
    leaving = jnp.where(active, before + 0.5 * own_norm - slope * now, jnp.inf)
    leaves = leaving < change
    change = jnp.minimum(change, leaving)

    chosen = (change < 0) & _is_best_around(change, own.means, layout.image_size)
    return Swept(
        jnp.where((chosen & ~leaves)[:, None], proposed, symbols),
        active & ~(chosen & leaves),
        0.5 * jnp.sum(jnp.square(residual)),
        jnp.sum(now),
        jnp.sum(chosen, dtype=jnp.float32),
        -jnp.sum(jnp.where(chosen, change, 0.0)),
    )


def _best_moves(
    symbols, slopes, own: Gaussians2D, lattice: Lattice, spreads: Spreads, places: Places, slope, key
) -> Float[Array, "n 8"]:
    """Symbols with one of each row moved by one, where a quadratic model says that this lowers the sum."""
    curvature = _curvature(own, lattice, places)
    before = symbol_bits(lattice, spreads, places)

    def change(step):
        bits = symbol_bits(lattice._replace(values=symbols + step), spreads, places) - before
        return -slopes * step + 0.5 * curvature + slope * bits

    down, up = change(-1.0), change(1.0)
    down = down.at[:, 4].set(jnp.where(symbols[:, 4] > 0, down[:, 4], jnp.inf))
    changes = jnp.concatenate([down, up], axis=1)
    # One angle alone cannot be turned.
    alone = (lattice.levels < 2)[:, None] & (jnp.arange(16) % 8 == 5)[None]
    changes = jnp.where(alone | jax.random.bernoulli(key, _PASSED_OVER, changes.shape), jnp.inf, changes)
    pick = jnp.argmin(changes, axis=1)
    steps = jax.nn.one_hot(pick % 8, 8) * jnp.where(pick < 8, -1.0, 1.0)[:, None]
    return symbols + jnp.where((jnp.min(changes, axis=1) < 0)[:, None], steps, 0.0)


def _curvature(own: Gaussians2D, lattice: Lattice, places: Places) -> Float[Array, "n 8"]:
    """Second derivatives of half the squared error of a row by its symbols (`airjax.image.codec.quantise`)."""
    widths = color_widths(places.codes)
    energy = math.pi * jnp.sum(jnp.square(lattice.values[:, :3] * widths), axis=1)
    a, b = own.scales[:, 0], own.scales[:, 1]
    cos2, sin2 = jnp.cos(own.angles) ** 2, jnp.sin(own.angles) ** 2
    scale = energy * (lattice.scale_step * math.log(2)) ** 2
    angle = energy * (a / b - b / a) ** 2 / 4 * (math.pi / lattice.levels) ** 2
    x, y = (
        0.5 * energy * lattice.offset_step**2 * part for part in (cos2 / a**2 + sin2 / b**2, sin2 / a**2 + cos2 / b**2)
    )
    geometry = jnp.stack([scale, 0.5 * scale, angle, x, y], axis=1)
    return jnp.concatenate([math.pi * jnp.square(widths), geometry], axis=1)


def _overlap(first: Gaussians2D, second: Gaussians2D) -> Float[Array, " n"]:
    """Integral over the plane of the product of the weights of every row of both sets; pixels^2."""

    def covariance(g):
        a2, b2, cos, sin = g.scales[:, 0] ** 2, g.scales[:, 1] ** 2, jnp.cos(g.angles), jnp.sin(g.angles)
        return a2 * cos**2 + b2 * sin**2, (a2 - b2) * cos * sin, a2 * sin**2 + b2 * cos**2

    xx, xy, yy = (p + q for p, q in zip(covariance(first), covariance(second), strict=True))
    determinant = xx * yy - xy * xy
    x, y = (second.means - first.means).T
    exponent = 0.5 * (yy * x * x - 2 * xy * x * y + xx * y * y) / determinant
    areas = jnp.prod(first.scales, axis=1) * jnp.prod(second.scales, axis=1)
    return 2 * math.pi * areas / jnp.sqrt(determinant) * jnp.exp(-exponent)


def _is_best_around(change: Float[Array, " n"], means: Float[Array, "n 2"], image_size: tuple[int, int]) -> jax.Array:
    """Whether no other row within _AROUND cells lowers the sum more."""
    rows, columns = (-(-side // _CELL) for side in image_size)
    column, row = jnp.floor(means / _CELL).astype(jnp.int32).T
    cell = jnp.clip(row, 0, rows - 1) * columns + jnp.clip(column, 0, columns - 1)
    best = jax.ops.segment_min(change, cell, rows * columns).reshape(rows, columns)
    window = (2 * _AROUND + 1,) * 2
    around = jax.lax.reduce_window(best, jnp.inf, jax.lax.min, window, (1, 1), "SAME")
    return change <= around.ravel()[cell]
