"""POD (predict, optimise, distil): the network learns to predict what the optimiser makes of its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.image.patches import to_physical
from airjax.image.stages import StageConfig, predict_stage
from airjax.inner.refine import refine
from airjax.metrics import image_loss
from airjax.raster.additive import render_patches
from airjax.raster.tiles import patch_centers, patch_grid


class PodInfo(NamedTuple):
    """What `pod_loss` saw, constant to every gradient: raw rows after the inner loop, and its loss before each step."""

    refined: Float[Array, "n k"]
    losses: Float[Array, " s"]


class PodStage(NamedTuple):
    """What `pod_stage` saw, constant to every gradient; `rendered` is the image after this stage as predicted."""

    rendered: Float[Array, "h w 3"]
    info: PodInfo


def inner_adam(learning_rate: float = 1e-3) -> optax.GradientTransformation:
    """AIR's inner optimiser.

    eps_root is the square of Adam's eps: far below the second moment of any row that is seen, and enough for
    a finite derivative at the rows that are not.
    """
    return optax.adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=1e-16)


def pod_loss(
    raw: Float[Array, "n k"],
    loss_fn: Callable[[Float[Array, "n k"]], Float[Array, ""]],
    inner_tx: optax.GradientTransformation,
    *,
    num_steps: int,
    new: Bool[AnyArray, " n"],
) -> tuple[Float[Array, ""], PodInfo]:
    """Distance of a prediction from what the inner loop makes of it (AIR's pretraining loss); 0 without new rows.

      u* = refine(loss_fn, stop(raw)), only the rows in `new` updated
      loss = 100 * mean over the new rows and their k numbers of smooth_l1(sigmoid(raw), stop(sigmoid(u*)))

    Two sigmoids differ by less than 1, so smooth L1 is always in its quadratic part, d^2 / 2. The gradient is
    that of the formula with u* a constant: nothing is differentiated through the inner loop, nor reaches what
    `loss_fn`, raw rows -> inner loss, closes over. `new` are the rows added at this stage; the others do not count.
    """
    if raw.ndim != 2 or new.shape != raw.shape[:1]:
        raise ValueError(f"new: expected one bool per row of raw {raw.shape}, got {new.shape}")
    start, rows = jax.lax.stop_gradient(raw), new[:, None]
    done = refine(loss_fn, start, inner_tx, num_steps=num_steps, update_mask=rows)
    refined, losses = jax.lax.stop_gradient((done.final, done.losses))
    # Chosen before the sigmoid, so that a row that does not count has the gradient 0 whatever it holds.
    difference = jax.nn.sigmoid(jnp.where(rows, raw, 0)) - jax.nn.sigmoid(jnp.where(rows, refined, 0))
    count = raw.shape[1] * jnp.maximum(jnp.sum(new, dtype=raw.dtype), 1)
    return 100 * jnp.sum(0.5 * jnp.square(difference)) / count, PodInfo(refined, losses)


def pod_stage(
    params: Any,
    image: Float[AnyArray, "h w 3"],
    rendered: Float[Array, "h w 3"],
    active: Bool[Array, " n"],
    inner_tx: optax.GradientTransformation,
    *,
    stage: StageConfig,
    num_steps: int,
    l1: float = 0.7,
    ssim: float = 0.3,
) -> tuple[Float[Array, ""], PodStage]:
    """POD of one stage on one image: (loss, see `PodStage`); differentiable in `params`, and in nothing else.

    The inner loss is `image_loss` of the accumulated render. AIR refines a copy of all Gaussians so far but
    updates those of this stage alone; the image is a sum, so the earlier ones are the constant `rendered`,
    drawn once instead of in every inner step. Raw rows keep the bounds of the patch map whatever the inner
    loop does to them: the static lists of `render_patches` stay exact. Patches that are not active count nowhere.
    """
    image, rendered = jax.lax.stop_gradient((image, rendered))
    height, width = image.shape[:2]
    size = stage.patch_map.patch_size
    grid = patch_grid((height, width), size)
    centers = patch_centers(grid, size, image.dtype)

    def render(raw):
        gaussians = to_physical(raw, centers, active, stage.patch_map, image_size=(height, width))
        return rendered + render_patches(gaussians, patches=stage.patch_map.layout(grid))[:height, :width]

    def inner_loss(raw):
        return image_loss(image, render(raw), l1=l1, rmse=0, ssim=ssim)

    raw = predict_stage(stage, params, image - rendered)
    loss, info = pod_loss(raw, inner_loss, inner_tx, num_steps=num_steps, new=active)
    return loss, PodStage(render(jax.lax.stop_gradient(raw)), info)
