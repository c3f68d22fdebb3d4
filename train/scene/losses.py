"""Losses of scenes: on what a prediction itself looks like, and on what refinement makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp

from airjax.metrics import psnr
from airjax.raster.tiles import Capacity
from airjax.scene.predictor import predict
from airjax.scene.procedural import Views
from airjax.scene.render import render
from airjax.scene.task import RATES, Coordinates, SceneTask, ViewLoss, view_loss
from train.meta import Meta
from train.optim import Phase, State
from train.scene.data import split_views

if TYPE_CHECKING:
    from train.scene.experiment import SceneExperiment

ViewsLoss = Callable[[jax.Array, jax.Array], jax.Array]


class ScenePhase(Phase):
    """Base of the phases of scenes: the mean over the scenes of a step."""

    def scene_loss(self, trained: State, context: Views, targets: Views, key: jax.Array, experiment: SceneExperiment):
        """Loss of one scene, and its metrics; `context` views are given, `targets` are judged."""
        raise NotImplementedError

    def loss(self, trained: State, batch: Views, key: jax.Array, experiment: SceneExperiment):
        """See `Phase.loss`; a batch is the views of some scenes."""

        def loss_of_scene(views, key):
            context, targets = split_views(views, experiment.data.context)
            return self.scene_loss(trained, context, targets, key, experiment)

        views = experiment.make_views(batch)
        losses, metrics = jax.vmap(loss_of_scene)(views, jax.random.split(key, experiment.data.batch_size))
        return jnp.mean(losses), jax.tree.map(jnp.nanmean, metrics)


@dataclass(frozen=True)
class Vanilla(ScenePhase):
    """Training on what the prediction itself looks like.

    loss = mean over scenes of ln(mse of the targets + floor) / 2 + depth * |ln(depth / true depth)|

    The logarithm makes every scene count for its decibels.
    """

    depth: float = 1.0  # weight of the depths of procedural scenes, which are known
    floor: float = 1e-4  # of the squared error
    # of the renderer; a view that needs more sends no gradient (the metric "overflow" is their share)
    capacity: tuple[int, int] = (32768, 3072)
    # (targets, rendered), stacks of views -> loss, in place of that logarithm; None for it
    loss_fn: ViewsLoss | None = None

    def views_loss(self, images: jax.Array, rendered: jax.Array) -> jax.Array:
        """The loss of what a prediction looks like."""
        if self.loss_fn is not None:
            return self.loss_fn(images, rendered)
        return 0.5 * jnp.log(jnp.mean(jnp.square(rendered - images)) + self.floor)

    def scene_loss(self, trained: State, context: Views, targets: Views, key: jax.Array, experiment: SceneExperiment):
        """See `ScenePhase.scene_loss`."""
        bounds = context.near, context.far
        found = predict(trained["params"], context.images, context.cameras, *bounds, config=experiment.predictor)
        size, capacity = experiment.data.image_size, Capacity(*self.capacity)
        draw = partial(render, found.gaussians, image_size=size, capacity=capacity)
        drawn = jax.vmap(lambda camera: draw(camera))(targets.cameras)
        fits = ~jnp.any(drawn.overflow)
        # Before the loss: its derivative at NaN would reach the views that did not overflow.
        rendered = jnp.where(fits, drawn.image, targets.images)
        loss = jnp.where(fits, self.views_loss(targets.images, rendered), 0.0)
        error, known = _depth_error(found.depths, context.depths)
        decibels = jax.vmap(psnr)(targets.images, jnp.clip(drawn.image, 0, 1))
        metrics = {
            "psnr": jnp.where(fits, jnp.mean(decibels), jnp.nan),
            "depth_error": jnp.where(known, error, jnp.nan),
            "overflow": 1.0 - fits.astype(jnp.float32),
        }
        return loss + self.depth * error, metrics


def _depth_error(depths: jax.Array, true: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean |ln(depth / true depth)| of cells whose depth is known, and whether there is one."""
    rows, columns = depths.shape[1:]
    true = true[:, 1::2, 1::2][:, :rows, :columns]
    known = ~jnp.isnan(true)
    error = jnp.abs(jnp.log(depths[:, : true.shape[1], : true.shape[2]] / jnp.where(known, true, 1.0)))
    return jnp.mean(jnp.where(known, error, 0.0)), jnp.any(known)


@dataclass(frozen=True)
class SceneMeta(Meta, ScenePhase):
    """Meta-training of a scene predictor; the layers that make Gaussians are the head, depths are not theirs.

    The inner problem is the refinement towards the context views; the outer loss is minus the PSNR in dB of views that
    neither the network nor the refinement has seen.

    """

    head: ClassVar[tuple[str, ...]] = ("hidden", "head")
    start_rates: ClassVar[Coordinates[float]] = RATES

    capacity: tuple[int, int] = (32768, 3072)  # of the renderer
    loss_fn: ViewLoss = view_loss  # the inner loss, see `airjax.scene.task.SceneTask`

    def scene_loss(self, trained: State, context: Views, targets: Views, key: jax.Array, experiment: SceneExperiment):
        """See `ScenePhase.scene_loss`."""
        bounds = context.near, context.far
        found = predict(trained["params"], context.images, context.cameras, *bounds, config=experiment.predictor)
        task = SceneTask(context.images, context.cameras, context.near, loss_fn=self.loss_fn)
        task = replace(task, target_images=targets.images, target_cameras=targets.cameras)
        task = replace(task, rates=self.rates(trained["log_rates"]))
        capacity = Capacity(*self.capacity)
        return self.task_loss(key, task, found.gaussians, trained["log_rates"], capacity=capacity)
