"""MetaGrad in both wings: a predictor is trained for what some refinement steps make of its Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from airjax.errors import AirjaxError
from airjax.inner.estimators import ESTIMATORS, Estimator, clip_rows, estimator, outer_gradient, surrogate
from airjax.inner.optimizers import rates_to_text
from airjax.inner.task import Task
from train.optim import Optimizer, Phase, State

TRAINED = ("head", "all", "rates")


@dataclass(frozen=True)
class Meta(Phase):
    """Meta-training of a predictor that is trained already; a wing says what its tasks are.

    The inner problem is a `Task` from the prediction, the outer loss that of the task.
    """

    head: ClassVar[tuple[str, ...]]  # names of the layers that are trained as the head
    start_rates: ClassVar[Any]  # the inner learning rates that training starts from

    estimator: Estimator  # of the outer gradient, see `airjax.inner.estimators`
    trained: str = "head"  # "head" for the last layers, "all" for all weights, "rates" for no weight
    learn_rates: bool = False  # whether the inner learning rates are trained, by an estimator that gives their gradient
    rate_speed: float = 100.0  # how many times the optimizer's step the logarithms of the rates take
    row_clip: float = 10.0  # see `airjax.inner.estimators.clip_rows`

    def __post_init__(self):
        if self.trained not in TRAINED:
            raise AirjaxError(f"trained: expected one of {', '.join(TRAINED)}, got {self.trained!r}")

    def make_trained(self, params: Any, experiment: Any) -> State:
        """The weights, and logarithms of the inner rates by name."""
        log_rates = {name: jnp.float32(math.log(rate)) for name, rate in self.start_rates._asdict().items()}
        return {"params": params, "log_rates": log_rates}

    def rates(self, log_rates: dict[str, jax.Array]) -> Any:
        """The inner learning rates of a state."""
        return jax.tree.map(jnp.exp, type(self.start_rates)(**log_rates))

    def make_tx(self, optimizer: Optimizer, ends: tuple[int, ...]) -> optax.GradientTransformation:
        """The optimizer for what is trained; the rest stays as it is."""
        tx = optimizer.make(*ends)

        def label(path, leaf):
            names = [entry.key for entry in path]
            if names[0] == "log_rates":
                return "rates" if self.learn_rates else "frozen"
            in_head = self.trained == "head" and set(names) & set(self.head)
            return "trained" if self.trained == "all" or in_head else "frozen"

        return optax.partition(
            {"trained": tx, "rates": optax.chain(tx, optax.scale(self.rate_speed)), "frozen": optax.set_to_zero()},
            lambda tree: jax.tree_util.tree_map_with_path(label, tree),
        )

    def task_loss(
        self, key: jax.Array, task: Task, gaussians: Any, log_rates: dict[str, jax.Array], *, capacity: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Surrogate loss of one prediction, whose gradient is the estimated one, and its metrics.

        `log_rates` are the logarithms of the rates of `task`. A prediction that needs more than the renderer's
        `capacity` sends no gradient (the metric "overflow").
        """
        start, active, rates = task.coordinates(gaussians), gaussians.active, task.rates
        problem = task.problem(active, capacity=capacity, any_order=self.estimator.needs_second_order)
        found = outer_gradient(key, start, rates, problem, estimator=self.estimator)
        before = problem.outer(jax.lax.stop_gradient(start))
        # Lists that overflowed give NaN everywhere: such a prediction counts for nothing.
        fits = jnp.isfinite(found.loss) & jnp.isfinite(before)
        found = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf) & fits, leaf, 0), found)
        by_log_rate = jax.tree.map(jnp.multiply, found.rates, rates)
        loss = surrogate(start, clip_rows(found.start, rates, active, limit=self.row_clip))
        loss += surrogate(type(rates)(**log_rates), by_log_rate)
        metrics = {
            "psnr": jnp.where(fits, -before, jnp.nan),
            "psnr_refined": jnp.where(fits, -found.loss, jnp.nan),
            "overflow": 1.0 - fits.astype(jnp.float32),
        }
        # The surrogate's value means nothing: the loss that is logged is the outer one.
        return loss + jax.lax.stop_gradient(found.loss - loss), jax.lax.stop_gradient(metrics)

    def metadata(self, state: State) -> dict[str, str]:
        """The rates that were learned."""
        return {"rates": rates_to_text(self.rates(state["log_rates"]))} if self.learn_rates else {}


@dataclass(frozen=True)
class Variants:
    """The estimators of a study with their options, by the name of the variant: that of the estimator for its head."""

    head: dict[str, dict[str, Any]]  # options by estimator; one that is not named takes those of `Estimator.at`
    rates: dict[str, dict[str, Any]]  # the same, for "rates_NAME", the inner learning rates alone
    # of the outer optimizer by `Meta.trained`; "full_NAME" trains all weights where it has "all"
    learning_rates: dict[str, float]
    horizon: int  # inner steps

    def phase(self, kind: type[Meta], variant: str, **fields: Any) -> Meta:
        """The phase of a variant.

        Raises AirjaxError: no such estimator, or one that cannot train what the variant names.
        """
        prefix = next((prefix for prefix in ("full_", "rates_") if variant.startswith(prefix)), "")
        name, trained = variant.removeprefix(prefix), {"full_": "all", "rates_": "rates", "": "head"}[prefix]
        known = self.rates if trained == "rates" else ESTIMATORS
        if name not in known or trained not in self.learning_rates:
            raise AirjaxError(f"--variant: expected one of {', '.join(known)}, got {variant!r}")
        options = (self.rates if trained == "rates" else self.head).get(name)
        chosen = ESTIMATORS[name].at(self.horizon) if options is None else estimator(name, **options)
        return kind(chosen, trained, trained == "rates" or chosen.learns_rates, **fields)
