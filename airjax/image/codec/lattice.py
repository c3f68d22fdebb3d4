"""The quantiser inside JAX: where Gaussians lie between its integers, and what integers stand for, differentiable.

All is float32 here, so a number close to the middle between two integers may go the other way than in
`airjax.image.codec.quantise`, which has the last word.

Letters: n rows, s symbols of a row. Every row has the codes of its stage and the centre of its patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.gaussians import Gaussians2D
from airjax.image.codec.quantise import (
    CENTER_UNITS,
    CODE_RANGE,
    DEFAULT_WIDTHS,
    LEVELS,
    LEVELS_FROM,
    LUMA_CHROMA,
    MAX_CLASS,
    SCALE_UNITS,
    WIDTH_UNITS,
    WIDTHS,
    canonical,
    round_colors,
)

_SPAN = 2.0  # octaves by which a prediction may leave the defaults, up and down


class Lattice(NamedTuple):
    """Where the rows lie between the integers; what a rate is estimated from.

    Fields:
      values: (n, 8) symbols before rounding, the angle's in [0, levels).
      classes: (n,) octave of the amplitude, float.
      levels: (n,) number of angles, float.
      scale_step: (n,) octaves. offset_step: (n,) pixels.
      aspect: (n,) pi 2^class (a/b - b/a) / (2 width): the number of angles before rounding.
      used: (n,) bool, active and not of colour zero.
    """

    values: Float[Array, "n 8"]
    classes: Float[Array, " n"]
    levels: Float[Array, " n"]
    scale_step: Float[Array, " n"]
    offset_step: Float[Array, " n"]
    aspect: Float[Array, " n"]
    used: Bool[AnyArray, " n"]


class Shape(NamedTuple):
    """What the first five symbols of a row say of the others, (n,) each."""

    a: Float[Array, " n"]
    b: Float[Array, " n"]
    classes: Float[Array, " n"]
    levels: Float[Array, " n"]
    scale_step: Float[Array, " n"]
    offset_step: Float[Array, " n"]
    aspect: Float[Array, " n"]


def predicted_codes(votes: Float[Array, " 6"], color_step: Float[Array, ""], *, patch_size: int) -> Float[Array, " 6"]:
    """Codes of a stage's bin widths and of its scale centre, rounded straight through.

    Votes are the mean over the patches of what the network says; 0 for the defaults, bounded here by tanh. The luma has
    the bin width `color_step` (> 0) that quality asks for, in intensity times pixels.
    """
    shift = _SPAN * jnp.tanh(votes)
    base = jnp.log2(jnp.asarray(DEFAULT_WIDTHS, votes.dtype))
    step = jnp.log2(color_step)
    base = base + jnp.stack([step, step, *[jnp.zeros_like(step)] * 3])
    widths = WIDTH_UNITS * (base + shift[: len(WIDTHS)])
    center = CENTER_UNITS * (math.log2(0.3 * patch_size) + shift[len(WIDTHS) :])
    return jnp.clip(_round(jnp.concatenate([widths, center])), *CODE_RANGE)


def _round(x):
    """To the nearest integer; the gradient is that of the identity (straight-through)."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


def _widths(codes: Float[AnyArray, "n 6"]) -> Float[Array, "n 5"]:
    return jnp.exp2(codes[:, : len(WIDTHS)] / WIDTH_UNITS)


def color_widths(codes: Float[AnyArray, "n 6"]) -> Float[Array, "n 3"]:
    """Bin widths of luma and both chroma, in intensity times pixels."""
    luma, chroma = _widths(codes)[:, 0], _widths(codes)[:, 1]
    return jnp.stack([luma, chroma, chroma], axis=1)


def classes_at(colors: Float[Array, "n 3"]) -> Float[Array, " n"]:
    """Octave of the amplitude of colours in bins; constant to every gradient."""
    square = jnp.sum(jnp.square(jax.lax.stop_gradient(colors)), axis=1)
    return sum(((square >= 2 * 4**k).astype(colors.dtype) for k in range(MAX_CLASS)), jnp.zeros_like(square))


def shape_of(symbols: Float[Array, "n s"], codes: Float[AnyArray, "n 6"]) -> Shape:
    """The shape of rows from their first five symbols, whole numbers or not; scales are those that a file can say."""
    widths, classes = _widths(codes), classes_at(symbols[:, :3])
    gain = jnp.exp2(-classes)
    step = widths[:, 3] * gain
    log_a = _stored(codes[:, len(WIDTHS)] / CENTER_UNITS + symbols[:, 3] * step, _round)
    return _shape(log_a, _stored(log_a - symbols[:, 4] * step, _round), classes, widths)


def _stored(log_scales, round_: Callable):
    """Logarithms of scales, rounded to what a file can say."""
    return round_(SCALE_UNITS * log_scales) / SCALE_UNITS


def _shape(log_a, log_b, classes, widths) -> Shape:
    stop = jax.lax.stop_gradient
    gain = jnp.exp2(-classes)
    a, b = jnp.exp2(log_a), jnp.exp2(log_b)
    ratio = a / b
    # a / b of a round one may be a rounding below 1.
    aspect = jnp.maximum(math.pi / 2 * (ratio - 1 / ratio) / (widths[:, 4] * gain), 0.0)
    index = jnp.sum(stop(aspect)[:, None] >= jnp.asarray(LEVELS_FROM, a.dtype)[None], axis=1) - 1
    offset_step = 2 * widths[:, 2] * gain * stop(jax.lax.rsqrt(a**-2 + b**-2))
    return Shape(a, b, classes, jnp.asarray(LEVELS, a.dtype)[index], widths[:, 3] * gain, offset_step, aspect)


