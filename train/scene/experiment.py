"""Training of the scene predictor: views of a scene in, 3D Gaussians out, judged on views that it did not see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from airjax.errors import AirjaxError
from airjax.inner.optimizers import rates_to_text
from airjax.metrics import psnr
from airjax.raster.tiles import Capacity
from airjax.scene.predictor import PredictorConfig, config_to_text, init_params, predict
from airjax.scene.procedural import Views, noise_textures, random_views
from airjax.scene.render import render
from airjax.weights_file import load_weights, save_weights
from train.checkpoint import restore_part
from train.image.experiment import Optimizer, make_loss_step
from train.loop import LoopConfig
from train.loop import run as run_loop
from train.meta import trained_only
from train.scene.crops import PosedScene, load_posed, sample
from train.scene.meta import HEAD, SceneMeta, learned_rates, scene_meta_loss, start_log_rates

State = dict[str, Any]
TEXTURE = 64  # pixels


@dataclass(frozen=True)
class SceneData:
    """Where scenes come from.

    Fields:
      photographs: folder whose images are the textures of procedural scenes; None for coloured noise.
      held_out: every so many-th photograph is kept for test scenes.
      image_size: (h, w) pixels of the views.
      context, targets: views that are given, and views that are judged.
      batch_size: scenes of a step.
      scenes: folders of real scenes, some crops of which are seen beside the procedural ones.
      real: how many of the scenes of a step are real ones.
      seed: of everything random.
    """

    photographs: str | None
    held_out: int = 10
    image_size: tuple[int, int] = (64, 64)
    context: int = 2
    targets: int = 2
    batch_size: int = 4
    scenes: tuple[str, ...] = ()
    real: int = 0
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.real <= self.batch_size or (self.real and not self.scenes):
            raise AirjaxError(f"real: expected scenes, and at most {self.batch_size} of a step, got {self.real}")


@dataclass(frozen=True)
class Vanilla:
    """Training on what the prediction itself looks like.

    loss = mean over scenes of ln(mse of the targets + floor) / 2 + depth * |ln(depth / true depth)|

    The logarithm makes every scene count for its decibels.

    Fields:
      depth: weight of the depths of procedural scenes, which are known.
      floor: of the squared error.
      capacity: of the renderer; a view that needs more sends no gradient (the metric "overflow" is their share).
    """

    depth: float = 1.0
    floor: float = 1e-4
    capacity: tuple[int, int] = (32768, 3072)


@dataclass(frozen=True)
class SceneExperiment:
    """One run: what `python -m train.main` executes.

    Fields:
      name: of the run folder.
      phase: `Vanilla` or `train.scene.meta.SceneMeta`.
      predictor: the model.
      optimizer, loop, data: see there.
      init: weights file or run folder to start from; None for fresh weights from loop.seed.
    """

    name: str
    phase: Vanilla | SceneMeta
    predictor: PredictorConfig
    optimizer: Optimizer
    loop: LoopConfig
    data: SceneData
    init: str | None = None

    def run(self, out_dir: Path, init: Path | None = None) -> State:
        """Train, resuming what `out_dir` holds, and write out_dir/weights.safetensors at the end."""
        return run(self, out_dir, init)


def texture_atlas(data: SceneData, *, test: bool = False) -> np.ndarray:
    """(T, 64, 64, 3) uint8 squares cut out of photographs, two of each; those for testing are of other photographs.

    Raises:
      AirjaxError: no images in the folder.
    """
    if data.photographs is None:
        return np.round(255 * np.asarray(noise_textures(jax.random.key(int(test)), 32))).astype(np.uint8)
    files = sorted(p for p in Path(data.photographs).glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = [file for i, file in enumerate(files) if (i % data.held_out == 0) == test]
    if not chosen:
        raise AirjaxError(f"{data.photographs}: expected a folder of photographs, found {len(files)}")
    rng, atlas = np.random.default_rng(data.seed), []
    for file in chosen:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        for _ in range(2):
            side = int(rng.integers(min(160, *image.size), min(image.size) + 1))
            left, top = (int(rng.integers(0, size - side + 1)) for size in image.size)
            part = image.crop((left, top, left + side, top + side))
            atlas.append(np.asarray(part.resize((TEXTURE, TEXTURE), Image.Resampling.BOX)))
    return np.stack(atlas)


def batches(data: SceneData, scenes: Sequence[PosedScene], start_step: int) -> Iterator[dict[str, Any]]:
    """What the scenes of a step are made from, the same for the same step, however often a run was stopped.

    Yields:
      "seeds" of procedural scenes, and where there are any the views of "real" ones.
    """
    step = start_step
    while True:
        rng = np.random.default_rng((data.seed, step))
        batch = {"seeds": rng.integers(2**32, size=data.batch_size - data.real, dtype=np.uint32)}
        if data.real:
            options = {"num_views": data.context + data.targets, "image_size": data.image_size}
            samples = [sample(rng, scenes[rng.integers(len(scenes))], **options) for _ in range(data.real)]
            batch["real"] = jax.tree.map(lambda *leaves: np.stack(leaves), *samples)
        yield batch
        step += 1


def split_views(views: Views, context: int) -> tuple[Views, Views]:
    """The first `context` views, and the others."""

    def part(index):
        images, depths, cameras = jax.tree.map(lambda leaf: leaf[index], (views.images, views.depths, views.cameras))
        return views._replace(images=images, depths=depths, cameras=cameras)

    return part(slice(None, context)), part(slice(context, None))


def scene_loss(params, views: Views, experiment: SceneExperiment):
    """Loss of one scene, and its metrics."""
    phase, data = experiment.phase, experiment.data
    context, targets = split_views(views, data.context)
    found = predict(params, context.images, context.cameras, views.near, views.far, config=experiment.predictor)
    capacity = Capacity(*phase.capacity)

    def draw(camera):
        return render(found.gaussians, camera, image_size=data.image_size, capacity=capacity)

    drawn = jax.vmap(draw)(targets.cameras)
    fits = ~jnp.any(drawn.overflow)
    # Before the logarithm: its derivative at NaN would reach the views that did not overflow.
    mse = jnp.where(fits, jnp.mean(jnp.square(drawn.image - targets.images)), 1.0)
    loss = jnp.where(fits, 0.5 * jnp.log(mse + phase.floor), 0.0)
    rows, columns = found.depths.shape[1:]
    true = context.depths[:, 1::2, 1::2][:, :rows, :columns]
    known = ~jnp.isnan(true)
    error = jnp.abs(jnp.log(found.depths[:, : true.shape[1], : true.shape[2]] / jnp.where(known, true, 1.0)))
    error = jnp.mean(jnp.where(known, error, 0.0))
    decibels = jax.vmap(psnr)(targets.images, jnp.clip(drawn.image, 0, 1))
    metrics = {
        "psnr": jnp.where(fits, jnp.mean(decibels), jnp.nan),
        "depth_error": jnp.where(jnp.any(known), error, jnp.nan),
        "overflow": 1.0 - fits.astype(jnp.float32),
    }
    return loss + phase.depth * error, metrics


def make_step(experiment: SceneExperiment, atlas: np.ndarray):
    """(initial state for given params, step_fn) of an experiment."""
    data, phase = experiment.data, experiment.phase
    atlas = jnp.asarray(atlas, jnp.float32) / 255
    num_views = data.context + data.targets
    meta = isinstance(phase, SceneMeta)

    def loss_fn(trained, batch, key):
        def draw(seed):
            return random_views(jax.random.key(seed), atlas, image_size=data.image_size, num_views=num_views)

        def one(views, key):
            if not meta:
                return scene_loss(trained["params"], views, experiment)
            parts = split_views(views, data.context)
            return scene_meta_loss(trained, *parts, key, phase=phase, predictor=experiment.predictor)

        views = jax.vmap(draw)(batch["seeds"])
        if "real" in batch:
            views = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), views, batch["real"])
        views = jax.lax.stop_gradient(views)
        losses, metrics = jax.vmap(one)(views, jax.random.split(key, data.batch_size))
        return jnp.mean(losses), jax.tree.map(jnp.nanmean, metrics)

    def make_trained(params):
        return {"params": params, "log_rates": start_log_rates()} if meta else {"params": params}

    tx = experiment.optimizer.make(experiment.loop.num_steps)
    return make_loss_step(experiment, loss_fn, make_trained, trained_only(tx, phase, head=HEAD) if meta else tx)


def load_params(path: str | Path, like: Any) -> Any:
    """Weights of a run folder or a weights file, of the same shapes as `like`.

    Raises:
      AirjaxError: neither, or other shapes.
    """
    path = Path(path)
    if not path.exists():
        raise AirjaxError(f"{path}: expected a run folder or a weights file to start from, found none")
    params = restore_part(path / "checkpoints", "params") if path.is_dir() else load_weights(path)[0]
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, like):
        raise AirjaxError(f"{path}: expected the weights of a scene predictor like this one, got other shapes")
    return jax.tree.map(jnp.asarray, params)


def make_panel(experiment: SceneExperiment, atlas: np.ndarray):
    """panel_fn of the loop: a row for each of four scenes: context, target, render, depth."""
    data = experiment.data
    atlas = jnp.asarray(atlas, jnp.float32) / 255

    @jax.jit
    def draw(params):
        def row(seed):
            views = random_views(
                jax.random.key(seed), atlas, image_size=data.image_size, num_views=data.context + data.targets
            )
            context, targets = split_views(views, data.context)
            found = predict(params, context.images, context.cameras, views.near, views.far, config=experiment.predictor)
            capacity = Capacity(*experiment.phase.capacity)
            view = render(found.gaussians, targets.cameras[0], image_size=data.image_size, capacity=capacity)
            depth = jnp.broadcast_to((views.near / view.expected_depth)[..., None], view.image.shape)
            return jnp.concatenate([*context.images, targets.images[0], view.image, depth], axis=1)

        return jnp.concatenate(jax.lax.map(row, jnp.arange(4)))

    def panel(state: State, step: int) -> np.ndarray:
        del step
        return np.asarray(jnp.round(255 * jnp.clip(draw(state["params"]), 0, 1))).astype(np.uint8)

    return panel


def run(experiment: SceneExperiment, out_dir: Path, init: Path | None = None) -> State:
    """See `SceneExperiment.run`."""
    atlas = texture_atlas(experiment.data)
    make_state, step_fn = make_step(experiment, atlas)
    params = init_params(jax.random.key(experiment.loop.seed), experiment.predictor)
    source = init or experiment.init
    if source is not None:
        params = load_params(source, params)
    scenes = [load_posed(folder) for folder in experiment.data.scenes] if experiment.data.real else []
    state = run_loop(
        experiment.loop,
        state=make_state(params),
        step_fn=step_fn,
        batches_fn=lambda start: batches(experiment.data, scenes, start),
        panel_fn=make_panel(experiment, texture_atlas(experiment.data, test=True)),
        out_dir=out_dir,
        resolved_config=experiment,
    )
    params = jax.tree.map(np.asarray, state["params"])
    metadata = {"predictor": config_to_text(experiment.predictor)}
    if isinstance(experiment.phase, SceneMeta) and experiment.phase.learn_rates:
        metadata["rates"] = rates_to_text(learned_rates(state["log_rates"]))
    save_weights(out_dir / "weights.safetensors", params, metadata)
    return state
