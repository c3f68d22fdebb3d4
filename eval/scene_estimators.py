"""Estimators of the outer gradient in 3D beside the exact one: as `eval.estimators`, for the refinement of scenes.

The outer loss is minus the PSNR of views that the refinement does not see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from train.scene.meta import refinement_problem

from airjax.errors import AirjaxError
from airjax.inner.estimators import Estimator, clip_rows, needs_second_order, outer_gradient
from airjax.inner.optimizers import scaled
from airjax.raster.tiles import Capacity
from airjax.scene.cameras import Camera
from airjax.scene.model import load as load_model
from airjax.scene.render import capacity_of
from airjax.scene.task import RATES, Coordinates, coordinates_of
from eval.estimators import Case, check_programs, study
from eval.scenes import SCRATCH, SceneRefinement, SceneStart, Task, tasks
from train.scene.losses import SceneMeta


@dataclass(frozen=True)
class SceneEstimators:
    """What to measure.

    Fields:
      name, description: of the evaluation, for the reports.
      estimators, horizons, draws: see `eval.estimators.Estimators`.
      num_scenes: procedural ones.
      image_size: (h, w) pixels of their views: two are given, two are judged.
      photographs: whose textures the scenes have; None for coloured noise.
      limit: only the first scenes; None for all.
    """

    name: str
    description: str
    estimators: tuple[str, ...]
    horizons: tuple[int, ...] = (1, 5, 20, 50)
    draws: int = 4
    num_scenes: int = 8
    image_size: tuple[int, int] = (32, 32)
    photographs: str | None = "../shared/data/photos_train"
    limit: int | None = None

    def __post_init__(self):
        check_programs(self.estimators, self.horizons)
        if self.draws < 2 or self.num_scenes < 1:
            raise AirjaxError(f"draws, num_scenes: expected at least 2 and 1, got {self.draws} and {self.num_scenes}")


def make_gradient(estimator: Estimator, *, capacity: Capacity, rates: Coordinates) -> Callable:
    """(key, start, active, unit, images, cameras, judged images, judged cameras) -> the clipped estimate, jitted."""

    @jax.jit
    def gradient(key, start, active, unit, images, cameras, judged_images, judged_cameras):
        options = {"unit": unit, "capacity": capacity, "any_order": needs_second_order(estimator)}
        problem = refinement_problem((images, cameras), (judged_images, judged_cameras), active, **options)
        found = outer_gradient(key, start, rates, problem, estimator=estimator).start
        return scaled(rates, clip_rows(found, rates, active, limit=SceneMeta.row_clip))

    return gradient


def run(config: SceneEstimators, weights: Path | None, out: Path) -> int:
    """Measures all scenes, prints tables, writes `estimators.json` and `.png`; 0 failures.

    Raises:
      AirjaxError: no such weights.
    """
    model = load_model(weights)
    scenes = SceneRefinement(
        name=config.name,
        description=config.description,
        starts=(SceneStart("scratch", (SCRATCH,)),),
        photographs=config.photographs,
        num_scenes=config.num_scenes,
        image_size=config.image_size,
        limit=config.limit,
    )
    cases, names, needs = [], [], []
    for i, task in enumerate(tasks(scenes)):
        gaussians = jax.tree.map(jnp.asarray, model.predict(task.images, task.cameras, task.near, task.far))
        start, unit = coordinates_of(gaussians, unit=task.near), np.float32(task.near)
        shown = task.images, task.cameras, task.judged_images, task.judged_cameras
        cases.append(Case((start, gaussians.active, unit, *shown), jax.random.key(i)))
        names.append(task.name)
        needs.append(capacity_of(gaussians, all_cameras(task), image_size=config.image_size, headroom=2.0))
    capacity = Capacity(max(c.pairs for c in needs), max(c.chunks for c in needs))
    rates = jax.tree.map(jnp.float32, RATES)
    study(config, partial(make_gradient, capacity=capacity, rates=rates), cases, names, out)
    return 0


def all_cameras(task: Task) -> Camera:
    """Of the views that are given and of those that are judged, a stack."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), task.cameras, task.judged_cameras)
