"""Optimisers of the inner loop, and learning rates by attribute."""

from __future__ import annotations

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from airjax.errors import AirjaxError


def scaled_adam(
    rates: Any,
    *,
    warmup: int = 1,
    decay: float | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam with a learning rate per attribute; step k of 0, 1, .. is multiplied by

      min(1, (k + 1) / warmup) / sqrt(1 + k / decay)

    Adam's first steps go the full rate in every coordinate, however small its gradient; the warm-up of at least 1 step
    keeps them from spoiling a good start. The decay (> 0 steps) knows no last step: a loop may stop or go on anywhere.

    Args:
      rates: a prefix of the state's pytree, one number or one per row for each attribute (`scaled`); may be traced,
        so that rates can be learned.
      eps_root: inside the root. Adam's step has an infinite derivative where a second moment is 0; with the default,
        gradients far below 1e-4 move little, and the derivative is at most 1e4 times the rate.
    """

    def schedule(count):
        count = count.astype(jnp.float32)
        factor = jnp.minimum(1.0, (count + 1) / warmup)
        return factor if decay is None else factor * jax.lax.rsqrt(1 + count / decay)

    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root),
        optax.scale_by_schedule(schedule),
        scale_by_rates(rates),
    )


def scale_by_rates(rates: Any) -> optax.GradientTransformation:
    """Updates times minus the rate of their attribute (`scaled`); alone it is gradient descent."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(jnp.negative, scaled(rates, updates)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scaled(rates: Any, tree: Any) -> Any:
    """A pytree times its rates, a prefix of it; a rate that is an array has the first axes of its leaf."""

    def multiply(rate, leaf):
        rate = jnp.asarray(rate, leaf.dtype)
        return rate.reshape(rate.shape + (1,) * (leaf.ndim - rate.ndim)) * leaf

    return jax.tree.map(multiply, jax.tree.broadcast(rates, tree), tree)


def rates_to_text(rates: Any) -> str:
    """JSON of learning rates, a named tuple of numbers, as weights files hold them."""
    return json.dumps({name: float(rate) for name, rate in rates._asdict().items()})


def rates_from_text(text: str, *, kind: type, source: str) -> Any:
    """Inverse of `rates_to_text` for a kind of named tuple; for other text, or rates that are not finite and >= 0, an
    AirjaxError that names the file `source`.
    """
    try:
        rates = kind(**{name: float(rate) for name, rate in json.loads(text).items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise AirjaxError(f"{source}: expected learning rates in JSON, got {text[:80]!r}") from error
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
        raise AirjaxError(f"{source}: expected finite learning rates of at least 0, got {text[:80]!r}")
    return rates
