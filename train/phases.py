"""The training phases of the image wing, each a pure step function for `train.loop`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from airjax.checkpoint import latest_step, load_weights, restore, save_weights
from airjax.config import stages_to_text
from airjax.image.stages import StageConfig, StageControl, init_params, run_stages
from airjax.metrics import image_loss, psnr
from train.data import DataConfig, batches
from train.loop import LoopConfig
from train.loop import run as run_loop

State = dict[str, Any]


@dataclass(frozen=True)
class Optimizer:
    """Adam with a linear warm-up and a cosine to zero, gradients clipped by their global norm."""

    learning_rate: float
    warmup: int = 200
    clip: float = 1.0
    b2: float = 0.99

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `num_steps`."""
        warmup = min(self.warmup, max(1, num_steps // 10))
        schedule = optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warmup, num_steps)
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(schedule, b2=self.b2))


@dataclass(frozen=True)
class Joint:
    """All stages together on the accumulated renders: training from the start, or finetuning after POD.

    loss = sum over stages of weight_s * image_loss(image, rendered_s), SSIM at the last stage alone.

    Fields:
      stage_weights: one weight per stage.
      l1, rmse, ssim: see `airjax.metrics.image_loss`.
      log10_mse: range of the Stage Control threshold, drawn per image (log-uniform).
      budget: range of the Gaussian budget, in shares of all slots, drawn per image; a user's --max-gaussians is
        then nothing new to the network.
    """

    stage_weights: tuple[float, ...]
    l1: float = 0.0
    rmse: float = 1.0
    ssim: float = 0.1
    log10_mse: tuple[float, float] = (-5.0, -3.5)
    budget: tuple[float, float] = (0.5, 1.1)


@dataclass(frozen=True)
class Experiment:
    """One run: what `python -m train.main` executes.

    Fields:
      name: of the run folder.
      phase: `Joint` or another phase of this module.
      stages: the model.
      optimizer, loop, data: see there.
      init: weights file or run folder to start from; None for fresh weights from loop.seed.
    """

    name: str
    phase: Joint
    stages: tuple[StageConfig, ...]
    optimizer: Optimizer
    loop: LoopConfig
    data: DataConfig
    init: str | None = None


def draw_control(key: jax.Array, phase: Joint, num_slots: int) -> StageControl:
    """A random Stage Control for one training image."""
    key_mse, key_budget = jax.random.split(key)
    low, high = phase.log10_mse
    threshold = 10 ** jax.random.uniform(key_mse, (), jnp.float32, low, high)
    budget = num_slots * jax.random.uniform(key_budget, (), jnp.float32, *phase.budget)
    return StageControl(threshold, jnp.float32(0.05), budget)


def joint_loss(params, images, key, phase: Joint, stages: tuple[StageConfig, ...]):
    """Mean loss of a batch (b, h, w, 3) and its metrics; see `Joint`."""
    size = images.shape[1:3]
    slots = sum(-(-size[0] // s.patch_map.patch_size) * -(-size[1] // s.patch_map.patch_size) for s in stages)

    def one(image, key):
        trace = run_stages(stages, params, image, draw_control(key, phase, slots))
        loss = jnp.float32(0)
        for i, (stage, weight) in enumerate(zip(trace, phase.stage_weights, strict=True)):
            ssim = phase.ssim if i == len(trace) - 1 else 0
            loss += weight * image_loss(image, stage.rendered, l1=phase.l1, rmse=phase.rmse, ssim=ssim)
        metrics = {f"psnr{i}": psnr(image, jnp.clip(stage.rendered, 0, 1)) for i, stage in enumerate(trace)}
        used = sum(jnp.sum(stage.gaussians.active, dtype=jnp.float32) for stage in trace)
        return loss, {**metrics, "active": used / slots}

    losses, metrics = jax.vmap(one)(images, jax.random.split(key, len(images)))
    return jnp.mean(losses), jax.tree.map(jnp.mean, metrics)


def make_step(experiment: Experiment):
    """(initial state for given params, step_fn) of an experiment."""
    tx = experiment.optimizer.make(experiment.loop.num_steps)

    def init(params) -> State:
        return {"params": params, "opt_state": tx.init(params), "step": jnp.int32(0)}

    def step(state: State, images: jax.Array):
        key = jax.random.fold_in(jax.random.key(experiment.loop.seed), state["step"])
        grad_fn = jax.value_and_grad(joint_loss, has_aux=True)
        (loss, metrics), grads = grad_fn(state["params"], images, key, experiment.phase, experiment.stages)
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = {"loss": loss, **metrics, "grad_norm": optax.global_norm(grads)}
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, metrics

    return init, step


def load_params(path: str | Path, like: Any) -> Any:
    """Weights from a safetensors file or the newest checkpoint of a run folder."""
    path = Path(path)
    if path.is_dir():
        return restore(path / "checkpoints", like, step=latest_step(path / "checkpoints"))["params"]
    return jax.tree.map(jnp.asarray, load_weights(path)[0])


def run(experiment: Experiment, out_dir: Path, init: Path | None = None) -> State:
    """Train, resuming what `out_dir` holds, and write out_dir/weights.safetensors at the end."""
    make_state, step_fn = make_step(experiment)
    state = make_state(init_params(jax.random.key(experiment.loop.seed), experiment.stages))
    source = init or experiment.init
    if source is not None:
        state = make_state(load_params(source, state))
    state = run_loop(
        experiment.loop,
        state=state,
        step_fn=step_fn,
        batches_fn=lambda start: batches(experiment.data, start_step=start),
        out_dir=out_dir,
        resolved_config=experiment,
    )
    params = jax.tree.map(np.asarray, state["params"])
    save_weights(out_dir / "weights.safetensors", params, {"stages": stages_to_text(experiment.stages)})
    return state
