"""Estimators of a loop that has converged: implicit differentiation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import optax

from airjax.inner.estimators.base import Estimator, OuterGradient, check_positive, check_steps, no_rates, register
from airjax.inner.optimizers import scaled


def _conjugate_gradients(matrix, right, iterations: int):
    """(I + matrix)^-1 right; stops at a direction along which the quadratic form is not positive."""
    dot = optax.tree.vdot

    def step(carry, _):
        x, r, p, rr, alive = carry
        applied = jax.tree.map(jnp.add, p, matrix(p))
        form = dot(p, applied)
        alive = alive & (form > 0) & (rr > 0)
        length = jnp.where(alive, rr / jnp.where(alive, form, 1), 0)
        x = jax.tree.map(lambda a, b: a + length * b, x, p)
        r = jax.tree.map(lambda a, b: a - length * b, r, applied)
        rr_next = dot(r, r)
        share = jnp.where(alive, rr_next / jnp.where(alive, rr, 1), 0)
        p = jax.tree.map(lambda a, b: a + share * b, r, p)
        return (x, r, p, rr_next, alive), None

    start = (jax.tree.map(jnp.zeros_like, right), right, right, dot(right, right), jnp.asarray(True))
    (x, *_), _ = jax.lax.scan(step, start, None, length=iterations)
    # Stopped at the first direction, there is nothing but the right-hand side: the first-order gradient.
    empty = dot(x, x) == 0
    return jax.tree.map(lambda a, b: jnp.where(empty, b, a), x, right)


def _neumann(matrix, right, iterations: int):
    """right - matrix right + matrix^2 right - ..., `iterations` products."""

    def step(carry, _):
        total, term = carry
        term = jax.tree.map(jnp.negative, matrix(term))
        return (jax.tree.map(jnp.add, total, term), term), None

    (total, _), _ = jax.lax.scan(step, (right, right), None, length=iterations)
    return total


@register("implicit")
@dataclass(frozen=True)
class Implicit(Estimator):
    """The gradient at a minimum that remembers its start (iMAML; Rajeswaran et al., 2019).

      G* = argmin over G of L(G) + |G - G_0|^2 / (2 strength rates)      =>      dG* / dG_0 = (I + strength R H)^-1

    with R the diagonal of the rates and H the Hessian of L at G*. The loop takes K steps on L with that term, and

      gradient = R^-1/2 (I + A)^-1 R^1/2 grad M(G_K),     A = strength R^1/2 H R^1/2,

    by `iterations` steps of conjugate gradients. Each is one Hessian-vector product, about 2 gradients. Where L curves
    down (not positive definite) they stop with what they have, which is why the library's solver does not serve here.
    Memory does not grow with K. Rates must be > 0. What `update_mask` freezes counts as of rate 0. The strength is how
    far the loop may go from its start, in units of the rates: gradient descent over K steps goes as far as strength K
    does.
    """

    needs_second_order: ClassVar[bool] = True
    num_steps: int
    iterations: int = 10
    strength: float = 1.0

    def __post_init__(self):
        check_steps(num_steps=self.num_steps, iterations=self.iterations)
        check_positive(strength=self.strength)

    @classmethod
    def at(cls, horizon: int) -> Self:
        return cls(num_steps=horizon, iterations=5)

    solve = staticmethod(_conjugate_gradients)  # (I + matrix)^-1 right

    def __call__(self, key, start, rates, problem):
        inverse = jax.tree.map(lambda r: 1 / (self.strength * r), rates)

        def proximal(state):
            away = jax.tree.map(lambda a, b: jnp.square(a - b), state, start)
            return problem.loss_fn(state) + 0.5 * jax.tree.reduce(jnp.add, jax.tree.map(jnp.sum, scaled(inverse, away)))

        final = problem._replace(loss_fn=proximal).refine(start, rates, num_steps=self.num_steps).final
        loss, grads = jax.value_and_grad(problem.outer)(final)
        root = jax.tree.map(jnp.sqrt, rates)
        moves = jax.tree.broadcast(True if problem.update_mask is None else problem.update_mask, start)

        def free(v):
            """0 where nothing is updated: there the rate is 0, whatever it says."""
            return jax.tree.map(lambda m, x: jnp.where(jnp.broadcast_to(m, x.shape), x, 0), moves, v)

        def hessian(v):
            """strength H v."""
            _, product = jax.jvp(jax.grad(problem.loss_fn), (final,), (v,))
            return jax.tree.map(lambda p: self.strength * p, product)

        def curvature(v):
            """A v."""
            return free(scaled(root, hessian(scaled(root, free(v)))))

        solved = self.solve(curvature, free(scaled(root, grads)), self.iterations)
        solved = scaled(jax.tree.map(lambda r: 1 / r, root), solved)
        if problem.update_mask is not None:  # what is frozen stays where it was put, and pulls at what is free
            pulled = jax.tree.map(jnp.subtract, grads, hessian(scaled(rates, solved)))
            solved = jax.tree.map(lambda m, x, g: jnp.where(jnp.broadcast_to(m, x.shape), x, g), moves, solved, pulled)
        return OuterGradient(solved, no_rates(rates), loss)


@register("implicit_neumann")
@dataclass(frozen=True)
class Neumann(Implicit):
    """`implicit` by as many terms of the Neumann series sum (-A)^i, which is right only where |A| < 1."""

    solve = staticmethod(_neumann)
