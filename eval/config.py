"""Evaluations described by Python files, as in eval/configs: each has `evaluation()`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from airjax.errors import AirjaxError
from eval import estimators, refinement, scene_estimators, scenes
from eval.image import bench, quality, rd, rounding
from eval.scene import bench as scene_bench
from train.settings import config_errors, load_config

CONFIGS = Path(__file__).with_name("configs")
# What a config may describe, and the function that does it: (config, weights, out) -> number of failures.
RUNNERS = {
    quality.ImageEvaluation: quality.run,
    bench.Benchmark: bench.run,
    rd.RateDistortion: rd.run,
    rounding.Rounding: rounding.run,
    refinement.Refinement: refinement.run,
    estimators.Estimators: estimators.run,
    scenes.SceneRefinement: scenes.run,
    scene_estimators.SceneEstimators: scene_estimators.run,
    scene_bench.SceneBenchmark: scene_bench.run,
}


def load_evaluation(config: Path, overrides: dict[str, object]) -> Any:
    """The evaluation that a config file describes, with the fields in `overrides` replaced.

    Args:
      config: the file, or the name of one in eval/configs.

    Raises:
      AirjaxError: no such file, a mistake in it, or an option that this kind of evaluation does not have.
    """
    path, make = load_config(config, "evaluation", folder=CONFIGS)
    with config_errors(path):
        evaluation = make()
    if type(evaluation) not in RUNNERS:
        kinds = " or ".join(kind.__name__ for kind in RUNNERS)
        raise AirjaxError(f"{path}: expected a function evaluation() that returns {kinds}, found none")
    for option in overrides:
        if not hasattr(evaluation, option):
            raise AirjaxError(f"--{option}: not an option of {path}, which describes a {type(evaluation).__name__}")
    return dataclasses.replace(evaluation, **overrides, **_renamed(evaluation, overrides))


def _renamed(config: Any, overrides: dict[str, object]) -> dict[str, str]:
    """Another name and description where other images are measured, so that no report is mistaken for the full one."""
    name, description = config.name, config.description
    if "images" in overrides:
        name, description = f"{name}-{Path(str(overrides['images'])).stem}", f"{overrides['images']} as in {name}"
    if "limit" in overrides:
        name, description = f"{name}-first{overrides['limit']}", f"{description}, first {overrides['limit']}"
    return {"name": name, "description": description}
