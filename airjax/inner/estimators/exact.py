"""Estimators that differentiate the loop: all of it, or its last steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import jax

from airjax.inner.estimators.base import Anchored, Estimator, OuterGradient, check_steps, register


@register("unrolled")
@dataclass(frozen=True)
class Unrolled(Anchored):
    """The gradient of O itself, through every inner step (MAML). Needs losses that can be differentiated twice.

    Reverse mode over the loop with a state stored every sqrt(K) steps and the steps between computed again: about
    4 K gradients in time, memory that grows with sqrt(K).

    Fields: as `Budget`, and
      checkpoint_every: of `refine`; None for sqrt(K).
    """

    needs_second_order: ClassVar[bool] = True
    checkpoint_every: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.checkpoint_every is not None:
            check_steps(checkpoint_every=self.checkpoint_every)

    def __call__(self, key, start, rates, problem):
        every = self.checkpoint_every or _root(self.anchors[-1])

        def objective(start, rates):
            return self.objective(start, rates, problem, checkpoint_every=every)

        loss, (by_start, by_rates) = jax.value_and_grad(objective, argnums=(0, 1))(start, rates)
        return OuterGradient(by_start, by_rates, loss)


@register("truncated")
@dataclass(frozen=True)
class Truncated(Estimator):
    """grad M(G_K) taken back through the last w steps exactly, with J := I before them. K steps, about 4 w more.

    With w = K this is `unrolled` at one anchor; the optimiser's state at step K - w is a constant.

    Fields:
      num_steps: K.
      window: w, 1 to K.
    """

    needs_second_order: ClassVar[bool] = True
    num_steps: int
    window: int

    def __post_init__(self):
        check_steps(num_steps=self.num_steps, window=self.window)
        if self.window > self.num_steps:
            raise ValueError(f"window: expected at most num_steps {self.num_steps}, got {self.window}")

    @classmethod
    def at(cls, horizon: int) -> Self:
        return cls(num_steps=horizon, window=min(horizon, 5))

    def __call__(self, key, start, rates, problem):
        before = problem.refine(start, rates, num_steps=self.num_steps - self.window)

        def objective(state, rates):
            options = {"num_steps": self.window, "checkpoint_every": _root(self.window)}
            return problem.outer(problem.refine(state, rates, inner_state=before.inner_state, **options).final)

        loss, (by_start, by_rates) = jax.value_and_grad(objective, argnums=(0, 1))(before.final, rates)
        return OuterGradient(by_start, by_rates, loss)


def _root(num_steps: int) -> int:
    return max(1, math.isqrt(num_steps))
