"""Run one evaluation: python -m eval.main CONFIG [--images FOLDER] [--weights FILE] [--out DIR] [--FIELD VALUE ...]

CONFIG is a Python file, or the name of one in eval/configs, with `evaluation()` that returns one of the kinds in
`eval.config.RUNNERS`. Every field of it is an option: --max-gaussians 10000 --limit 3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from airjax import AirjaxError
from airjax.commands.session import enable_compilation_cache
from eval.config import PROG, RUNNERS, changed, load_evaluation
from train.command_line import config_parser, read_command


def make_parser() -> argparse.ArgumentParser:
    """The options that are not fields of an evaluation."""
    example = "--images FOLDER --limit 3"
    parser = config_parser(PROG, "Run one evaluation.", folder="eval/configs", example=example)
    parser.add_argument("--weights", type=Path, help="a weights file (default: the shipped one)")
    parser.add_argument("--out", type=Path, help="folder of the reports (runs/eval/NAME, what was changed in the name)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 2 after one line per bad input; 130 when interrupted."""
    try:
        if (command := read_command(make_parser(), argv, lambda args: load_evaluation(args.config))) is None:
            return 0
        args, options, evaluation = command
        evaluation = changed(evaluation, options)
        enable_compilation_cache()
        out = args.out or Path("runs/eval") / evaluation.name
        failures = RUNNERS[type(evaluation)](evaluation, args.weights, out)
    except (AirjaxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the reports written so far stay", file=sys.stderr)
        return 130
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
