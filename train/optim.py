"""What a run trains: the outer optimizer, and the phase that says which loss of what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

if TYPE_CHECKING:
    from train.experiment import Experiment

State = dict[str, Any]
StepFn = Callable[[State, Any], tuple[State, dict[str, Any]]]


@dataclass(frozen=True)
class Optimizer:
    """Adam with a linear warm-up and a cosine to zero, gradients clipped by their global norm."""

    learning_rate: float  # its largest value, after the warm-up
    warmup: int = 200  # steps to get there from 0, but at most a tenth of all
    clip: float = 1.0  # largest global norm of a gradient
    b2: float = 0.99  # Adam's memory of squared gradients
    weight_decay: float = 0.0  # of AdamW, in learning rates; 0 for Adam
    encoder_rate: float = 1.0  # learning rate of a pretrained encoder (weights below that name), in those of the others

    def make(self, *ends: int) -> optax.GradientTransformation:
        """The transformation for a run to the first of `ends`, then to each further one with a schedule of its own."""

        def part(num_steps: int) -> optax.Schedule:
            warmup = min(self.warmup, max(1, num_steps // 10))
            return optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warmup, num_steps)

        parts = [part(end - start) for start, end in pairwise((0, *ends))]
        schedule = optax.join_schedules(parts, ends[:-1]) if len(parts) > 1 else parts[0]
        adam = optax.adam(schedule, b2=self.b2)
        if self.weight_decay:
            adam = optax.adamw(schedule, b2=self.b2, weight_decay=self.weight_decay, mask=_are_learned)
        slower = [] if self.encoder_rate == 1 else [optax.stateless(self._slow_encoder)]
        return optax.chain(optax.clip_by_global_norm(self.clip), adam, *slower)

    def _slow_encoder(self, updates: Any, params: Any) -> Any:
        """The updates, those of an encoder smaller."""

        def scaled(path, update):
            return update * self.encoder_rate if "encoder" in _names(path) else update

        return jax.tree.map_with_path(scaled, updates)


def _names(path: tuple) -> list[str]:
    return jax.tree_util.keystr(path, simple=True, separator="/").split("/")


def _are_learned(params: Any) -> Any:
    """False for the constants of an encoder's rotary positions, which lie among its weights."""
    return jax.tree.map_with_path(lambda path, _: "periods" not in _names(path), params)


class Phase:
    """Base of the phases of training, frozen dataclasses: a loss, and what it trains."""

    def make_trained(self, params: Any, experiment: Experiment) -> State:
        """All that is trained, or kept with it, by name; the weights are "params"."""
        return {"params": params}

    def loss(self, trained: State, batch: Any, key: jax.Array, experiment: Experiment):
        """(mean loss of a batch, its metrics by name)."""
        raise NotImplementedError

    def make_tx(self, optimizer: Optimizer, ends: tuple[int, ...]) -> optax.GradientTransformation:
        """The outer optimizer, for all of `make_trained`; `ends` as `train.loop.LoopConfig.ends`."""
        return optimizer.make(*ends)

    def make_step(self, experiment: Experiment) -> tuple[Callable[[Any], State], StepFn]:
        """(initial state for given params, step function for `train.loop`)."""
        loop = experiment.loop
        tx = self.make_tx(experiment.optimizer, loop.ends)

        def init(params: Any) -> State:
            trained = self.make_trained(params, experiment)
            return {**trained, "opt_state": tx.init(trained), "step": jnp.int32(0)}

        def loss_fn(trained, batch, key):
            return self.loss(trained, batch, key, experiment)

        def step(state: State, batch: Any) -> tuple[State, dict[str, Any]]:
            key = jax.random.fold_in(jax.random.key(loop.seed), state["step"])
            trained = {name: state[name] for name in state if name not in ("opt_state", "step")}
            (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained, batch, key)
            updates, opt_state = tx.update(grads, state["opt_state"], trained)
            metrics = {"loss": loss, **metrics, "grad_norm": optax.tree.norm(grads)}
            trained = optax.apply_updates(trained, updates)
            return {**trained, "opt_state": opt_state, "step": state["step"] + 1}, metrics

        return init, step

    def metadata(self, state: State) -> dict[str, str]:
        """What the weights file says of this phase, beside the model's own configuration."""
        return {}
