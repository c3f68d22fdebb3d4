"""Evaluations described by Python files, as in eval/configs: each has `evaluation()`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from airjax.errors import AirjaxError
from eval import accelerator, curves, estimators
from eval.image import bench, quality, rd, rounding
from eval.scene import bench as scene_bench
from train.settings import config_errors, load_config

CONFIGS = Path(__file__).with_name("configs")
# What a config may describe, and the function that does it: (config, weights file or None for the shipped one, folder
# of the reports) -> number of images or scenes that could not be read. AirjaxError: no such weights, no such images, or
# none that can be read.
RUNNERS = {
    quality.ImageEvaluation: quality.run,
    bench.Benchmark: bench.run,
    rd.RateDistortion: rd.run,
    rounding.Rounding: rounding.run,
    curves.Curves: curves.run,
    estimators.Estimators: estimators.run,
    scene_bench.SceneBenchmark: scene_bench.run,
    accelerator.Accelerator: accelerator.run,
}


def load_evaluation(config: Path, overrides: dict[str, object]) -> Any:
    """The evaluation that a config file (or the name of one in eval/configs) describes, with some fields replaced.

    Raises AirjaxError: no such file, a mistake in it, or an option that this kind of evaluation does not have.
    """
    path, make = load_config(config, "evaluation", folder=CONFIGS)
    with config_errors(path):
        evaluation = make()
    if type(evaluation) not in RUNNERS:
        kinds = " or ".join(kind.__name__ for kind in RUNNERS)
        raise AirjaxError(f"{path}: expected a function evaluation() that returns {kinds}, found none")
    own = {name: value for name, value in overrides.items() if hasattr(evaluation, name)}
    subjects = getattr(evaluation, "subjects", None)
    theirs = {name: value for name, value in overrides.items() if name not in own}
    if missing := [name for name in theirs if not hasattr(subjects, name)]:
        raise AirjaxError(f"--{missing[0]}: not an option of {path}, which describes a {type(evaluation).__name__}")
    if theirs:
        own["subjects"] = dataclasses.replace(subjects, **theirs)
    return dataclasses.replace(evaluation, **own, **_renamed(evaluation, overrides))


def _renamed(config: Any, overrides: dict[str, object]) -> dict[str, str]:
    """Another name and description where other images are measured, so that no report is mistaken for the full one."""
    name, description = config.name, config.description
    if "images" in overrides:
        name, description = f"{name}-{Path(str(overrides['images'])).stem}", f"{overrides['images']} as in {name}"
    if "limit" in overrides:
        name, description = f"{name}-first{overrides['limit']}", f"{description}, first {overrides['limit']}"
    return {"name": name, "description": description}
