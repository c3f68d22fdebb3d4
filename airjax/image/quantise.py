"""The quantiser: Gaussians of a patch grid to integers, and the integers back to the same float32 numbers everywhere.

A uniform quantiser per channel is not enough: what an error costs depends on the Gaussian. With n = colour * sqrt(a b)
for scales a >= b, the squared error of an image caused by a small change is

  pi |dn|^2,   pi |n|^2 |d ln scale|^2 * 3/4,   pi |n|^2 dx^2 / (2 a^2),   pi |n|^2 dangle^2 (a/b - b/a)^2 / 4,

so colours are stored as n, whose step is the same for all, and the steps of the geometry shrink with |n|: equal slopes of
distortion over rate, the condition of optimal allocation (reverse water-filling). |n| is known to the decoder as a
power of two, the `class` of a row, from its stored colour. Steps are predicted per image and stage, and stored.

Letters: n rows, s symbols of a row (luma, two chroma, log scale, log aspect, angle, offset x, y), P patch size.
Everything that a decoder does is integer arithmetic and single float64 operations of IEEE 754, in a fixed order: no
exponential, no sine, hence the same bits on every machine. docs/format.md repeats these formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from airjax.gaussians import Gaussians2D

# Luma and two chroma axes: orthonormal, so that an error of RGB is an error of the same size here.
LUMA_CHROMA = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3.0], [2.0], [6.0]])
SYMBOLS = ("luma", "chroma 1", "chroma 2", "scale", "aspect", "angle", "offset x", "offset y")
WIDTHS = ("luma", "chroma", "offset", "scale", "angle")  # of the bins; the scale also has a predicted centre
NUM_CODES = len(WIDTHS) + 1

MAX_CLASS = 8
MAX_LEVELS = 256  # of the angle
WIDTH_UNITS = 8  # codes of a bin width per octave
CENTER_UNITS = 16  # codes of the scale's centre per octave
SCALE_UNITS = 256  # an octave of a stored scale
CODE_RANGE = (-128, 127)
_SPAN = 2.0  # octaves by which a prediction may leave the defaults, up and down
# Bin widths against that of the luma (colours) and against equal slopes (geometry), before any prediction.
_DEFAULTS = (1.0, 1.25, 1.6, 2.0, 1.6)


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
    used: Bool[Array, " n"]


def _round(x):
    """To the nearest integer; the gradient is that of the identity (straight-through)."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


def predicted_codes(
    votes: Float[Array, " 6"], color_step: Float[Array, ""], *, patch_size: int
) -> Float[Array, " 6"]:
    """Codes of a stage's bin widths and of its scale centre, rounded straight through.

    Args:
      votes: mean over the patches of what the network says; 0 for the defaults, bounded here by tanh.
      color_step: bin width of the luma that quality asks for (> 0), in intensity times pixels.
      patch_size: P.
    """
    shift = _SPAN * jnp.tanh(votes)
    base = jnp.log2(jnp.asarray(_DEFAULTS, votes.dtype))
    step = jnp.log2(color_step)
    base = base + jnp.stack([step, step, *[jnp.zeros_like(step)] * 3])
    widths = WIDTH_UNITS * (base + shift[: len(WIDTHS)])
    center = CENTER_UNITS * (math.log2(0.3 * patch_size) + shift[len(WIDTHS) :])
    return jnp.clip(_round(jnp.concatenate([widths, center])), *CODE_RANGE)


def canonical(gaussians: Gaussians2D, xp=jnp) -> tuple[Array, Array, Array]:
    """(a, b, angle in [0, pi)) with a >= b; the same Gaussians."""
    first, second = gaussians.scales[:, 0], gaussians.scales[:, 1]
    swap = second > first
    angle = xp.where(swap, gaussians.angles + math.pi / 2, gaussians.angles)
    return xp.where(swap, second, first), xp.where(swap, first, second), xp.mod(angle, math.pi)


def straight_through(
    gaussians: Gaussians2D, centers: Float[Array, "n 2"], codes: Float[Array, " 6"]
) -> tuple[Gaussians2D, Lattice]:
    """The set as a file would give it back, with gradients as if nothing had been rounded; bin widths get theirs too.

    Rows whose colour rounds to zero become inactive. Float32, so a number may round to the neighbour of what
    `quantise` gives.
    """
    dtype = gaussians.means.dtype
    stop = jax.lax.stop_gradient
    on = gaussians.active
    widths = jnp.exp2(codes[: len(WIDTHS)] / WIDTH_UNITS)
    center = codes[len(WIDTHS)] / CENTER_UNITS
    a, b, angle = canonical(gaussians)
    a, b = (jnp.where(on, x, 1.0) for x in (a, b))
    matrix = jnp.asarray(LUMA_CHROMA, dtype)
    color_widths = jnp.stack([widths[0], widths[1], widths[1]])
    colors = jnp.where(on[:, None], gaussians.colors, 0.0)
    amplitude = jnp.dot(colors, matrix.T, precision="highest") * jnp.sqrt(a * b)[:, None]
    n = amplitude / color_widths[None]
    square = jnp.sum(jnp.square(stop(jnp.round(n))), axis=1)
    classes = sum((square >= 2 * 4**k).astype(dtype) for k in range(MAX_CLASS))
    gain = jnp.exp2(-classes)

    scale_step = widths[3] * gain
    v_scale = (jnp.log2(a) - center) / scale_step
    log_a = center + _round(v_scale) * scale_step
    v_aspect = jnp.maximum((log_a - jnp.log2(b)) / scale_step, 0.0)
    log_b = log_a - _round(v_aspect) * scale_step
    new_a, new_b = jnp.exp2(log_a), jnp.exp2(log_b)

    ratio = new_a / new_b
    aspect = math.pi / 2 * (ratio - 1 / ratio) / (widths[4] * gain)
    levels = stop(jnp.where(aspect < 1.5, 1.0, jnp.clip(jnp.round(aspect), 1, MAX_LEVELS)))
    v_angle = angle / math.pi * levels
    new_angle = _round(v_angle) / levels * math.pi

    offset_step = 2 * widths[2] * gain * stop(jax.lax.rsqrt(new_a**-2 + new_b**-2))
    v_offset = (gaussians.means - centers) / offset_step[:, None]
    means = centers + _round(v_offset) * offset_step[:, None]
    new_colors = _round(n) * color_widths[None] / jnp.sqrt(new_a * new_b)[:, None]
    used = on & (square > 0)
    drawn = Gaussians2D(
        jnp.where(used[:, None], means, centers),
        jnp.stack([new_a, new_b], axis=-1),
        new_angle,
        jnp.dot(new_colors, matrix, precision="highest"),
        used,
    )
    values = jnp.concatenate([n, v_scale[:, None], v_aspect[:, None], v_angle[:, None], v_offset], axis=1)
    return drawn, Lattice(values, classes, levels, scale_step, offset_step, aspect, used)
