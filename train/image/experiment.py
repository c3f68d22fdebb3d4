"""The training phases of the image wing, each a pure step function for `train.loop`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from airjax.errors import AirjaxError
from airjax.image.codec.rate import estimated_bits, init_rate
from airjax.image.pod import inner_adam, pod_stage
from airjax.image.presets import stages_to_text
from airjax.image.stages import (
    StageConfig,
    StageControl,
    init_params,
    run_stages,
    solve_stages,
    stage_control,
    stage_control_of,
)
from airjax.inner.optimizers import rates_to_text
from airjax.metrics import image_loss, psnr
from airjax.raster.tiles import patch_grid
from airjax.weights_file import load_weights, save_weights
from train.checkpoint import restore_part
from train.image.data import DataConfig, batches, dataset, load_photographs
from train.loop import LoopConfig
from train.loop import run as run_loop
from train.meta import Meta, learned_rates, meta_loss, start_log_rates, trained_only

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
      budget: range of the Gaussian budget, in shares of all slots, drawn per image; a user's --max-gaussians
        is then nothing new to the network.
      solve_steps: colour-solve steps before one more term of the loss, the image with solved colours; 0 for no such
        term. The geometry then learns what the solve of the encoder can make the most of.
    """

    stage_weights: tuple[float, ...]
    l1: float = 0.0
    rmse: float = 1.0
    ssim: float = 0.1
    log10_mse: tuple[float, float] = (-5.0, -3.5)
    budget: tuple[float, float] = (0.5, 1.1)
    solve_steps: int = 0


@dataclass(frozen=True)
class Compact:
    """Quantisation-aware finetuning: `Joint` on what a compact file gives back, plus the bits that it takes.

    loss = Joint's + weight * lambda(color_step) / (2 rmse) * bits / numbers of the image

    The image is drawn from rounded Gaussians, stage after stage, with straight-through gradients. With the bin width of
    the colours drawn per image, one set of weights serves every quality. lambda is the slope of distortion over rate of
    a uniform quantiser of that width at high rate, (pi / 6) ln 2 * color_step^2 per bit; the division turns it from
    squared errors into the root that the rest of the loss is.

    Fields:
      joint: the loss and the Stage Control draws of images on which nothing is rounded.
      share: of the images on which it is.
      log10_step: range of color_step, drawn log-uniform.
      weight: of the rate.
      mse_per_step: range of the Stage Control threshold in color_step^2, drawn log-uniform.
    """

    joint: Joint
    share: float = 0.75
    log10_step: tuple[float, float] = (-2.0, -0.6)
    weight: float = 1.0
    mse_per_step: tuple[float, float] = (0.03, 0.4)


@dataclass(frozen=True)
class Pod:
    """Pretraining by POD: each stage learns to predict what some inner steps make of its rows.

    The stages are trained side by side, each on its own loss (`airjax.image.pod`) with its own optimiser:
    stage s sees what the stages before it leave over, but sends no gradient to them. A stage that is not on
    yet costs nothing. When it switches on it starts as a copy of the stage before it, with a fresh optimiser
    whose schedule runs from there to the end of the run.

    Fields:
      start_steps: step at which each stage switches on; the first is 0, then increasing.
      inner_steps: inner steps of each stage; None for AIR's 20 * (stage + 1).
      inner_learning_rate: of the inner Adam.
      l1, ssim: weights of the inner loss, see `airjax.metrics.image_loss`.
      log10_mse, budget: as in `Joint`.
    """

    start_steps: tuple[int, ...]
    inner_steps: tuple[int, ...] | None = None
    inner_learning_rate: float = 1e-3
    l1: float = 0.7
    ssim: float = 0.3
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


