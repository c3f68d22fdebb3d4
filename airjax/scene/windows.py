"""Expectations over the planes around the best one: a depth at an edge is then not the mean of two surfaces."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

REACH = 2  # planes on either side of the best one


def window_mass(scores: Float[Array, "*n d"]) -> tuple[Float[Array, "*n d"], Float[Array, "*n"]]:
    """Probabilities of the planes around the best one, given that it is one of these; and that of it being one."""
    numbers = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    inside = jnp.abs(numbers - jnp.argmax(scores, axis=-1, keepdims=True)) <= REACH
    weights = jax.nn.softmax(jnp.where(inside, scores, -jnp.inf), axis=-1)
    mass = jnp.sum(jnp.where(inside, jax.nn.softmax(scores, axis=-1), 0.0), axis=-1)
    return weights, jnp.minimum(mass, 1.0)


def windowed(
    scores: Float[Array, "*n d"], values: Float[Array, "*#n d"]
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """The mean of `values` over the planes around the best one, and the probability of these planes."""
    weights, mass = window_mass(scores)
    return jnp.sum(weights * values, axis=-1), mass
