"""Run one experiment: python -m train.main --config X [--smoke] [--out DIR]

X is a Python file, or the name of one in train/configs, with `experiment(smoke: bool)` that returns an `Experiment` of
`train.image.experiment` or a `SceneExperiment` of `train.scene.experiment`. The same command on the same folder
continues an interrupted run.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

from airjax.commands.session import enable_compilation_cache
from airjax.errors import AirjaxError
from train.settings import config_errors, load_config

CONFIGS = Path(__file__).with_name("configs")


def load_experiment(config: Path, smoke: bool, *, variant: str | None = None, seed: int | None = None) -> Any:
    """The experiment that a config file describes.

    Args:
      config: the file, or the name of one in train/configs.
      smoke: the tiny variant.
      variant, seed: further arguments of its function, where it has them.

    Raises:
      AirjaxError: no such file, a mistake in it, or an option that it does not have.
    """
    path, make = load_config(config, "experiment", folder=CONFIGS)
    known = inspect.signature(make).parameters
    choices = {name: value for name, value in (("variant", variant), ("seed", seed)) if value is not None}
    if unknown := [name for name in choices if name not in known]:
        raise AirjaxError(f"--{unknown[0]}: not an option of {path}")
    with config_errors(path):
        return make(smoke, **choices)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, or 2 after one line for the user."""
    parser = argparse.ArgumentParser(prog="python -m train.main", description="Run one experiment.")
    parser.add_argument("--config", type=Path, required=True, help="a file, or the name of one in train/configs")
    parser.add_argument("--smoke", action="store_true", help="the tiny variant, under 2 minutes on a CPU")
    parser.add_argument("--variant", help="of a config that has several")
    parser.add_argument("--seed", type=int, help="of a config that takes one")
    parser.add_argument("--out", type=Path, help="folder of the run (runs/<name>)")
    parser.add_argument("--max-seconds", type=float, help="stop after this time, all sessions together")
    parser.add_argument("--init", type=Path, help="start from these weights, or this checkpoint folder")
    args = parser.parse_args(argv)
    try:
        experiment = load_experiment(args.config, args.smoke, variant=args.variant, seed=args.seed)
        if args.max_seconds is not None:
            loop = dataclasses.replace(experiment.loop, max_seconds=args.max_seconds)
            experiment = dataclasses.replace(experiment, loop=loop)
        enable_compilation_cache()
        experiment.run(args.out or Path("runs") / experiment.name, args.init)
    except (AirjaxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