@dataclass(frozen=True)
class Experiment:
    """One run: what `python -m train.main` executes.

    Fields:
      name: of the run folder.
      phase: `Joint`, `Compact`, `Pod` or `train.meta.Meta`.
      stages: the model.
      optimizer, loop, data: see there.
      init: weights file or run folder to start from; None for fresh weights from loop.seed.
      init_stages: which stage of `init` each stage starts from; None for the same in the same order. What is new in a
        network (inputs, votes) starts at zero.
    """

    name: str
    phase: Joint | Compact | Pod | Meta
    stages: tuple[StageConfig, ...]
    optimizer: Optimizer
    loop: LoopConfig
    data: DataConfig
    init: str | None = None
    init_stages: tuple[int, ...] | None = None

    def run(self, out_dir: Path, init: Path | None = None) -> State:
        """Train, resuming what `out_dir` holds, and write out_dir/weights.safetensors at the end."""
        return run(self, out_dir, init)


def draw_control(key: jax.Array, phase: Joint | Pod | Meta, num_slots: int) -> StageControl:
    """A random Stage Control for one training image."""
    key_mse, key_budget = jax.random.split(key)
    low, high = phase.log10_mse
    threshold = 10 ** jax.random.uniform(key_mse, (), jnp.float32, low, high)
    budget = num_slots * jax.random.uniform(key_budget, (), jnp.float32, *phase.budget)
    return StageControl(threshold, jnp.float32(0.05), budget)


def draw_compact_control(key: jax.Array, phase: Compact, num_slots: int) -> StageControl:
    """A random Stage Control for one training image, rounding or not."""
    key_plain, key_share, key_step, key_mse = jax.random.split(key, 4)
    plain = draw_control(key_plain, phase.joint, num_slots)
    rounds = jax.random.uniform(key_share) < phase.share
    step = 10 ** jax.random.uniform(key_step, (), jnp.float32, *phase.log10_step)
    low, high = (math.log(x) for x in phase.mse_per_step)
    threshold = jnp.exp(jax.random.uniform(key_mse, (), jnp.float32, low, high)) * step**2
    return StageControl(
        jnp.where(rounds, threshold, plain.mse_threshold),
        jnp.where(rounds, jnp.float32(2), plain.ssim_threshold),
        jnp.where(rounds, jnp.float32(jnp.inf), plain.max_gaussians),
        jnp.where(rounds, step, 0.0),
    )


def compact_loss(trainable, images, key, phase: Compact, stages: tuple[StageConfig, ...]):
    """Mean loss of a batch (b, h, w, 3) and its metrics; see `Compact`.

    Args:
      trainable: {"params": weights, "rate": parameters of `airjax.image.codec.rate`}.
    """
    size, joint = images.shape[1:3], phase.joint
    grids = [patch_grid(size, stage.patch_map.patch_size) for stage in stages]
    slots = sum(math.prod(grid) for grid in grids)

    def one(image, key):
        control = draw_compact_control(key, phase, slots)
        trace = run_stages(stages, trainable["params"], image, control)
        rounds = control.color_step > 0
        loss = jnp.float32(0)
        for i, (stage, weight) in enumerate(zip(trace, joint.stage_weights, strict=True)):
            ssim = joint.ssim if i == len(trace) - 1 else 0
            loss += weight * image_loss(image, stage.rendered, l1=joint.l1, rmse=joint.rmse, ssim=ssim)
        bits = sum(
            estimated_bits(stage.lattice, trainable["rate"], stage=i, grid=grid)
            for i, (stage, grid) in enumerate(zip(trace, grids, strict=True))
        )
        error = jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.square(image - trace[-1].rendered)) + 1e-8))
        slope = math.pi / 6 * math.log(2) * jnp.square(control.color_step) / (2 * error * image.size)
        loss += phase.weight * jnp.where(rounds, slope * bits, 0.0)
        decibels = psnr(image, jnp.clip(trace[-1].rendered, 0, 1))
        used = sum(jnp.sum(stage.lattice.used, dtype=jnp.float32) for stage in trace)
        coded = {"psnr_rounded": decibels, "bits": bits / jnp.maximum(used, 1), "bpp": bits / (size[0] * size[1])}
        metrics = {name: jnp.where(rounds, value, jnp.nan) for name, value in coded.items()}
        return loss, {**metrics, "psnr": jnp.where(rounds, jnp.nan, decibels)}

    losses, metrics = jax.vmap(one)(images, jax.random.split(key, len(images)))
    return jnp.mean(losses), jax.tree.map(_mean_where_finite, metrics)


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
        if phase.solve_steps:
            solved = solve_stages(stages, trace, image, num_steps=phase.solve_steps)[-1].rendered
            loss += image_loss(image, solved, l1=phase.l1, rmse=phase.rmse, ssim=phase.ssim)
            metrics["psnr_solved"] = psnr(image, jnp.clip(solved, 0, 1))
        used = sum(jnp.sum(stage.gaussians.active, dtype=jnp.float32) for stage in trace)
        return loss, {**metrics, "active": used / slots}

    losses, metrics = jax.vmap(one)(images, jax.random.split(key, len(images)))
    return jnp.mean(losses), jax.tree.map(_mean_where_finite, metrics)


