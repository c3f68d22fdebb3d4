"""Losses of whole images: all stages together, as they are predicted or as a compact file gives them back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from airjax.image.codec.places import Layout, places_of
from airjax.image.codec.rate import row_bits, spreads_of
from airjax.image.stages import Stage, StageConfig, StageControl, run_stages, solve_stages
from airjax.metrics import image_loss, psnr
from airjax.raster.tiles import patch_grid
from train.optim import Phase, State

if TYPE_CHECKING:
    from train.image.experiment import ImageExperiment

TraceLoss = Callable[[jax.Array, tuple[Stage, ...]], jax.Array]


@dataclass(frozen=True)
class Joint(Phase):
    """All stages together on the accumulated renders: training from the start, or finetuning after POD.

    loss = sum over stages of weight_s * image_loss(image, rendered_s), SSIM at the last stage alone.
    """

    stage_weights: tuple[float, ...]  # one weight per stage
    # l1, rmse, ssim: see `airjax.metrics.image_loss`
    l1: float = 0.0
    rmse: float = 1.0
    ssim: float = 0.1
    log10_mse: tuple[float, float] = (-5.0, -3.5)  # range of the Stage Control threshold, drawn per image (log-uniform)
    # range of the Gaussian budget, in shares of all slots, drawn per image; a user's --max-gaussians is then nothing
    # new to the network
    budget: tuple[float, float] = (0.5, 1.1)
    # color-solve steps before one more term of the loss, the image with solved colors; 0 for no such term. The geometry
    # then learns what the solve of the encoder can make the most of
    solve_steps: int = 0
    loss_fn: TraceLoss | None = None  # (image, stages as run) -> loss, in place of that sum; None for it

    def stages_loss(self, image: jax.Array, trace: tuple[Stage, ...]) -> jax.Array:
        """The loss of one image without its solved colors."""
        if self.loss_fn is not None:
            return self.loss_fn(image, trace)
        loss = jnp.float32(0)
        for i, (stage, weight) in enumerate(zip(trace, self.stage_weights, strict=True)):
            ssim = self.ssim if i == len(trace) - 1 else 0
            loss += weight * image_loss(image, stage.rendered, l1=self.l1, rmse=self.rmse, ssim=ssim)
        return loss

    def loss(self, trained: State, batch: jax.Array, key: jax.Array, experiment: ImageExperiment):
        """See `Phase.loss`; a batch is images (b, h, w, 3)."""
        stages, slots = experiment.stages, num_slots(experiment.stages, batch.shape[1:3])

        def loss_of_image(image, key):
            control = draw_control(key, num_slots=slots, log10_mse=self.log10_mse, budget=self.budget)
            trace = run_stages(stages, trained["params"], image, control)
            loss = self.stages_loss(image, trace)
            metrics = {f"psnr{i}": psnr(image, jnp.clip(stage.rendered, 0, 1)) for i, stage in enumerate(trace)}
            if self.solve_steps:
                solved = solve_stages(stages, trace, image, num_steps=self.solve_steps)[-1].rendered
                loss += image_loss(image, solved, l1=self.l1, rmse=self.rmse, ssim=self.ssim)
                metrics["psnr_solved"] = psnr(image, jnp.clip(solved, 0, 1))
            used = sum(jnp.sum(stage.gaussians.active, dtype=jnp.float32) for stage in trace)
            return loss, {**metrics, "active": used / slots}

        losses, metrics = jax.vmap(loss_of_image)(batch, jax.random.split(key, len(batch)))
        return jnp.mean(losses), jax.tree.map(mean_where_finite, metrics)


@dataclass(frozen=True)
class Compact(Phase):
    """Quantisation-aware finetuning: `Joint` on what a compact file gives back, plus the bits that it takes.

    loss = Joint's + weight * lambda(color_step) / (2 rmse) * bits / numbers of the image

    The image is drawn from rounded Gaussians, stage after stage, with straight-through gradients. With the bin width of
    the colors drawn per image, one set of weights serves every quality. lambda is the slope of distortion over rate of
    a uniform quantiser of that width at high rate, (pi / 6) ln 2 * color_step^2 per bit; the division turns it from
    squared errors into the root that the rest of the loss is.
    """

    joint: Joint  # the loss and the Stage Control draws of images on which nothing is rounded
    share: float = 0.75  # of the images on which it is
    log10_step: tuple[float, float] = (-2.0, -0.6)  # range of color_step, drawn log-uniform
    weight: float = 1.0  # of the rate
    # range of the Stage Control threshold in color_step^2, drawn log-uniform
    mse_per_step: tuple[float, float] = (0.03, 0.4)

    def draw_control(self, key: jax.Array, *, num_slots: int) -> StageControl:
        """A random Stage Control for one training image, rounding or not."""
        key_plain, key_share, key_step, key_mse = jax.random.split(key, 4)
        joint = self.joint
        plain = draw_control(key_plain, num_slots=num_slots, log10_mse=joint.log10_mse, budget=joint.budget)
        rounds = jax.random.uniform(key_share) < self.share
        step = 10 ** jax.random.uniform(key_step, (), jnp.float32, *self.log10_step)
        low, high = (math.log(x) for x in self.mse_per_step)
        threshold = jnp.exp(jax.random.uniform(key_mse, (), jnp.float32, low, high)) * step**2
        return StageControl(
            jnp.where(rounds, threshold, plain.mse_threshold),
            jnp.where(rounds, jnp.float32(2), plain.ssim_threshold),
            jnp.where(rounds, jnp.float32(jnp.inf), plain.max_gaussians),
            jnp.where(rounds, step, 0.0),
        )

    def loss(self, trained: State, batch: jax.Array, key: jax.Array, experiment: ImageExperiment):
        """See `Phase.loss`; a batch is images (b, h, w, 3)."""
        stages, size = experiment.stages, batch.shape[1:3]
        layout = Layout(size, tuple(stage.patch_map.patch_size for stage in stages))

        def loss_of_image(image, key):
            control = self.draw_control(key, num_slots=num_slots(stages, size))
            trace = run_stages(stages, trained["params"], image, control)
            rounds = control.color_step > 0
            loss = self.joint.stages_loss(image, trace)
            lattice = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(stage.lattice for stage in trace))
            places = places_of([stage.codes for stage in trace], layout)
            bits = jnp.sum(row_bits(lattice, spreads_of(lattice, places), places))
            error = jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.square(image - trace[-1].rendered)) + 1e-8))
            slope = math.pi / 6 * math.log(2) * jnp.square(control.color_step) / (2 * error * image.size)
            loss += self.weight * jnp.where(rounds, slope * bits, 0.0)
            decibels = psnr(image, jnp.clip(trace[-1].rendered, 0, 1))
            used = sum(jnp.sum(stage.lattice.used, dtype=jnp.float32) for stage in trace)
            coded = {"psnr_rounded": decibels, "bits": bits / jnp.maximum(used, 1), "bpp": bits / (size[0] * size[1])}
            metrics = {name: jnp.where(rounds, value, jnp.nan) for name, value in coded.items()}
            return loss, {**metrics, "psnr": jnp.where(rounds, jnp.nan, decibels)}

        losses, metrics = jax.vmap(loss_of_image)(batch, jax.random.split(key, len(batch)))
        return jnp.mean(losses), jax.tree.map(mean_where_finite, metrics)


def draw_control(
    key: jax.Array, *, num_slots: int, log10_mse: tuple[float, float], budget: tuple[float, float]
) -> StageControl:
    """A random Stage Control for one training image with `num_slots` in all stages; ranges as in `Joint`."""
    key_mse, key_budget = jax.random.split(key)
    threshold = 10 ** jax.random.uniform(key_mse, (), jnp.float32, *log10_mse)
    most = num_slots * jax.random.uniform(key_budget, (), jnp.float32, *budget)
    return StageControl(threshold, jnp.float32(0.05), most)


def num_slots(stages: tuple[StageConfig, ...], image_size: tuple[int, int]) -> int:
    """Slots of all stages together for an (h, w) image."""
    return sum(math.prod(patch_grid(image_size, stage.patch_map.patch_size)) for stage in stages)


def mean_where_finite(values: jax.Array) -> jax.Array:
    """The mean over finite values: an image that is met exactly, such as a black crop, has infinite PSNR."""
    finite = jnp.isfinite(values)
    return jnp.sum(jnp.where(finite, values, 0)) / jnp.sum(finite, dtype=values.dtype)
