"""MetaGrad in 3D: the scene predictor is trained for what some refinement steps make of its Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from airjax.errors import AirjaxError
from airjax.inner.estimators import Estimator, Problem, needs_second_order, outer_gradient, surrogate
from airjax.metrics import psnr
from airjax.raster.tiles import Capacity
from airjax.scene.cameras import Camera
from airjax.scene.predictor import PredictorConfig, predict
from airjax.scene.procedural import Views
from airjax.scene.render import render
from airjax.scene.task import RATES, Coordinates, coordinates_of, refinement_adam, views_loss
from train.meta import TRAINED, clipped_rows

HEAD = ("hidden", "head")  # the layers that make Gaussians of what the network knows; depths are not theirs


@dataclass(frozen=True)
class SceneMeta:
    """Meta-training of a scene predictor that is trained already.

    The inner problem of a scene is the refinement towards its context views (`airjax.scene.task`); the outer loss
    is minus the PSNR in dB of views that neither the network nor the refinement has seen.

    Fields:
      estimator: of the outer gradient, see `airjax.inner.estimators`.
      trained: "head" for the last two layers, "all" for all weights, "rates" for no weight.
      learn_rates: whether the inner learning rates are trained, by an estimator that gives their gradient.
      rate_speed: how many times the optimiser's step the logarithms of the rates take.
      capacity: of the renderer; a scene that needs more sends no gradient (the metric "overflow" is their share).
      row_clip: see `train.meta.clipped_rows`.
    """

    estimator: Estimator
    trained: str = "head"
    learn_rates: bool = False
    rate_speed: float = 100.0
    capacity: tuple[int, int] = (32768, 3072)
    row_clip: float = 10.0

    def __post_init__(self):
        if self.trained not in TRAINED:
            raise AirjaxError(f"trained: expected one of {', '.join(TRAINED)}, got {self.trained!r}")


def start_log_rates() -> dict[str, jax.Array]:
    """Logarithms of `airjax.scene.task.RATES` by name."""
    return {name: jnp.log(jnp.float32(rate)) for name, rate in RATES._asdict().items()}


def learned_rates(log_rates: dict[str, jax.Array]) -> Coordinates:
    """The inner learning rates of a state."""
    return jax.tree.map(jnp.exp, Coordinates(**log_rates))


def refinement_problem(
    given: tuple[Any, Camera],
    judged: tuple[Any, Camera],
    active: jax.Array,
    *,
    unit: jax.Array,
    capacity: Capacity,
    any_order: bool,
) -> Problem:
    """Refinement towards the views given, judged by minus the mean PSNR in dB of the others.

    Args:
      given, judged: (images, cameras), a stack each.
      active: slots in use.
      unit, capacity, any_order: see `airjax.scene.task.views_loss`.
    """
    options = {"capacity": capacity, "any_order": any_order}

    def outer_loss_fn(coordinates: Coordinates) -> jax.Array:
        moved = coordinates.gaussians(active, unit)

        def one(image, camera):
            return -psnr(image, render(moved, camera, image_size=image.shape[:2], **options).image)

        return jnp.mean(jax.vmap(one)(*judged))

    return Problem(
        views_loss(*given, active, unit=unit, **options), outer_loss_fn=outer_loss_fn, make_tx=refinement_adam
    )


def scene_meta_loss(
    trained: dict[str, Any],
    context: Views,
    targets: Views,
    key: jax.Array,
    *,
    phase: SceneMeta,
    predictor: PredictorConfig,
):
    """Surrogate loss of one scene, whose gradient is the estimated one, and its metrics.

    Args:
      trained: {"params": weights, "log_rates": logarithms of the inner rates}.
      context, targets: views that are given, and views that are judged.
    """
    log_rates, rates = Coordinates(**trained["log_rates"]), learned_rates(trained["log_rates"])
    bounds = context.near, context.far
    gaussians = predict(trained["params"], context.images, context.cameras, *bounds, config=predictor).gaussians
    start = coordinates_of(gaussians, unit=context.near)
    problem = refinement_problem(
        (context.images, context.cameras),
        (targets.images, targets.cameras),
        gaussians.active,
        unit=context.near,
        capacity=Capacity(*phase.capacity),
        any_order=needs_second_order(phase.estimator),
    )
    found = outer_gradient(key, start, rates, problem, estimator=phase.estimator)
    before = problem.outer_loss_fn(jax.lax.stop_gradient(start))
    # Lists that overflowed give NaN everywhere: such a scene counts for nothing.
    fits = jnp.isfinite(found.loss) & jnp.isfinite(before)
    found = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf) & fits, leaf, 0), found)
    by_log_rate = jax.tree.map(jnp.multiply, found.rates, rates)
    gradient = clipped_rows(found.start, rates, gaussians.active, limit=phase.row_clip)
    loss = surrogate(start, gradient) + surrogate(log_rates, by_log_rate)
    metrics = {
        "psnr": jnp.where(fits, -before, jnp.nan),
        "psnr_refined": jnp.where(fits, -found.loss, jnp.nan),
        "overflow": 1.0 - fits.astype(jnp.float32),
    }
    # The surrogate's value means nothing: the loss that is logged is the outer one.
    return loss + jax.lax.stop_gradient(found.loss - loss), jax.lax.stop_gradient(metrics)