def make_step(experiment: Experiment):
    """(initial state for given params, step_fn) of an experiment."""
    if isinstance(experiment.phase, Pod):
        return _make_pod_step(experiment)
    if isinstance(experiment.phase, Compact):
        return _make_compact_step(experiment)
    if isinstance(experiment.phase, Meta):
        return _make_meta_step(experiment)
    return _make_joint_step(experiment)


def _make_joint_step(experiment: Experiment):
    def loss_fn(trained, images, key):
        return joint_loss(trained["params"], images, key, experiment.phase, experiment.stages)

    return make_loss_step(experiment, loss_fn, lambda params: {"params": params})


def _make_compact_step(experiment: Experiment):
    def loss_fn(trained, images, key):
        return compact_loss(trained, images, key, experiment.phase, experiment.stages)

    return make_loss_step(
        experiment, loss_fn, lambda params: {"params": params, "rate": init_rate(len(experiment.stages))}
    )


def _make_meta_step(experiment: Experiment):
    phase, stages = experiment.phase, experiment.stages

    def loss_fn(trained, images, key):
        return meta_loss(trained, images, key, phase, stages, partial(draw_control, phase=phase))

    def make_trained(params):
        return {"params": params, "log_rates": start_log_rates()}

    tx = trained_only(experiment.optimizer.make(experiment.loop.num_steps), phase)
    return make_loss_step(experiment, loss_fn, make_trained, tx)


def make_loss_step(experiment, loss_fn, make_trained, tx=None):
    """(initial state for given params, step_fn) for a loss (trained, batch, key) -> (loss, metrics).

    Args:
      experiment: with `optimizer` and `loop`.
      make_trained: params -> dict of all that is trained, or kept with it.
      tx: optax transformation for all of it; None for the optimiser of the experiment.
    """
    tx = experiment.optimizer.make(experiment.loop.num_steps) if tx is None else tx

    def init(params) -> State:
        trained = make_trained(params)
        return {**trained, "opt_state": tx.init(trained), "step": jnp.int32(0)}

    def step(state: State, batch):
        key = jax.random.fold_in(jax.random.key(experiment.loop.seed), state["step"])
        trained = {name: state[name] for name in state if name not in ("opt_state", "step")}
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained, batch, key)
        updates, opt_state = tx.update(grads, state["opt_state"], trained)
        metrics = {"loss": loss, **metrics, "grad_norm": optax.tree.norm(grads)}
        return {**optax.apply_updates(trained, updates), "opt_state": opt_state, "step": state["step"] + 1}, metrics

    return init, step


