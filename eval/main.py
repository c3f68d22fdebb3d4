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
from train.command_line import help_of


def make_parser() -> argparse.ArgumentParser:
    """The options that are not fields of an evaluation."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Run one evaluation.",
        epilog=f"Every field of the evaluation is an option too: --images FOLDER --limit 3; {PROG} CONFIG --help lists "
        "them.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "config", type=Path, nargs="?", metavar="CONFIG", help="a file, or the name of one in eval/configs"
    )
    parser.add_argument("--weights", type=Path, help="a weights file (default: the shipped one)")
    parser.add_argument("--out", type=Path, help="folder of the reports (runs/eval/NAME, what was changed in the name)")
    parser.add_argument("-h", "--help", action="store_true", help="this text, and the fields of CONFIG")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 2 after one line per bad input; 130 when interrupted."""
    parser = make_parser()
    args, options = parser.parse_known_args(argv)
    try:
        if args.help and args.config is None:
            parser.print_help()
            return 0
        if args.config is None:
            raise AirjaxError(f"expected a config file (.py), or the name of one in eval/configs; see {PROG} --help")
        evaluation = load_evaluation(args.config)
        if args.help:
            print(parser.format_help(), help_of(evaluation, prog=f"{PROG} {args.config}"), sep="\n")
            return 0
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
