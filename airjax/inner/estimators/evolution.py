"""Estimators from differences of the objective, without derivatives of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import jax.flatten_util
import jax.numpy as jnp

from airjax.inner.estimators.base import (
    Anchored,
    OuterGradient,
    check_positive,
    check_steps,
    float_type,
    half_way,
    register,
)
from airjax.inner.optimizers import scaled


@register("es")
@dataclass(frozen=True)
class EvolutionStrategies(Anchored):
    """Antithetic evolution strategies: unbiased for O smoothed by a Gaussian, whatever the loop does. 2 K pairs steps.

      mean over pairs of  e * (O(G_0 + sigma R e, ..) - O(G_0 - sigma R e, ..)) / (2 sigma R),      e ~ N(0, I)

    with R the rates, which must be > 0, so that sigma counts inner steps; the rates move by rate_sigma times
    themselves. Salimans et al., 2017.

    Fields: as `Budget`, and
      sigma: > 0, the change of the start in inner steps.
      pairs: >= 1.
      rate_sigma: > 0, the relative change of the rates.
    """

    draws: ClassVar[bool] = True
    sigma: float = 1.0
    pairs: int = 1
    rate_sigma: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_steps(pairs=self.pairs)
        check_positive(sigma=self.sigma, rate_sigma=self.rate_sigma)

    @classmethod
    def at(cls, horizon: int) -> Self:
        return cls((horizon,), pairs=2)

    def __call__(self, key, start, rates, problem):
        def pair(key):
            key_start, key_rates = jax.random.split(key)
            noise, rate_noise = _normal(key_start, start), _normal(key_rates, rates)

            def one(sign):
                moved = _moved(start, scaled(rates, noise), sign * self.sigma)
                return self.objective(moved, _scaled_by_noise(rates, rate_noise, sign * self.rate_sigma), problem)

            plus, minus = jax.lax.map(one, jnp.array([1.0, -1.0], float_type(start)))
            return self._estimate(noise, rate_noise, plus - minus, rates), 0.5 * (plus + minus)

        (by_start, by_rates), losses = jax.lax.map(pair, jax.random.split(key, self.pairs))
        by_start, by_rates = jax.tree.map(lambda a: jnp.mean(a, axis=0), (by_start, by_rates))
        return OuterGradient(by_start, by_rates, jnp.mean(losses))

    def _estimate(self, noise, rate_noise, difference, rates):
        """One pair's estimate for the start and for the rates, from the difference that it made."""
        inverse = jax.tree.map(lambda r: difference / (2 * self.sigma * r), rates)
        by_rates = jax.tree.map(lambda e, r: e * difference / (2 * self.rate_sigma * r), rate_noise, rates)
        return scaled(inverse, noise), by_rates


@register("pes")
@dataclass(frozen=True)
class PersistentES(EvolutionStrategies):
    """Persistent evolution strategies (Vicol, Metz, Sohl-Dickstein, 2021): a window between two anchors at a time.

    Each window changes the rates anew, and its loss is multiplied with the sum of all changes so far. The start is
    changed once, before the first window, so that for it this is `es`, anchor by anchor. 2 K pairs steps.

    Fields: as `EvolutionStrategies`.
    """

    @classmethod
    def at(cls, horizon: int) -> Self:
        return cls((*half_way(horizon), horizon), pairs=2)

    def __call__(self, key, start, rates, problem):
        def pair(key):
            keys = jax.random.split(key, len(self.anchors) + 1)
            noise = _normal(keys[0], start)
            signs = jnp.array([1.0, -1.0], float_type(start))
            states = [_moved(start, scaled(rates, noise), sign * self.sigma) for sign in signs]
            inner_states = [problem.make_tx(rates).init(state) for state in states]
            changes = jax.tree.map(jnp.zeros_like, rates)
            estimate, loss, step = None, 0.0, 0
            for anchor, share, window_key in zip(self.anchors, self.shares, keys[1:], strict=True):
                fresh = _normal(window_key, rates)
                values = []
                for i, sign in enumerate(signs):
                    varied = _scaled_by_noise(rates, fresh, sign * self.rate_sigma)
                    done = problem.refine(states[i], varied, num_steps=anchor - step, inner_state=inner_states[i])
                    states[i], inner_states[i] = done.final, done.inner_state
                    values.append(problem.outer(done.final))
                if anchor > step:  # a window without steps has not used its change
                    changes = jax.tree.map(jnp.add, changes, fresh)
                part = self._estimate(noise, changes, share * (values[0] - values[1]), rates)
                estimate = part if estimate is None else jax.tree.map(jnp.add, estimate, part)
                loss, step = loss + 0.5 * share * (values[0] + values[1]), anchor
            return estimate, loss

        estimates, losses = jax.lax.map(pair, jax.random.split(key, self.pairs))
        by_start, by_rates = jax.tree.map(lambda a: jnp.mean(a, axis=0), estimates)
        return OuterGradient(by_start, by_rates, jnp.mean(losses))


@register("finite_difference")
@dataclass(frozen=True)
class FiniteDifference(Anchored):
    """Central differences of O, one number of the start and of the rates after the other: the oracle for tiny problems.

    Fields: as `Budget`, and
      epsilon: > 0, the change of a number of the start, and the relative change of a rate.
    """

    epsilon: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        check_positive(epsilon=self.epsilon)

    def __call__(self, key, start, rates, problem):
        flat, unravel = jax.flatten_util.ravel_pytree((start, rates))
        count = jax.flatten_util.ravel_pytree(start)[0].size
        sizes = self.epsilon * jnp.where(jnp.arange(flat.size) < count, 1, jnp.abs(flat))

        def objective(flat):
            varied_start, varied_rates = unravel(flat)
            return self.objective(varied_start, varied_rates, problem)

        def slope(i):
            moved = [objective(flat.at[i].add(sign * sizes[i])) for sign in (1, -1)]
            return jnp.where(sizes[i] > 0, (moved[0] - moved[1]) / (2 * jnp.where(sizes[i] > 0, sizes[i], 1)), 0)

        by_start, by_rates = unravel(jax.lax.map(slope, jnp.arange(flat.size)))
        return OuterGradient(by_start, by_rates, objective(flat))


def _normal(key: jax.Array, tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, noise)


def _moved(tree: Any, direction: Any, length: jax.Array) -> Any:
    return jax.tree.map(lambda a, d: a + length * d, tree, direction)


def _scaled_by_noise(rates: Any, noise: Any, length: jax.Array) -> Any:
    return jax.tree.map(lambda r, e: r * (1 + length * e), rates, noise)