def pod_stage_loss(params, images, controls, carry, i: int, phase: Pod, stages: tuple[StageConfig, ...]):
    """Mean POD loss of stage i over a batch (b, h, w, 3), and (carry for the next stage, psnr, slots used).

    carry holds the images so far (b, h, w, 3) and what is left of each budget (b,).
    """
    inner_tx = inner_adam(phase.inner_learning_rate)

    def one(image, control, rendered, left):
        active = stage_control(
            image,
            rendered,
            patch_size=stages[i].patch_map.patch_size,
            control=control,
            stages_left=len(stages) - i if i else 1,  # as in run_stages
            gaussians_left=left,
        )
        options = {"stage": stages[i], "num_steps": phase.inner_steps[i], "l1": phase.l1, "ssim": phase.ssim}
        loss, out = pod_stage(params, image, rendered, active, inner_tx, **options)
        used = jnp.sum(active, dtype=jnp.float32)
        decibels = psnr(image, jnp.clip(out.rendered, 0, 1))
        return loss, (out.rendered, left - used), decibels, used

    losses, carry, decibels, used = jax.vmap(one)(images, controls, *carry)
    return jnp.mean(losses), (carry, _mean_where_finite(decibels), jnp.mean(used))


def _make_pod_step(experiment: Experiment):
    """As `make_step`; the state holds one optimiser state per stage."""
    phase, stages, loop = experiment.phase, experiment.stages, experiment.loop
    _check_pod(phase, stages, loop.num_steps)
    names = [f"stage{i}" for i in range(len(stages))]
    txs = [experiment.optimizer.make(loop.num_steps - start) for start in phase.start_steps]

    def init(params) -> State:
        opt_state = {name: tx.init(params[name]) for name, tx in zip(names, txs, strict=True)}
        return {"params": params, "opt_state": opt_state, "step": jnp.int32(0)}

    def train(i: int, params, opt_state, carry, images, controls):
        grad_fn = jax.value_and_grad(pod_stage_loss, has_aux=True)
        (loss, (carry, decibels, used)), grads = grad_fn(params, images, controls, carry, i, phase, stages)
        updates, opt_state = txs[i].update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, carry), (loss, decibels, used)

    def skip(params, opt_state, carry, images, controls):
        # No PSNR of a stage that is off: NaN is a gap in the curves.
        return (params, opt_state, carry), (jnp.float32(0), jnp.float32(jnp.nan), jnp.float32(0))

    def step(state: State, images: jax.Array):
        key = jax.random.fold_in(jax.random.key(loop.seed), state["step"])
        slots = sum(math.prod(patch_grid(images.shape[1:3], s.patch_map.patch_size)) for s in stages)
        draw = partial(draw_control, phase=phase, num_slots=slots)
        controls = jax.vmap(draw)(jax.random.split(key, len(images)))
        carry = jnp.zeros_like(images), controls.max_gaussians
        new = {"params": {}, "opt_state": {}, "step": state["step"] + 1}
        metrics = {"loss": jnp.float32(0), "active": jnp.float32(0)}
        for i, (name, start) in enumerate(zip(names, phase.start_steps, strict=True)):
            params = state["params"][name]
            if i:
                params = _copy_where(state["step"] == start, state["params"][names[i - 1]], params)
            # Outside `vmap`, so that only one branch runs.
            (params, opt_state, carry), (loss, decibels, used) = jax.lax.cond(
                state["step"] >= start,
                partial(train, i),
                skip,
                *(params, state["opt_state"][name], carry, images, controls),
            )
            new["params"][name], new["opt_state"][name] = params, opt_state
            metrics |= {f"pod{i}": loss, f"psnr{i}": decibels}
            metrics |= {"loss": metrics["loss"] + loss, "active": metrics["active"] + used / slots}
        return new, metrics

    return init, step


def _mean_where_finite(values: jax.Array) -> jax.Array:
    """The mean over what is finite: an image that is met exactly, such as a black crop, has infinite PSNR."""
    finite = jnp.isfinite(values)
    return jnp.sum(jnp.where(finite, values, 0)) / jnp.sum(finite, dtype=values.dtype)


def _copy_where(condition: jax.Array, source: Any, params: Any) -> Any:
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), source, params)


