"""How many bits a set will take in a file, as a differentiable number: the rate of the training.

Letters: n rows, S stages, K classes. Every symbol counts as -log2 of the probability of its bin under a Laplace
distribution. For colours its scale is what the neighbours of the row hold, which the file's adaptive model sees too;
for geometry it is trained along with the networks, per stage and class, and used nowhere else.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.image.codec.quantise import MAX_CLASS, Lattice

_LOG2E = float(np.log2(np.e))
# Standard sizes: scale and aspect in octaves, offset in pixels of an 8-pixel patch.
_START = np.log(np.array([0.5, 0.5, 2.0], np.float32))


def init_rate(num_stages: int) -> dict[str, Any]:
    """Fresh parameters: logarithms of the spread of (scale, aspect, offset), per stage and class."""
    return {"log_spread": jnp.broadcast_to(jnp.asarray(_START), (num_stages, MAX_CLASS + 1, len(_START)))}


def laplace_bits(values: Float[Array, ...], spread: Float[Array, ...]) -> Float[Array, ...]:
    """-log2 of the mass of [v - 1/2, v + 1/2] under a Laplace distribution of mean magnitude `spread` (> 0)."""
    magnitude = jnp.abs(values)
    far = (magnitude - 0.5) / spread * _LOG2E - jnp.log2(0.5 * -jnp.expm1(-1 / spread))
    near = jnp.minimum(magnitude, 0.5)
    mass = 1 - 0.5 * (jnp.exp(-(0.5 + near) / spread) + jnp.exp(-(0.5 - near) / spread))
    return jnp.where(magnitude > 0.5, far, -jnp.log2(mass))


def _neighbour_mean(x: Float[Array, "n k"], used, grid: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Mean over the used rows among the eight around each, and whether there is one."""
    weight = used.astype(x.dtype)[:, None]
    field = jnp.concatenate([x * weight, weight], axis=1).reshape(*grid, -1)
    padded = jnp.pad(field, ((1, 1), (1, 1), (0, 0)))
    rows, columns = grid
    around = sum(padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)) - field
    around = around.reshape(len(x), -1)
    count = around[:, -1:]
    return around[:, :-1] / jnp.maximum(count, 1), count > 0


def estimated_bits(lattice: Lattice, rate: dict[str, Any], *, stage: int, grid: tuple[int, int]) -> Float[Array, ""]:
    """Bits of one stage of one image, without the mask of its patches.

    The lattice has the rows of all patches of the (rows, columns) grid, `rate` the parameters of `init_rate`. Colours
    of stage 0 are predicted from their neighbours.
    """
    v, used = lattice.values, lattice.used
    colors = v[:, :3]
    stopped = jax.lax.stop_gradient(jnp.round(colors))
    if stage == 0:
        mean, known = _neighbour_mean(stopped, used, grid)
        colors = colors - jnp.where(known, mean, 0.0)
        stopped = jax.lax.stop_gradient(colors)
    # Half from the neighbourhood, half from the whole stage: what an adaptive model ends up knowing.
    count = jnp.maximum(jnp.sum(used, dtype=v.dtype), 1)
    overall = jnp.sum(jnp.where(used[:, None], jnp.abs(stopped), 0.0), axis=0) / count
    local, known = _neighbour_mean(jnp.abs(stopped), used, grid)
    spread = 0.5 * overall[None] + 0.5 * jnp.where(known, local, overall[None]) + 0.1
    bits = jnp.sum(laplace_bits(colors, spread), axis=1)

    spreads = jnp.exp(rate["log_spread"][stage][lattice.classes.astype(jnp.int32)])
    bits += laplace_bits(v[:, 3], spreads[:, 0] / lattice.scale_step)
    bits += laplace_bits(v[:, 4], spreads[:, 1] / lattice.scale_step)
    bits += jnp.log2(1 + lattice.aspect)
    bits += jnp.sum(laplace_bits(v[:, 6:], spreads[:, 2:] / lattice.offset_step[:, None]), axis=1)
    return jnp.sum(jnp.where(used, bits, 0.0))
