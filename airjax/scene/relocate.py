"""Relocation: Gaussians that show nothing are moved to where others have more to show than one Gaussian can.

3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al., 2024), in slots of a fixed number. A Gaussian that
is chosen N - 1 times is replaced by N in its place that together look about as it did (equation 9 there):

  opacity' = 1 - (1 - opacity)^(1 / N)
  scales' = scales * opacity / sum of (i - 1 over k) (-1)^k opacity'^(k + 1) / sqrt(k + 1), i of 1 .. N, k of 0 .. i - 1

Letters: n slots.
"""

from __future__ import annotations

from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from airjax.programs import kept
from airjax.scene.quaternions import rotations

GROWTH = 0.2  # of the Gaussians that are added at a time, at most
DEAD = 0.005  # an opacity below which a Gaussian shows nothing
MOST = 8  # that one Gaussian is divided into at a time


@kept()
def relocate(
    key: jax.Array,
    coordinates: Any,
    active: Bool[Array, " n"],
    useless: Bool[Array, " n"],
    inner_state: Any,
    *,
    most: Int[Array, ""] | int,
) -> tuple[Any, Bool[Array, " n"], Any]:
    """(coordinates, active, inner_state) after Gaussians that are useless were moved, and unused slots filled.

    Every place goes to a Gaussian drawn with a probability in proportion to its opacity, and is drawn itself from that
    Gaussian, whose moments it takes: with moments of 0 Adam's first steps would be several times the rate.

    Args:
      coordinates: `airjax.scene.task.Coordinates`.
      useless: Gaussians to move whatever their opacity; those of less than `DEAD` are moved anyway.
      inner_state: of the optimizer; every array of it whose first axis has n rows is about the slots.
      most: the first so many slots are filled, by a fifth of all Gaussians at a time; 0 to fill none.
    """
    n = len(active)
    key_pick, key_place = jax.random.split(key)
    opacities = jax.nn.sigmoid(coordinates.logits)
    live = active & (opacities > DEAD) & ~useless
    moved = active & ~live
    unused = ~active
    room = jnp.ceil(GROWTH * jnp.sum(live, dtype=jnp.float32)).astype(jnp.int32)
    filled = unused & (jnp.cumsum(unused, dtype=jnp.int32) <= room) & (jnp.arange(n) < most)
    target = (moved | filled) & jnp.any(live)
    heap = jnp.cumsum(jnp.where(live, opacities, 0.0))
    source = jnp.searchsorted(heap, jax.random.uniform(key_pick, (n,)) * heap[-1], side="right")
    source = jnp.minimum(source, n - 1)
    copies = jnp.zeros(n, jnp.int32).at[source].add(target.astype(jnp.int32))
    target &= copies[source] < MOST  # of a Gaussian that is drawn more often none is taken
    copies = jnp.zeros(n, jnp.int32).at[source].add(target.astype(jnp.int32))
    opacity, shrink = _divided(opacities, copies + 1)
    logits = jnp.where(copies > 0, jnp.log(opacity) - jnp.log1p(-opacity), coordinates.logits)
    log_scales = coordinates.log_scales + jnp.where(copies > 0, jnp.log(shrink), 0.0)[:, None]
    divided = coordinates._replace(logits=logits, log_scales=log_scales)

    def put(leaf):
        about_slots = jnp.ndim(leaf) > 0 and leaf.shape[0] == n
        return jnp.where(target.reshape(n, *(1,) * (leaf.ndim - 1)), leaf[source], leaf) if about_slots else leaf

    placed, inner_state = jax.tree.map(put, (divided, inner_state))
    offset = jax.random.normal(key_place, (n, 3)) * jnp.exp(placed.log_scales)
    offset = jnp.einsum("nij,nj->ni", rotations(placed.quats), offset, precision="highest")
    placed = placed._replace(means=placed.means + jnp.where(target[:, None], offset, 0.0))
    return placed, live | target, inner_state


def _divided(opacities: Float[Array, " n"], parts: jax.Array) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Opacity of each of so many parts (at most MOST), and what the scales are multiplied by."""
    opacity = 1 - (1 - jnp.clip(opacities, 0.0, 1 - 1e-4)) ** (1 / parts.astype(opacities.dtype))
    numbers = np.arange(MOST)
    signs = np.array([[comb(i, k) * (-1.0) ** k for i in numbers] for k in numbers], np.float32)
    terms = opacity[:, None] ** (numbers + 1.0)[None] / np.sqrt(numbers + 1.0)[None]
    sums = jnp.dot(terms.astype(opacities.dtype), signs, precision="highest")
    total = jnp.sum(jnp.where(numbers[None] < parts[:, None], sums, 0.0), axis=1)
    return jnp.maximum(opacity, 1.01 * DEAD), jnp.clip(opacities / jnp.maximum(total, 1e-12), 0.1, 1.0)
