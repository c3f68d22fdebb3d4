"""MetaGrad in 2D: the tasks are refinements of training crops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp

from airjax.gaussians import join, ladder
from airjax.image.stages import run_stages
from airjax.image.task import Coordinates, ImageLoss, ImageTask, squared_error
from airjax.raster.tiles import Capacity, patch_grid
from train.image.losses import draw_control, num_slots
from train.meta import Meta
from train.optim import State

if TYPE_CHECKING:
    from train.image.experiment import ImageExperiment


@dataclass(frozen=True)
class ImageMeta(Meta):
    """Meta-training of a staged predictor; the last layer of every stage is the head."""

    head: ClassVar[tuple[str, ...]] = ("head", "mean_share")
    # Chosen by hand on crops of training photographs.
    start_rates: ClassVar[Coordinates[float]] = Coordinates(means=0.2, log_scales=0.04, angles=0.04, colors=0.01)

    # log10_mse, budget: as in `train.image.losses.Joint`
    log10_mse: tuple[float, float] = (-6.0, -5.0)
    budget: tuple[float, float] = (0.25, 0.42)
    pairs: int = 14  # (Gaussian, tile) pairs per slot in use that the renderer has room for
    loss_fn: ImageLoss = squared_error  # the inner loss, see `airjax.image.task.ImageTask`

    def capacity(self, image_size: tuple[int, int], num_slots: int) -> Capacity:
        """Room in the renderer for the largest budget."""
        pairs = math.ceil(self.pairs * self.budget[1] * num_slots)
        tiles = math.prod(patch_grid(image_size, 8))
        return Capacity(ladder(pairs), ladder(pairs // 10 + tiles // 4))

    def loss(self, trained: State, batch: jax.Array, key: jax.Array, experiment: ImageExperiment):
        """See `Phase.loss`; a batch is images (b, h, w, 3)."""
        stages, size = experiment.stages, batch.shape[1:3]
        slots = num_slots(stages, size)
        capacity, rates = self.capacity(size, slots), self.rates(trained["log_rates"])

        def loss_of_image(image, key):
            key_control, key_estimator = jax.random.split(key)
            control = draw_control(key_control, num_slots=slots, log10_mse=self.log10_mse, budget=self.budget)
            trace = run_stages(stages, trained["params"], image, control)
            gaussians = join([stage.gaussians for stage in trace])
            task = ImageTask(image, rates, self.loss_fn)
            loss, metrics = self.task_loss(key_estimator, task, gaussians, trained["log_rates"], capacity=capacity)
            return loss, {**metrics, "active": jnp.sum(gaussians.active, dtype=jnp.float32) / slots}

        losses, metrics = jax.vmap(loss_of_image)(batch, jax.random.split(key, len(batch)))
        return jnp.mean(losses), jax.tree.map(jnp.nanmean, metrics)
