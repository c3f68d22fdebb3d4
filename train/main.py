"""Run one experiment: python -m train.main CONFIG [--smoke] [--out DIR] [--FIELD VALUE ...]

CONFIG is a Python file, or the name of one in train/configs, with `experiment(smoke: bool)` that returns an
`Experiment` of `train.image.experiment` or a `SceneExperiment` of `train.scene.experiment`. Every field of it is an
option: --data.folders photos --optimizer.learning-rate 1e-3. The same command continues an interrupted run.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from airjax.commands.session import enable_compilation_cache
from airjax.errors import AirjaxError
from train.command_line import config_parser, parse_settings, read_command
from train.experiment import Experiment
from train.loop import read_config
from train.settings import config_errors, differences, load_config, name_with

CONFIGS = Path(__file__).with_name("configs")
PROG = "python -m train.main"


def load_experiment(config: Path, smoke: bool, *, variant: str | None = None, seed: int | None = None) -> Experiment:
    """The experiment that a config file (or the name of one in train/configs) describes, tiny with `smoke`.

    A seed goes to its function, or, where that takes none, to all that is random. A tiny one uses one device. Raises
    AirjaxError: no such file, a mistake in it, or a variant where there are none.
    """
    path, make = load_config(config, "experiment", folder=CONFIGS)
    known, choices = inspect.signature(make).parameters, {}
    if variant is not None and "variant" not in known:
        raise AirjaxError(f"--variant: not an option of {path}")
    if variant is not None:
        choices["variant"] = variant
    if seed is not None and "seed" in known:
        choices["seed"] = seed
    with config_errors(path):
        experiment = make(smoke, **choices)
        if not isinstance(experiment, Experiment):
            raise AirjaxError(f"experiment: expected an Experiment, got {type(experiment).__name__}")
        if smoke:  # its batch is too small for many devices
            experiment = experiment.with_(loop={"devices": 1})
        if seed is not None and "seed" not in known:
            name = name_with(experiment.name, {"seed": seed})
            experiment = experiment.with_(name=name, loop={"seed": seed}, data={"seed": seed})
    return experiment


def changed(experiment: Experiment, options: Sequence[str]) -> Experiment:
    """The experiment with the fields that options such as ("--loop.num-steps", "40") change; its name says which.

    Raises AirjaxError: an unknown option, or a value that does not fit.
    """
    given = parse_settings(experiment, options, prog=PROG)
    if given.name != experiment.name:
        return given
    return given.with_(name=name_with(given.name, differences(given, experiment)))


def extended(experiment: Experiment, out: Path, last_step: int | None) -> Experiment:
    """The experiment with the extensions that its run folder had, and one more to `last_step`.

    Raises AirjaxError: `last_step` lies before the end, or the folder holds no readable settings.
    """
    recorded = (read_config(out) or {"loop": {}})["loop"].get("extensions") or ()
    ends = (experiment.loop.num_steps, *recorded)
    if last_step is not None and last_step < ends[-1]:
        raise AirjaxError(f"--extend: expected a step after {ends[-1]}, the last of {out}, got {last_step}")
    more = () if last_step in (None, ends[-1]) else (last_step,)
    return experiment.with_(loop={"extensions": (*recorded, *more)})


def make_parser() -> argparse.ArgumentParser:
    """The options that are not fields of an experiment."""
    example = "--data.folders PHOTOGRAPHS --loop.num-steps 1000"
    parser = config_parser(PROG, "Run one experiment.", folder="train/configs", example=example)
    parser.add_argument("--smoke", action="store_true", help="the tiny variant, a minute on a CPU, on made-up pictures")
    parser.add_argument("--variant", help="of a config that has several")
    parser.add_argument("--seed", type=int, help="of all that is random")
    parser.add_argument("--out", type=Path, help="folder of the run (runs/NAME, with what was changed in the name)")
    parser.add_argument("--extend", type=int, metavar="STEP", help="go on to this step, with a schedule of its own")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 after one line for the user."""

    def load(args: argparse.Namespace) -> Experiment:
        return load_experiment(args.config, args.smoke, variant=args.variant, seed=args.seed)

    try:
        if (command := read_command(make_parser(), argv, load)) is None:
            return 0
        args, options, experiment = command
        experiment = changed(experiment, options)
        out = args.out or Path("runs") / experiment.name
        experiment = extended(experiment, out, args.extend)
        enable_compilation_cache()
        experiment.run(out)
    except (AirjaxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
