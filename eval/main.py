"""Run one evaluation: python -m eval.main --config X [--weights F] [--images F] [--limit N] [--out DIR]

X is a Python file, or the name of one in eval/configs, with `evaluation()` that returns one of the kinds in
`eval.config.RUNNERS`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from airjax import AirjaxError
from airjax.commands.session import enable_compilation_cache
from eval.config import RUNNERS, load_evaluation


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0; 2 after one line per bad input; 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m eval.main", description="Run one evaluation.")
    parser.add_argument("--config", type=Path, required=True, help="a file, or the name of one in eval/configs")
    parser.add_argument("--weights", type=Path, help="a weights file (default: the shipped one)")
    parser.add_argument("--images", help="other images than the config names: a folder or a file")
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--out", type=Path, help="folder of the reports (runs/eval/<name>)")
    args = parser.parse_args(argv)
    overrides = {name: value for name in ("images", "limit") if (value := getattr(args, name)) is not None}
    try:
        evaluation = load_evaluation(args.config, overrides)
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
