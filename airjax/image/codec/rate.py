"""How many bits a set will take in a file, as a differentiable number: the rate in the loss of training and refinement.

Letters: n rows. Every symbol counts as -log2
of the probability of its bin under a Laplace distribution, whose spread is what the adaptive tables of the file end up
knowing: of colours, half from the neighbours of the row and half from all rows; of geometry, from the rows of the same
context. Spreads are constants to every gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from airjax.image.codec.lattice import Lattice
from airjax.image.codec.places import Places
from airjax.image.codec.quantise import MAX_CLASS

_LOG2E = float(np.log2(np.e))
MASK_BITS = 2.3  # that say where a row is
_OFFSET_TABLES, _FINEST = 31, -20  # of steps from 2^(-20 / 2) of a patch on, half an octave apart


class Spreads(NamedTuple):
    """What the tables of a file know of its symbols; mean magnitudes."""

    colors: Float[Array, "n 3"]
    predicted: Float[Array, "n 3"]  # what colours are expected to be: those of the neighbours in the first stage
    scale: Float[Array, " k"]  # by class
    aspect: Float[Array, " k"]
    offset: Float[Array, "t 2"]  # by half octave of the step over the patch size


def laplace_bits(values: Float[Array, ...], spread: Float[Array, ...]) -> Float[Array, ...]:
    """-log2 of the mass of [v - 1/2, v + 1/2] under a Laplace distribution of mean magnitude `spread` (> 0)."""
    magnitude = jnp.abs(values)
    far = (magnitude - 0.5) / spread * _LOG2E - jnp.log2(0.5 * -jnp.expm1(-1 / spread))
    near = jnp.minimum(magnitude, 0.5)
    mass = 1 - 0.5 * (jnp.exp(-(0.5 + near) / spread) + jnp.exp(-(0.5 - near) / spread))
    return jnp.where(magnitude > 0.5, far, -jnp.log2(mass))


def _around(values: Float[Array, "n k"], places: Places) -> Float[Array, "n k"]:
    """Sums over the rows in the eight patches around each, of its stage."""
    rows = (values.at[places.around[:, i]].get(mode="fill", fill_value=0) for i in range(places.around.shape[1]))
    return sum(rows, jnp.zeros_like(values))


def _offset_table(lattice: Lattice, places: Places) -> Int[Array, " n"]:
    octave = jnp.floor(2 * jnp.log2(lattice.offset_step / places.patch_sizes)).astype(jnp.int32)
    return jnp.clip(octave - _FINEST, 0, _OFFSET_TABLES - 1)


def spreads_of(lattice: Lattice, places: Places, *, weights: Float[Array, " n"] | None = None) -> Spreads:
    """The spreads of a set; a row counts `weights` times (None: once), if it is used."""
    lattice = jax.lax.stop_gradient(lattice)
    weight = lattice.used.astype(lattice.values.dtype)
    if weights is not None:
        weight = weight * jax.lax.stop_gradient(weights)
    colors, first = lattice.values[:, :3], jnp.asarray(places.first)
    seen = jnp.concatenate([jnp.abs(colors), colors, jnp.ones_like(colors[:, :1])], axis=1) * weight[:, None]
    seen = _around(seen, places)
    count = seen[:, 6:]
    known = count > 0.5
    magnitude, mean = seen[:, :3] / jnp.maximum(count, 0.5), seen[:, 3:6] / jnp.maximum(count, 0.5)
    predicted = jnp.where(first[:, None] & known, mean, 0.0)
    away = jnp.abs(colors - predicted)

    def overall(chosen):
        part = weight * chosen.astype(weight.dtype)
        return jnp.sum(away * part[:, None], axis=0) / jnp.maximum(jnp.sum(part), 1.0)

    of_all = jnp.where(first[:, None], overall(first)[None], overall(~first)[None])
    local = jnp.where(known & ~first[:, None], magnitude, of_all)

    def by(table, values, count):
        sums = jax.ops.segment_sum(jnp.abs(values) * weight, table, count)
        return (sums + 1) / (jax.ops.segment_sum(weight, table, count) + 1) + 0.05

    classes, steps = lattice.classes.astype(jnp.int32), _offset_table(lattice, places)
    return Spreads(
        colors=0.5 * of_all + 0.5 * local + 0.1,
        predicted=predicted,
        scale=by(classes, lattice.values[:, 3], MAX_CLASS + 1),
        aspect=by(classes, lattice.values[:, 4], MAX_CLASS + 1),
        offset=jnp.stack([by(steps, lattice.values[:, i], _OFFSET_TABLES) for i in (6, 7)], axis=1),
    )


def symbol_bits(lattice: Lattice, spreads: Spreads, places: Places) -> Float[Array, "n 8"]:
    """Bits of every symbol of every row, used or not."""
    v, classes, steps = lattice.values, lattice.classes.astype(jnp.int32), _offset_table(lattice, places)
    angle = jnp.log2(1 + lattice.aspect)
    shape = jnp.stack([spreads.scale[classes], spreads.aspect[classes], jnp.ones_like(angle)], axis=1)
    spread = jnp.concatenate([spreads.colors, shape, spreads.offset[steps]], axis=1)
    expected = jnp.pad(spreads.predicted, ((0, 0), (0, 5)))
    return laplace_bits(v - expected, spread).at[:, 5].set(angle)


def row_bits(lattice: Lattice, spreads: Spreads, places: Places) -> Float[Array, " n"]:
    """Bits of every row, and of saying where it is; 0 of those not used."""
    return jnp.where(lattice.used, jnp.sum(symbol_bits(lattice, spreads, places), axis=1) + MASK_BITS, 0.0)


def existence(amplitudes: Float[Array, "n 3"], *, half: float = 1.5) -> Float[Array, " n"]:
    """1 for rows that are surely kept, towards 0 for those that rounding will drop: 1 - exp(-|n|^2 / (2 half^2)).

    The bits of a row are multiplied by it, so that a weak row is pushed out of existence with all that it costs (the
    idea of OIC-GS, arXiv 2609.34367).
    """
    return 1 - jnp.exp(-jnp.sum(jnp.square(amplitudes), axis=1) / (2 * half**2))


def estimated_bits(lattice: Lattice, places: Places) -> Float[Array, ""]:
    """Bits of all stages of one image, each row weighing as much as it is sure to be kept."""
    exists = existence(lattice.values[:, :3])
    spreads = spreads_of(lattice, places, weights=exists)
    return jnp.sum(exists * row_bits(lattice, spreads, places))
