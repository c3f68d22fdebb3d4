"""Training for the quantiser of AIR, and the loss of all that comes after its POD pretraining."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from airjax.arrays import size_of
from airjax.gaussians import Gaussians2D
from airjax.image import air_quantiser
from airjax.image.patches import inner_centers, stretched
from airjax.image.stages import Stage, StageConfig, run_stages
from airjax.metrics import image_loss, psnr
from airjax.nn.air_stage import AirnetConfig
from airjax.nn.airnet import class_token
from airjax.raster.additive import render_patches
from airjax.raster.tiles import patch_centers, patch_grid
from train.image.losses import Joint, draw_control, mean_where_finite, num_slots
from train.optim import Phase, State

if TYPE_CHECKING:
    from train.image.experiment import ImageExperiment

# The Stage Control of AIR: one threshold, and as many Gaussians as ask for one.
CONTROL = {"log10_mse": (-3.5, -3.5), "budget": (2.0, 2.0)}


def loss_of_every_stage(image: jax.Array, trace: tuple[Stage, ...]) -> jax.Array:
    """AIR's loss: 0.7 L1 + 0.3 (1 - SSIM) of what is rendered after each stage, added up."""
    losses = [image_loss(image, stage.rendered, l1=0.7, rmse=0, ssim=0.3) for stage in trace]
    return jnp.sum(jnp.stack(losses))


@dataclass(frozen=True)
class AirQuantised(Phase):
    """Finetuning of AIR with its quantiser: the loss of what rounded Gaussians of all stages show, and of rounding.

    Stages see what the exact Gaussians of those before them leave over; then the class token of the last one gives the
    bins of all. loss = Joint's + distortion * mean |number - rounded number|.
    """

    joint: Joint  # the loss of an image, and the draws of its Stage Control
    distortion: float = 0.01

    def loss(self, trained: State, batch: jax.Array, key: jax.Array, experiment: ImageExperiment):
        """See `Phase.loss`; a batch is images (b, h, w, 3)."""
        stages, params, joint = experiment.stages, trained["params"], self.joint
        slots = num_slots(stages, batch.shape[1:3])

        def loss_of_image(image, key):
            control = draw_control(key, num_slots=slots, log10_mse=joint.log10_mse, budget=joint.budget)
            trace = run_stages(stages, params, image, control)
            seen = image - trace[-2].rendered if len(trace) > 1 else image
            rounded, error = rounded_stages(stages, trace, params, seen)
            metrics = {"psnr": psnr(image, jnp.clip(trace[-1].rendered, 0, 1))}
            metrics["psnr_rounded"] = psnr(image, jnp.clip(rounded[-1].rendered, 0, 1))
            return joint.stages_loss(image, rounded) + self.distortion * error, metrics

        losses, metrics = jax.vmap(loss_of_image)(batch, jax.random.split(key, len(batch)))
        return jnp.mean(losses), jax.tree.map(mean_where_finite, metrics)


def rounded_stages(
    stages: tuple[StageConfig, ...], trace: tuple[Stage, ...], params: dict, seen: jax.Array
) -> tuple[tuple[Stage, ...], jax.Array]:
    """The stages as the quantiser gives them back, and the mean error; `seen` is the last one's residual."""
    network, size = stages[-1].network, size_of(seen)
    assert isinstance(network, AirnetConfig)
    token = class_token(params[f"stage{len(stages) - 1}"], seen, config=network)
    bins = air_quantiser.bins_of(params["quantiser"], token)
    rendered, done, errors, counts = jnp.zeros_like(seen), [], jnp.float32(0), jnp.float32(0)
    for stage, added in zip(stages, trace, strict=True):
        gaussians, error = _rounded(stage, added.gaussians, bins, size)
        layout = stage.patch_map.layout(patch_grid(size, stage.patch_map.patch_size))
        rendered = rendered + render_patches(gaussians, patches=layout)[: size[0], : size[1]]
        done.append(Stage(gaussians, rendered))
        errors += jnp.sum(jnp.where(gaussians.active[:, None], jnp.abs(error), 0))
        counts += air_quantiser.NUMBERS * jnp.sum(gaussians.active, dtype=jnp.float32)
    return tuple(done), errors / jnp.maximum(counts, 1)


def _rounded(
    stage: StageConfig, gaussians: Gaussians2D, bins: air_quantiser.Bins, image_size: tuple[int, int]
) -> tuple[Gaussians2D, jax.Array]:
    """The rounded Gaussians of a stage, and the errors (n, 8) of their numbers."""
    size, is_stretched = stage.patch_map.patch_size, stage.patch_map.stretched_grid
    centers = patch_centers(patch_grid(image_size, size), size)
    if is_stretched:  # offsets are measured before the stretch
        centers = inner_centers(centers, image_size)
        gaussians = replace(gaussians, means=stretched(gaussians.means, image_size, back=True))
    rounded = air_quantiser.rounded(gaussians, centers, bins)
    error = air_quantiser.numbers_of(rounded, centers) - air_quantiser.numbers_of(gaussians, centers)
    if is_stretched:
        rounded = replace(rounded, means=stretched(rounded.means, image_size))
    return rounded, error
