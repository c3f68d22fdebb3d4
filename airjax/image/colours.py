"""The linear colour solve: with the geometry fixed, the image is linear in the colours, so the best ones are a
least-squares problem, and a few conjugate-gradient steps from the predicted colours come close.

Letters: n Gaussians, c channels.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

DAMPING = 0.01  # against the squared norm of a weight, which is pi * scale^2, a few pixels squared


def solve_colors(
    draw: Callable[[Float[Array, "n c"]], Float[Array, "h w c"]],
    colors: Float[Array, "n c"],
    image: Float[Array, "h w c"],
    *,
    active: Bool[Array, " n"],
    norms: Float[Array, " n"],
    num_steps: int,
    damping: float = DAMPING,
) -> Float[Array, "n c"]:
    """Colours after `num_steps` of preconditioned conjugate gradients on

        min over d of |draw(colors + d) - image|^2 + damping * |d|^2,

    each channel a problem of its own, preconditioned by the diagonal of the normal equations.

    Args:
      draw: colours to image, linear, geometry fixed; its adjoint is taken by `jax.vjp`.
      colors: where to start.
      image: target.
      active: rows that may change; the others come back untouched.
      norms: squared norm of each weight over the image, sum of weight^2 (>= 0).
      num_steps: 0 returns `colors`.
      damping: > 0; keeps colours of nearly coinciding Gaussians from growing against each other.

    Returns:
      (n, c). Differentiable in everything that `draw` closes over, in `colors` and in `image`.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps: expected at least 0, got {num_steps}")
    if num_steps == 0:
        return colors
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
