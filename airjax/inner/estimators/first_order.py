"""Estimators that put the identity, or nothing, in the place of the Jacobian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp

from airjax.inner.estimators.base import Anchored, Estimator, OuterGradient, check_steps, half_way, no_rates, register
from airjax.inner.optimizers import scaled


@register("zero_step")
@dataclass(frozen=True)
class ZeroStep(Estimator):
    """grad M(G_0): the prediction itself is judged, as vanilla training does. One gradient."""

    def __call__(self, key, start, rates, problem):
        loss, grads = jax.value_and_grad(problem.outer)(start)
        return OuterGradient(grads, no_rates(rates), loss)


@register("first_order")
@dataclass(frozen=True)
class FirstOrder(Estimator):
    """grad M(G_K), K = num_steps, with J_K := I (first-order MAML; Finn et al., 2017). K steps and one gradient."""

    num_steps: int

    def __post_init__(self):
        check_steps(num_steps=self.num_steps)

    def __call__(self, key, start, rates, problem):
        return Anchored((self.num_steps,)).first_order(start, rates, problem)._replace(rates=no_rates(rates))


@register("multi_anchor")
@dataclass(frozen=True)
class MultiAnchor(Estimator):
    """ForeSplat's MetaGrad (Algorithm 1).

      K ~ Uniform{min_steps .. max_steps};   S / N = mean over k = s, 2 s, .. <= K of grad M(G_k),   J := I
      mix * grad M(G_0) + (1 - mix) * S / N

    Steps after the last anchor change nothing, and are not taken. About E[K] (1 + 1 / s) gradients, s = stride. Under
    `vmap` each problem draws its own K, and all wait for the largest. The headline rows of the paper have mix = 0.
    """

    draws: ClassVar[bool] = True
    min_steps: int = 50
    max_steps: int = 500
    stride: int = 40
    mix: float = 0.0

    def __post_init__(self):
        check_steps(min_steps=self.min_steps, max_steps=self.max_steps, stride=self.stride)
        if not self.stride <= self.min_steps <= self.max_steps:
            limits = f"stride {self.stride} and at most max_steps {self.max_steps}"
            raise ValueError(f"min_steps: expected at least {limits}, got {self.min_steps}")
        if not 0 <= self.mix <= 1:
            raise ValueError(f"mix: expected 0 to 1, got {self.mix}")

    @classmethod
    def at(cls, horizon: int) -> Self:
        stride = max(1, horizon // 4)
        return cls(min_steps=4 * stride if horizon >= 4 else horizon, max_steps=horizon, stride=stride)

    def __call__(self, key, start, rates, problem):
        evaluate = jax.value_and_grad(problem.outer)
        num_anchors = jax.random.randint(key, (), self.min_steps, self.max_steps + 1) // self.stride

        def stride(_, carry):
            state, inner_state, total = carry
            done = problem.refine(state, rates, num_steps=self.stride, inner_state=inner_state)
            return done.final, done.inner_state, jax.tree.map(jnp.add, total, evaluate(done.final))

        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(evaluate, start))
        inner_state = problem.make_tx(rates).init(start)
        _, _, total = jax.lax.fori_loop(0, num_anchors, stride, (start, inner_state, nothing))
        result = jax.tree.map(lambda a: a / num_anchors.astype(a.dtype), total)
        if self.mix:
            result = jax.tree.map(lambda now, later: self.mix * now + (1 - self.mix) * later, evaluate(start), result)
        return OuterGradient(result[1], no_rates(rates), result[0])


@register("budget")
@dataclass(frozen=True)
class Budget(Anchored):
    """sum of weights_i * grad M(G_k_i), J := I, at the steps that a user means to take. K steps and a gradient each.

    Ours: MetaGrad draws its anchors evenly up to 500 steps, whatever the user's patience. Here it is said: anchors
    (0, 20, 100) with weights (1, 2, 1) serve one who mostly takes 20 steps, and the anchor 0 keeps the prediction good.
    """

    @classmethod
    def at(cls, horizon: int) -> Self:
        return cls((0, *half_way(horizon), horizon))

    def __call__(self, key, start, rates, problem):
        return self.first_order(start, rates, problem)._replace(rates=no_rates(rates))


@register("meta_sgd")
@dataclass(frozen=True)
class MetaSgd(Budget):
    """`budget`, and the learning rates learned with the start (after Meta-SGD; Li et al., 2017).

    With directions u_j held fixed, G_k = G_0 + rates * (u_1 + .. + u_k), so that

      dO / drates = sum over i of weights_i * <grad M(G_k_i), (G_k_i - G_0) / rates>   for each attribute,

    which costs nothing beyond the gradients at the anchors. Learn the logarithm of the rates (multiply by rates).
    """

    learns_rates: ClassVar[bool] = True

    def __call__(self, key, start, rates, problem):
        return self.first_order(start, rates, problem)


@register("reptile")
@dataclass(frozen=True)
class Reptile(Estimator):
    """(G_0 - G_K) / (K rates): the mean direction of the loop, grad L(G_0) for one step of gradient descent. K steps.

    Nichol et al., 2018. It follows the inner loss; the outer one is only reported. A rate of 0 gives 0; K = num_steps.
    """

    num_steps: int

    def __post_init__(self):
        check_steps(num_steps=self.num_steps)

    def __call__(self, key, start, rates, problem):
        final = problem.refine(start, rates, num_steps=self.num_steps).final
        inverse = jax.tree.map(lambda r: jnp.where(r == 0, 0, 1 / jnp.where(r == 0, 1, r * self.num_steps)), rates)
        direction = scaled(inverse, jax.tree.map(jnp.subtract, start, final))
        return OuterGradient(direction, no_rates(rates), problem.outer(final))
