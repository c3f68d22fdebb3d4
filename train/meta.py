"""MetaGrad in 2D: the predictor is trained for what some refinement steps make of its Gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from airjax.errors import AirjaxError
from airjax.gaussians import join, ladder
from airjax.image.stages import StageConfig, StageControl, run_stages
from airjax.image.task import Coordinates, coordinates_of, reconstruction_loss, refinement_adam
from airjax.inner.estimators import Estimator, Problem, needs_second_order, outer_gradient, surrogate
from airjax.inner.optimizers import scaled
from airjax.raster.tiles import Capacity, patch_grid

TRAINED = ("head", "all", "rates")
# The inner rates that training starts from, chosen by hand on crops of training photographs.
START_RATES = Coordinates(means=0.2, log_scales=0.04, angles=0.04, colors=0.01)
HEAD = ("head", "mean_share")  # the last layer of a stage's network


@dataclass(frozen=True)
class Meta:
    """Meta-training of a predictor that is trained already.

    The inner problem of an image is its refinement (`airjax.image.task`); the outer loss is minus the PSNR in dB,
    so that every image, and every number of steps, counts for its decibels.

    Fields:
      estimator: of the outer gradient, see `airjax.inner.estimators`.
      trained: "head" for the last layer of every stage, "all" for all weights, "rates" for no weight.
      learn_rates: whether the inner learning rates are trained, by an estimator that gives their gradient.
      rate_speed: how many times the optimiser's step the logarithms of the rates take.
      log10_mse: range of the Stage Control threshold, drawn per image (log-uniform).
      budget: range of the Gaussian budget, in shares of all slots, drawn per image.
      pairs: (Gaussian, tile) pairs per slot in use that the renderer has room for. An image that needs more sends no
        gradient; the metric "overflow" is the share of such images.
      row_clip: see `clipped_rows`.
    """

    estimator: Estimator
    trained: str = "head"
    learn_rates: bool = False
    rate_speed: float = 100.0
    log10_mse: tuple[float, float] = (-6.0, -5.0)
    budget: tuple[float, float] = (0.25, 0.42)
    pairs: int = 14
    row_clip: float = 10.0

    def __post_init__(self):
        if self.trained not in TRAINED:
            raise AirjaxError(f"trained: expected one of {', '.join(TRAINED)}, got {self.trained!r}")


def start_log_rates() -> dict[str, jax.Array]:
    """Logarithms of START_RATES by name."""
    return {name: jnp.float32(math.log(rate)) for name, rate in START_RATES._asdict().items()}


def learned_rates(log_rates: dict[str, jax.Array]) -> Coordinates:
    """The inner learning rates of a state."""
    return jax.tree.map(jnp.exp, Coordinates(**log_rates))


def trained_only(tx: optax.GradientTransformation, phase: Any, *, head: Collection[str] = HEAD):
    """The optax transformation `tx` for what a phase trains; the rest stays as it is.

    Args:
      phase: with `trained`, `learn_rates` and `rate_speed` as `Meta` has them.
      head: names of the layers that "head" stands for.
    """

    def label(path, leaf):
        del leaf
        names = [entry.key for entry in path]
        if names[0] == "log_rates":
            return "rates" if phase.learn_rates else "frozen"
        in_head = phase.trained == "head" and set(names) & set(head)
        return "trained" if phase.trained == "all" or in_head else "frozen"

    return optax.partition(
        {"trained": tx, "rates": optax.chain(tx, optax.scale(phase.rate_speed)), "frozen": optax.set_to_zero()},
        lambda tree: jax.tree_util.tree_map_with_path(label, tree),
    )


def capacity_for(phase: Meta, image_size: tuple[int, int], num_slots: int) -> Capacity:
    """Room in the renderer for the largest budget of the phase."""
    pairs = math.ceil(phase.pairs * phase.budget[1] * num_slots)
    tiles = math.prod(patch_grid(image_size, 8))
    return Capacity(ladder(pairs), ladder(pairs // 10 + tiles // 4))


def clipped_rows(gradient: Coordinates, rates: Coordinates, active: jax.Array, *, limit: float) -> Coordinates:
    """A gradient in which no Gaussian counts for more than `limit` times the median of those in use, of norm 1.

    Through many steps some Gaussians are chaotic: their exact gradient is thousands of times that of the others, and
    says nothing of where to go; and so are some images. Norms are taken in units of the rates. Zero stays zero.
    """
    parts = jax.tree.leaves(scaled(rates, gradient))
    norms = jnp.sqrt(sum(jnp.sum(jnp.square(part.reshape(len(active), -1)), axis=1) for part in parts))
    middle = jnp.nanmedian(jnp.where(active, norms, jnp.nan))
    clipped = jnp.minimum(norms, limit * jnp.nan_to_num(middle))
    total = jnp.sqrt(jnp.sum(jnp.square(clipped)))
    return scaled(clipped / jnp.maximum(norms * total, 1e-30), gradient)


def decibels_of(loss_fn: Callable[[Coordinates], jax.Array], num_values: int) -> Callable[[Coordinates], jax.Array]:
    """The outer loss: minus the PSNR in dB, where `loss_fn` is the `squared_error` of `num_values` numbers."""

    def decibels(coordinates: Coordinates) -> jax.Array:
        return 10 * jnp.log10(2 * loss_fn(coordinates) / num_values + 1e-10)

    return decibels


def meta_loss(
    trained: dict[str, Any],
    images: jax.Array,
    key: jax.Array,
    phase: Meta,
    stages: tuple[StageConfig, ...],
    draw: Callable[..., StageControl],
):
    """Surrogate loss of a batch (b, h, w, 3), whose gradient is the estimated one, and its metrics.

    Args:
      trained: {"params": weights, "log_rates": logarithms of the inner rates}.
      draw: (key, num_slots=) -> Stage Control of one image.
    """
    size = images.shape[1:3]
    slots = sum(math.prod(patch_grid(size, stage.patch_map.patch_size)) for stage in stages)
    capacity = capacity_for(phase, size, slots)
    log_rates, rates = Coordinates(**trained["log_rates"]), learned_rates(trained["log_rates"])

    def one(image, key):
        key_control, key_estimator = jax.random.split(key)
        trace = run_stages(stages, trained["params"], image, draw(key_control, num_slots=slots))
        gaussians = join([stage.gaussians for stage in trace])
        start = coordinates_of(gaussians)
        loss_fn = reconstruction_loss(
            image, gaussians.active, capacity=capacity, any_order=needs_second_order(phase.estimator)
        )
        decibels = decibels_of(loss_fn, image.size)
        problem = Problem(loss_fn, outer_loss_fn=decibels, make_tx=refinement_adam)
        found = outer_gradient(key_estimator, start, rates, problem, estimator=phase.estimator)
        # Lists that overflowed give NaN everywhere: such an image counts for nothing.
        fits = jnp.isfinite(found.loss) & jnp.isfinite(decibels(jax.lax.stop_gradient(start)))
        found = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf) & fits, leaf, 0), found)
        by_log_rate = jax.tree.map(jnp.multiply, found.rates, rates)
        loss = surrogate(start, clipped_rows(found.start, rates, gaussians.active, limit=phase.row_clip)) + surrogate(
            log_rates, by_log_rate
        )
        metrics = {
            "psnr": jnp.where(fits, -decibels(start), jnp.nan),
            "psnr_refined": jnp.where(fits, -found.loss, jnp.nan),
            "overflow": 1.0 - fits.astype(jnp.float32),
            "active": jnp.sum(gaussians.active, dtype=jnp.float32) / slots,
        }
        # The surrogate's value means nothing: the loss that is logged is the outer one.
        return loss + jax.lax.stop_gradient(found.loss - loss), jax.lax.stop_gradient(metrics)

    losses, metrics = jax.vmap(one)(images, jax.random.split(key, len(images)))
    return jnp.mean(losses), jax.tree.map(jnp.nanmean, metrics)
