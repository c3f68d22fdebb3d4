"""Evaluations described by Python files, as in eval/configs: each has `evaluation()`."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

from airjax.errors import AirjaxError
from eval import curves, estimators
from eval.image import bench, quality, rd, rounding
from eval.scene import bench as scene_bench

# What a config may describe, and the function that does it: (config, weights, out) -> number of failures.
RUNNERS = {
    quality.ImageEvaluation: quality.run,
    bench.Benchmark: bench.run,
    rd.RateDistortion: rd.run,
    rounding.Rounding: rounding.run,
    curves.Curves: curves.run,
    estimators.Estimators: estimators.run,
    scene_bench.SceneBenchmark: scene_bench.run,
}
Evaluation = (
    quality.ImageEvaluation
    | bench.Benchmark
    | rd.RateDistortion
    | rounding.Rounding
    | curves.Curves
    | estimators.Estimators
    | scene_bench.SceneBenchmark
)


def load_config(path: Path, overrides: dict[str, object]) -> Evaluation:
    """What the config file at `path` describes, with the fields in `overrides` replaced.

    The file is a program and is run.

    Raises:
      AirjaxError: no such file, a mistake in it, or an option that this kind of evaluation does not have.
    """
    if not path.is_file() or path.suffix != ".py":
        raise AirjaxError(f"{path}: expected a config file (.py)")
    try:
        make = runpy.run_path(str(path)).get("evaluation")
        config = make() if callable(make) else None
    except (SyntaxError, ImportError, NameError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise AirjaxError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if type(config) not in RUNNERS:
        kinds = " or ".join(kind.__name__ for kind in RUNNERS)
        raise AirjaxError(f"{path}: expected a function evaluation() that returns {kinds}, found none")
    own = {name: value for name, value in overrides.items() if hasattr(config, name)}
    subjects = getattr(config, "subjects", None)
    theirs = {name: value for name, value in overrides.items() if name not in own}
    if missing := [name for name in theirs if not hasattr(subjects, name)]:
        raise AirjaxError(f"--{missing[0]}: not an option of {path}, which describes a {type(config).__name__}")
    if theirs:
        own["subjects"] = dataclasses.replace(subjects, **theirs)
    return dataclasses.replace(config, **own, **_renamed(config, overrides))


def _renamed(config, overrides: dict[str, object]) -> dict[str, str]:
    """Another name and description where other images are measured, so that no report is mistaken for the full one."""
    name, description = config.name, config.description
    if "images" in overrides:
        name, description = f"{name}-{Path(str(overrides['images'])).stem}", f"{overrides['images']} as in {name}"
    if "limit" in overrides:
        name, description = f"{name}-first{overrides['limit']}", f"{description}, first {overrides['limit']}"
    return {"name": name, "description": description}
