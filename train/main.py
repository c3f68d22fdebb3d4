"""Run one experiment: python -m train.main --config train/configs/X.py [--smoke] [--out DIR]

An experiment is a Python file with `experiment(smoke: bool)` that returns an `Experiment` of `train.image.experiment`
or a `SceneExperiment` of `train.scene.experiment`. The same command on the same folder continues an interrupted run.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import inspect
import sys
from pathlib import Path

from airjax.commands.session import enable_compilation_cache
from airjax.errors import AirjaxError


def load_experiment(path: Path, smoke: bool, **choices):
    """The experiment that the config file at `path` describes.

    Args:
      smoke: the tiny variant.
      choices: `variant`, `seed`: further arguments of its function, where it has them.
    """
    if not path.is_file() or path.suffix != ".py":
        raise AirjaxError(f"{path}: expected a config file (.py)")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "experiment"):
        raise AirjaxError(f"{path}: expected a function experiment(smoke), found none")
    known = inspect.signature(module.experiment).parameters
    if unknown := [name for name in choices if name not in known]:
        raise AirjaxError(f"--{unknown[0]}: not an option of {path}")
    return module.experiment(smoke, **choices)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, or 2 after one line for the user."""
    parser = argparse.ArgumentParser(prog="python -m train.main", description="Run one experiment.")
    parser.add_argument("--config", type=Path, required=True, help="a file of train/configs")
    parser.add_argument("--smoke", action="store_true", help="the tiny variant, under 2 minutes on a CPU")
    parser.add_argument("--variant", help="of a config that has several")
    parser.add_argument("--seed", type=int, help="of a config that takes one")
    parser.add_argument("--out", type=Path, help="folder of the run (runs/<name>)")
    parser.add_argument("--max-seconds", type=float, help="stop after this time, all sessions together")
    parser.add_argument("--init", type=Path, help="start from these weights, or this checkpoint folder")
    args = parser.parse_args(argv)
    try:
        choices = {name: value for name in ("variant", "seed") if (value := getattr(args, name)) is not None}
        experiment = load_experiment(args.config, args.smoke, **choices)
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
