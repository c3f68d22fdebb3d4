"""Evaluations described by Python files, as in eval/configs: each has `evaluation()`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airjax.errors import AirjaxError
from eval import accelerator, curves, estimators
from eval.image import bench, quality, rd, rounding
from eval.image.sets import is_set
from eval.scene import bench as scene_bench
from eval.scene import unposed
from train.command_line import parse_settings
from train.settings import config_errors, differences, load_config, name_with, text_of

CONFIGS = Path(__file__).with_name("configs")
PROG = "python -m eval.main"
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
    unposed.UnposedEvaluation: unposed.run,
}


def load_evaluation(config: Path) -> Any:
    """The evaluation that a config file (or the name of one in eval/configs) describes.

    Raises AirjaxError: no such file, or a mistake in it.
    """
    path, make = load_config(config, "evaluation", folder=CONFIGS)
    with config_errors(path):
        evaluation = make()
    if type(evaluation) not in RUNNERS:
        kinds = " or ".join(kind.__name__ for kind in RUNNERS)
        raise AirjaxError(f"{path}: expected a function evaluation() that returns {kinds}, found none")
    return evaluation


def changed(evaluation: Any, options: Sequence[str]) -> Any:
    """The evaluation with the fields that options such as ("--images", "photos") change.

    The fields of `subjects` need no prefix. Name and description say what was changed, and which images are measured
    where they are not those of the description, so that no report is mistaken for another one. Raises AirjaxError: an
    unknown option, or a value that does not fit.
    """
    given = parse_settings(evaluation, [_full_name(option, evaluation) for option in options], prog=PROG)
    changes = differences(given, evaluation)
    name, description = name_with(evaluation.name, changes), evaluation.description
    if changes:
        description = f"{description}; {', '.join(f'{key}={text_of(value)}' for key, value in changes.items())}"
    subjects = getattr(given, "subjects", given)
    images, image_set = (getattr(subjects, field, "") for field in ("images", "image_set"))
    before = getattr(getattr(evaluation, "subjects", evaluation), "images", "")
    if images != before and not (image_set and is_set(images, image_set)) and hasattr(subjects, "image_set"):
        name, description = f"{name}-{Path(images).stem}", f"{images}, as in {name}"
    return dataclasses.replace(given, name=name, description=description)


def _full_name(option: str, evaluation: Any) -> str:
    """An option of the subjects with its prefix."""
    name = option.removeprefix("--").partition("=")[0].replace("-", "_")
    parts = evaluation, getattr(evaluation, "subjects", evaluation)
    own, subjects = ({field.name for field in dataclasses.fields(part)} for part in parts)
    return f"--subjects.{option[2:]}" if option.startswith("--") and name in subjects - own else option