def _check_pod(phase: Pod, stages: tuple[StageConfig, ...], num_steps: int) -> None:
    if len(phase.start_steps) != len(stages):
        raise AirjaxError(f"start_steps: expected {len(stages)}, one per stage, got {len(phase.start_steps)}")
    if phase.start_steps[-1] >= num_steps:
        raise AirjaxError(f"start_steps: expected less than num_steps {num_steps}, got {phase.start_steps}")
    if len({(stage.network, stage.patch_map.patch_size) for stage in stages}) > 1:
        raise AirjaxError("stages: expected the same network and patch size in all, since each starts as a copy")


def load_params(path: str | Path, like: Any, *, init_stages: tuple[int, ...] | None = None) -> Any:
    """Weights from a safetensors file or the newest checkpoint of a run folder, of any phase.

    Args:
      path: of the file or folder.
      like: fresh weights of the model to start.
      init_stages: see `Experiment`.

    Raises:
      AirjaxError: none there, damaged, or other names and shapes than those of `like`.
    """
    path = Path(path)
    if not path.exists():
        raise AirjaxError(f"{path}: expected a run folder or a weights file to start from, found none")
    params = restore_part(path / "checkpoints", "params") if path.is_dir() else load_weights(path)[0]
    if init_stages is not None:
        if missing := [stage for stage in init_stages if f"stage{stage}" not in params]:
            raise AirjaxError(f"{path}: expected stages {sorted(set(init_stages))}, found no stage {missing[0]}")
        params = {f"stage{i}": _grown(params[f"stage{k}"], like[f"stage{i}"]) for i, k in enumerate(init_stages)}
    found, expected = (jax.tree.map(np.shape, tree) for tree in (params, like))
    if found != expected:
        raise AirjaxError(f"{path}: expected the weights of {len(expected)} stages like these, got other shapes")
    return jax.tree.map(jnp.asarray, params)


def _grown(params: dict, like: dict) -> dict:
    """Weights of a smaller network in the shapes of a larger one: new rows of a matrix are zero, new layers fresh."""
    grown = {}
    for name, target in like.items():
        source = params.get(name, target)
        if isinstance(target, dict):
            grown[name] = _grown(source, target)
        elif np.ndim(source) == 2 and source.shape[0] < target.shape[0] and source.shape[1:] == target.shape[1:]:
            grown[name] = np.pad(source, ((0, target.shape[0] - source.shape[0]), (0, 0)))
        else:
            grown[name] = source
    return grown


def run(experiment: Experiment, out_dir: Path, init: Path | None = None) -> State:
    """See `Experiment.run`."""
    make_state, step_fn = make_step(experiment)
    params = init_params(jax.random.key(experiment.loop.seed), experiment.stages)
    source = init or experiment.init
    if source is not None:
        params = load_params(source, params, init_stages=experiment.init_stages)
    photographs = load_photographs(experiment.data.folders, cache_mb=experiment.data.cache_mb)
    state = run_loop(
        experiment.loop,
        state=make_state(params),
        step_fn=step_fn,
        batches_fn=lambda start: batches(experiment.data, start_step=start, photographs=photographs),
        panel_fn=make_panel(experiment.stages, dataset(experiment.data, photographs)[0]),
        out_dir=out_dir,
        resolved_config=experiment,
    )
    params = jax.tree.map(np.asarray, state["params"])
    metadata = {"stages": stages_to_text(experiment.stages)}
    if isinstance(experiment.phase, Meta) and experiment.phase.learn_rates:
        metadata["rates"] = rates_to_text(learned_rates(state["log_rates"]))
    save_weights(out_dir / "weights.safetensors", params, metadata)
    return state


def make_panel(stages: tuple[StageConfig, ...], images: np.ndarray):
    """panel_fn of the loop: for each image of a batch a row with the target and the render after every stage."""

    @jax.jit
    def draw(params):
        def row(image):
            trace = run_stages(stages, params, image, stage_control_of())
            return jnp.concatenate([image, *(stage.rendered for stage in trace)], axis=1)

        return jnp.concatenate([row(image) for image in images])

    def panel(state: State, step: int) -> np.ndarray:
        return np.asarray(jnp.round(255 * jnp.clip(draw(state["params"]), 0, 1))).astype(np.uint8)

    return panel
