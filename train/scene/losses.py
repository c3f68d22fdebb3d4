"""Losses of scenes: on what a prediction itself looks like, and on what refinement makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from airjax.metrics import psnr
from airjax.raster.tiles import Capacity
from airjax.scene.predictor import Prediction, Scores, predict, predict_scored
from airjax.scene.procedural import Views
from airjax.scene.render import render
from airjax.scene.task import RATES, Coordinates, SceneTask, ViewLoss, view_loss
from train.meta import Meta
from train.optim import Phase, State
from train.scene.data import random_sets, split_views

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
           + planes * (cross-entropies of the planes of both sweeps)

    The logarithm makes every scene count for its decibels. True depths are clipped to the range of their view; a
    cell's plane is a distribution over those next to the depths of its pixels.
    """

    # depth, planes: weights of the depths of procedural scenes, which are known
    depth: float = 1.0
    planes: float = 1.0
    floor: float = 1e-4  # of the squared error
    # of the renderer; a view that needs more sends no gradient (the metric "overflow" is their share)
    capacity: tuple[int, int] = (53248, 5632)
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
        sets, given = random_sets(key, len(context.images))
        found, scores = predict_scored(
            trained["params"], context.images, context.cameras, *bounds, config=experiment.predictor, sets=sets
        )
        active = found.gaussians.active.reshape(len(sets), -1) & given[:, None]
        found = found._replace(gaussians=replace(found.gaussians, active=active.ravel()))
        size, capacity = experiment.data.image_size, Capacity(*self.capacity)
        draw = partial(render, found.gaussians, image_size=size, capacity=capacity)
        drawn = jax.vmap(lambda camera: draw(camera))(targets.cameras)
        fits = ~jnp.any(drawn.overflow)
        # Before the loss: its derivative at NaN would reach the views that did not overflow.
        rendered = jnp.where(fits, drawn.image, targets.images)
        loss = jnp.where(fits, self.views_loss(targets.images, rendered), 0.0)
        truth = true_planes(context, found, experiment.predictor.planes[0])
        error, middle = depth_error(found, truth), (scores.planes[..., :1] + scores.planes[..., -1:]) / 2
        off = jnp.abs(middle - truth.planes)
        coarse, fine = cross_entropies(scores, truth)
        decibels = jax.vmap(psnr)(targets.images, jnp.clip(drawn.image, 0, 1))
        metrics = {
            "psnr": jnp.where(fits, jnp.mean(decibels), jnp.nan),
            "depth_error": jnp.where(truth.any, error, jnp.nan),
            "found": jnp.where(truth.any, jnp.mean(off <= 2.0, dtype=jnp.float32), jnp.nan),
            "coarse": jnp.where(truth.any, coarse, jnp.nan),
            "fine": jnp.where(truth.any, fine, jnp.nan),
            "overflow": 1.0 - fits.astype(jnp.float32),
        }
        return loss + self.depth * error + self.planes * (coarse + fine), metrics


class Truth(NamedTuple):
    """Depths of the pixels of every cell, where they are known."""

    depths: jax.Array  # (v, a, b, 4), clipped to the range of the view; 1 where not known
    planes: jax.Array  # (v, a, b, 4) numbers of planes of the first sweep
    known: jax.Array  # (v, a, b, 4)
    any: jax.Array  # () whether one is known


def true_planes(context: Views, found: Prediction, count: int) -> Truth:
    """What the depths of a scene say of the cells."""
    views, rows, columns = found.depths.shape
    padding = [
        (0, 0),
        *((0, 2 * side - size) for side, size in zip((rows, columns), context.depths.shape[1:], strict=True)),
    ]
    true = jnp.pad(context.depths, padding, constant_values=jnp.nan)
    true = true.reshape(views, rows, 2, columns, 2).transpose(0, 1, 3, 2, 4).reshape(views, rows, columns, 4)
    known = ~jnp.isnan(true)
    near, far = (bound[:, None, None, None] for bound in (context.near, context.far))
    true = jnp.where(known, jnp.clip(true, near, far), far)
    planes = (count - 1) * (1 / true - 1 / far) / (1 / near - 1 / far)
    return Truth(true, planes, known, jnp.any(known))


def depth_error(found: Prediction, truth: Truth) -> jax.Array:
    """Mean |ln(depth / true depth)| over the pixels of the cells."""
    error = jnp.abs(jnp.log(found.depths[..., None] / truth.depths))
    return jnp.sum(jnp.where(truth.known, error, 0.0)) / jnp.maximum(jnp.sum(truth.known.astype(error.dtype)), 1.0)


def cross_entropies(scores: Scores, truth: Truth) -> tuple[jax.Array, jax.Array]:
    """Of the planes next to the true depths, of both sweeps; of the second where its planes reach the true depth."""
    few = scores.fine.shape[-1]
    low, step = scores.planes[..., :1], scores.planes[..., 1:2] - scores.planes[..., :1]

    def mean(scores, place, known):
        # Weight of a plane: 1 less its distance, at most 1 plane away, from the place of the true depth.
        numbers = jnp.arange(scores.shape[-1], dtype=place.dtype)[None, None, None, None]
        target = jnp.maximum(1 - jnp.abs(numbers - place[..., None]), 0.0)
        target = jnp.sum(target * known[..., None].astype(target.dtype), axis=-2)
        return -jnp.sum(target * jax.nn.log_softmax(scores)) / jnp.maximum(jnp.sum(known.astype(target.dtype)), 1.0)

    place = (truth.planes - low) / step
    reached = truth.known & (place >= 0) & (place <= few - 1)
    return mean(scores.coarse, truth.planes, truth.known), mean(scores.fine, jnp.clip(place, 0, few - 1), reached)


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
        task = SceneTask(context.images, context.cameras, jnp.min(context.near), loss_fn=self.loss_fn)
        task = replace(task, target_images=targets.images, target_cameras=targets.cameras)
        task = replace(task, rates=self.rates(trained["log_rates"]))
        capacity = Capacity(*self.capacity)
        return self.task_loss(key, task, found.gaussians, trained["log_rates"], capacity=capacity)
