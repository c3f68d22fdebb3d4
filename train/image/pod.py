"""Training by POD."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax

from airjax.errors import AirjaxError
from airjax.image.pod import inner_adam, pod_stage
from airjax.image.stages import StageConfig, stage_control
from airjax.metrics import psnr
from train.image.losses import draw_control, mean_where_finite, num_slots
from train.optim import Phase, State

if TYPE_CHECKING:
    from train.image.experiment import ImageExperiment


@dataclass(frozen=True)
class Pod(Phase):
    """Pretraining by POD: each stage learns to predict what some inner steps make of its rows.

    The stages are trained side by side, each on its own loss (`airjax.image.pod`) with its own optimizer:
    stage s sees what the stages before it leave over, but sends no gradient to them. A stage that is not on
    yet costs nothing. When it switches on it starts as a copy of the stage before it, with a fresh optimizer
    whose schedule runs from there to the end of the run.
    """

    start_steps: tuple[int, ...]  # step at which each stage switches on; the first is 0, then increasing
    inner_steps: tuple[int, ...] | None = None  # inner steps of each stage; None for AIR's 20 * (stage + 1)
    inner_learning_rate: float = 1e-3  # of the inner Adam
    # l1, ssim: weights of the inner loss, see `airjax.metrics.image_loss`
    l1: float = 0.7
    ssim: float = 0.3
    # log10_mse, budget: as in `Joint`
    log10_mse: tuple[float, float] = (-5.0, -3.5)
    budget: tuple[float, float] = (0.5, 1.1)

    def __post_init__(self):
        starts, inner = self.start_steps, self.inner_steps
        if not starts or starts[0] != 0 or list(starts) != sorted(set(starts)):
            raise AirjaxError(f"start_steps: expected 0, then increasing steps, got {starts}")
        if inner is None:
            object.__setattr__(self, "inner_steps", tuple(20 * (i + 1) for i in range(len(starts))))
        elif len(inner) != len(starts) or min(inner) < 1:
            raise AirjaxError(f"inner_steps: expected {len(starts)} numbers of at least 1, got {inner}")

    def make_step(self, experiment: ImageExperiment):
        """See `Phase.make_step`; the state holds one optimizer state per stage."""
        stages, loop = experiment.stages, experiment.loop
        self._check(stages, loop.num_steps)
        names = [f"stage{i}" for i in range(len(stages))]
        txs = [experiment.optimizer.make(*(end - start for end in loop.ends)) for start in self.start_steps]

        def init(params) -> State:
            opt_state = {name: tx.init(params[name]) for name, tx in zip(names, txs, strict=True)}
            return {"params": params, "opt_state": opt_state, "step": jnp.int32(0)}

        def train(i: int, params, opt_state, carry, images, controls):
            grad_fn = jax.value_and_grad(self._stage_loss, has_aux=True)
            (loss, (carry, decibels, used)), grads = grad_fn(params, images, controls, carry, i, stages)
            updates, opt_state = txs[i].update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state, carry), (loss, decibels, used)

        def skip(params, opt_state, carry, images, controls):
            # No PSNR of a stage that is off: NaN is a gap in the curves.
            return (params, opt_state, carry), (jnp.float32(0), jnp.float32(jnp.nan), jnp.float32(0))

        def step(state: State, images: jax.Array):
            key = jax.random.fold_in(jax.random.key(loop.seed), state["step"])
            slots = num_slots(stages, images.shape[1:3])
            draw = partial(draw_control, num_slots=slots, log10_mse=self.log10_mse, budget=self.budget)
            controls = jax.vmap(draw)(jax.random.split(key, len(images)))
            carry = jnp.zeros_like(images), controls.max_gaussians
            new = {"params": {}, "opt_state": {}, "step": state["step"] + 1}
            metrics = {"loss": jnp.float32(0), "active": jnp.float32(0)}
            for i, (name, start) in enumerate(zip(names, self.start_steps, strict=True)):
                params = state["params"][name]
                if i:
                    copies = partial(jnp.where, state["step"] == start)  # of the stage before
                    params = jax.tree.map(copies, state["params"][names[i - 1]], params)
                # Outside `vmap`, so that only one branch runs.
                operands = params, state["opt_state"][name], carry, images, controls
                (params, opt_state, carry), (loss, decibels, used) = jax.lax.cond(
                    state["step"] >= start, partial(train, i), skip, *operands
                )
                new["params"][name], new["opt_state"][name] = params, opt_state
                metrics |= {f"pod{i}": loss, f"psnr{i}": decibels}
                metrics |= {"loss": metrics["loss"] + loss, "active": metrics["active"] + used / slots}
            return new, metrics

        return init, step

    def _stage_loss(self, params, images, controls, carry, i: int, stages: tuple[StageConfig, ...]):
        """Mean POD loss of stage i over a batch (b, h, w, 3), and (carry for the next stage, psnr, slots used).

        carry holds the images so far (b, h, w, 3) and what is left of each budget (b,).
        """
        inner_tx = inner_adam(self.inner_learning_rate)

        def loss_of_image(image, control, rendered, left):
            patch_size, stages_left = stages[i].patch_map.patch_size, len(stages) - i if i else 1  # as in run_stages
            options = {"patch_size": patch_size, "control": control, "release": stages[i].release}
            active = stage_control(image, rendered, stages_left=stages_left, gaussians_left=left, **options)
            options = {"stage": stages[i], "num_steps": self.inner_steps[i], "l1": self.l1, "ssim": self.ssim}
            loss, out = pod_stage(params, image, rendered, active, inner_tx, **options)
            used = jnp.sum(active, dtype=jnp.float32)
            decibels = psnr(image, jnp.clip(out.rendered, 0, 1))
            return loss, (out.rendered, left - used), decibels, used

        losses, carry, decibels, used = jax.vmap(loss_of_image)(images, controls, *carry)
        return jnp.mean(losses), (carry, mean_where_finite(decibels), jnp.mean(used))

    def _check(self, stages: tuple[StageConfig, ...], num_steps: int) -> None:
        if len(self.start_steps) != len(stages):
            raise AirjaxError(f"start_steps: expected {len(stages)}, one per stage, got {len(self.start_steps)}")
        if self.start_steps[-1] >= num_steps:
            raise AirjaxError(f"start_steps: expected less than num_steps {num_steps}, got {self.start_steps}")
        if len({(stage.network, stage.patch_map.patch_size) for stage in stages}) > 1:
            raise AirjaxError("stages: expected the same network and patch size in all, since each starts as a copy")
