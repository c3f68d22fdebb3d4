"""What the options of several commands share: types of numbers, input files, and where the output goes."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable

_MAX_INT = 2**31 - 1
MAX_STEPS = 100_000  # of a refinement
MAX_SIDE = 2**15  # pixels


def whole(low: int, high: int = _MAX_INT) -> Callable[[str], int]:
    """The type of an option that is a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if low <= int(text) <= high:
                return int(text)
        raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """The type of an option that is a number from `low` to `high`."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= float(text) <= high:  # false for NaN
                return float(text)
        raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {text!r}")

    return parse


def add_output(parser: argparse.ArgumentParser, what: str, default: str) -> None:
    """--output, with a default in words, --force and --quiet."""
    parser.add_argument("-o", "--output", metavar="OUT", help=f"{what} (default: {default})")
    parser.add_argument("--force", action="store_true", help="replace files that are there already")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")


def add_inputs(parser: argparse.ArgumentParser, what: str) -> None:
    """Input files or folders, one or more."""
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=what)


def add_photographs(parser: argparse.ArgumentParser) -> None:
    """Photographs in, .air files out."""
    add_inputs(parser, "PNG, JPEG, WebP or TIFF files, or folders of them")
    add_output(parser, "file, or folder for several files", "photo.air beside photo.*")


def add_weights(parser: argparse.ArgumentParser) -> None:
    """--weights."""
    parser.add_argument("--weights", metavar="FILE", help="weights (.safetensors) other than the shipped ones")