def amplitudes_in_bins(gaussians: Gaussians2D, codes: Float[AnyArray, "n 6"]) -> Float[Array, "n 3"]:
    """Colours times sqrt(a b) in luma and chroma, in bins; 0 where inactive."""
    on = gaussians.active[:, None]
    colors, scales = jnp.where(on, gaussians.colors, 0.0), jnp.where(on, gaussians.scales, 1.0)
    matrix = jnp.asarray(LUMA_CHROMA, colors.dtype)
    amplitude = jnp.dot(colors, matrix.T, precision="highest") * jnp.sqrt(scales[:, :1] * scales[:, 1:])
    return amplitude / color_widths(codes)


def gaussians_at(
    symbols: Float[Array, "n 8"],
    shape: Shape,
    codes: Float[AnyArray, "n 6"],
    centers: Float[AnyArray, "n 2"],
    active: Bool[AnyArray, " n"],
) -> Gaussians2D:
    """The Gaussians of rows of symbols, whole numbers or not, whose `shape_of` is given."""
    means = centers + symbols[:, 6:] * shape.offset_step[:, None]
    normal = symbols[:, :3] * color_widths(codes) / jnp.sqrt(shape.a * shape.b)[:, None]
    colors = jnp.dot(normal, jnp.asarray(LUMA_CHROMA, normal.dtype), precision="highest")
    angles = symbols[:, 5] / shape.levels * math.pi
    return Gaussians2D(means, jnp.stack([shape.a, shape.b], axis=-1), angles, colors, active)


def lattice_of(gaussians: Gaussians2D, centers: Float[AnyArray, "n 2"], codes: Float[AnyArray, "n 6"]) -> Lattice:
    """Where a set lies between the integers, nothing rounded: the shape of a row is its own."""
    return _symbols(gaussians, amplitudes_in_bins(gaussians, codes), centers, codes, lambda x: x)[2]


def straight_through(
    gaussians: Gaussians2D, centers: Float[AnyArray, "n 2"], codes: Float[AnyArray, "n 6"]
) -> tuple[Gaussians2D, Lattice]:
    """The set as a file would give it back, with gradients as if nothing had been rounded; bin widths get theirs too.

    Rows that are dropped have the colour zero, and a gradient that tells what colour they should have.
    """
    n = amplitudes_in_bins(gaussians, codes)
    rounded = n + jax.lax.stop_gradient(round_colors(n) - n)
    symbols, shape, lattice = _symbols(gaussians, rounded, centers, codes, _round)
    lattice = lattice._replace(values=jnp.concatenate([n, lattice.values[:, 3:]], axis=1))
    return gaussians_at(symbols, shape, codes, centers, gaussians.active), lattice


def symbols_of(
    gaussians: Gaussians2D, colors: Float[Array, "n 3"], centers: Float[AnyArray, "n 2"], codes: Float[AnyArray, "n 6"]
) -> tuple[Float[Array, "n 8"], Shape]:
    """Whole symbols of the geometry of a set, with these whole colours, and their shape; those of no gradient."""
    symbols, shape, _ = _symbols(gaussians, colors, centers, codes, jnp.round)
    return symbols.at[:, 5].set(jnp.mod(symbols[:, 5], shape.levels)), shape


def _symbols(gaussians, colors, centers, codes, round_: Callable) -> tuple[jax.Array, Shape, Lattice]:
    """Rounded symbols, their shape, and the lattice: what is rounded first decides the steps of what follows."""
    on = gaussians.active
    a, b, angle = canonical(gaussians)
    a, b, angle = jnp.where(on, a, 1.0), jnp.where(on, b, 1.0), jnp.where(on, angle, 0.0)
    widths, classes = _widths(codes), classes_at(colors)
    center = codes[:, len(WIDTHS)] / CENTER_UNITS
    step = widths[:, 3] * jnp.exp2(-classes)
    v_scale = (jnp.log2(a) - center) / step
    log_a = _stored(center + round_(v_scale) * step, round_)
    v_aspect = jnp.maximum((log_a - jnp.log2(b)) / step, 0.0)
    shape = _shape(log_a, _stored(log_a - round_(v_aspect) * step, round_), classes, widths)
    v_angle = angle / math.pi * shape.levels
    v_offset = (jnp.where(on[:, None], gaussians.means, centers) - centers) / shape.offset_step[:, None]
    values = jnp.concatenate([colors, v_scale[:, None], v_aspect[:, None], v_angle[:, None], v_offset], axis=1)
    symbols = jnp.concatenate([colors, round_(values[:, 3:])], axis=1)
    used = on & (jnp.sum(jnp.square(jax.lax.stop_gradient(colors)), axis=1) > 0)
    lattice = Lattice(values, classes, shape.levels, shape.scale_step, shape.offset_step, shape.aspect, used)
    return symbols, shape, lattice
