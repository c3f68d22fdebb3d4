"""What the options of several commands share: tables, types of numbers, input files, and where the output goes."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

_MAX_INT = 2**31 - 1
MAX_STEPS = 100_000  # of a refinement
MAX_SIDE = 2**15  # pixels


def whole(low: int, high: int = _MAX_INT) -> Callable[[str], int]:
    """The type of an option that is a whole number from `low` to `high`."""
    return _between(int, low, high, f"a whole number from {low} to {high}")


def number(low: float, high: float) -> Callable[[str], float]:
    """The type of an option that is a number from `low` to `high`."""
    return _between(float, low, high, f"a number from {low:g} to {high:g}")


def steps_or_seconds(high_steps: int, high_seconds: float) -> Callable[[str], int | float]:
    """The type of an option that is a whole number of steps, or a time as 30s or 2m: a float, in seconds."""
    expected = f"a whole number of steps from 0 to {high_steps}, or a time up to {high_seconds:g}s, as 30s or 2m"

    def parse(text: str) -> int | float:
        units = {"s": 1.0, "m": 60.0}
        if text[-1:] not in units:
            return _between(int, 0, high_steps, expected)(text)
        seconds = _between(float, 0, high_seconds / units[text[-1]], expected)(text[:-1])
        return units[text[-1]] * seconds

    return parse


def _between(kind: Callable[[str], Any], low: float, high: float, expected: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if low <= kind(text) <= high:  # false for NaN
                return kind(text)
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return parse


def add_options(parser: argparse.ArgumentParser, *rows: tuple[Any, ...]) -> None:
    """The options of a table, in rows of ("-n --name VALUE", type, help) or those and a default, which help then says.

    A type is a function of the text, a tuple of choices, or bool for a switch; the last two have no VALUE.
    """
    for usage, kind, text, *default in rows:
        names = usage.split()
        options: dict[str, Any] = {"default": default[0]} if default else {}
        if default:
            text += " (default: %(default)g)" if isinstance(default[0], float) else " (default: %(default)s)"
        if kind is bool:
            options["action"] = "store_true"
        elif isinstance(kind, tuple):
            options["choices"] = kind
        else:
            options |= {"type": kind, "metavar": names.pop()}
        parser.add_argument(*names, help=text, **options)


def add_output(parser: argparse.ArgumentParser, what: str, default: str) -> None:
    """--output, with a default in words, --force and --quiet."""
    add_options(
        parser,
        ("-o --output OUT", str, f"{what} (default: {default})"),
        ("--force", bool, "replace files that are there already"),
        ("--quiet", bool, "say nothing but errors"),
    )


def add_inputs(parser: argparse.ArgumentParser, what: str) -> None:
    """Input files or folders, one or more."""
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=what)


def add_photographs(parser: argparse.ArgumentParser) -> None:
    """Photographs in, .air files out."""
    add_inputs(parser, "photographs (PNG, JPEG, WebP, TIFF, GIF, BMP, AVIF), folders of them, or - for standard input")
    add_output(parser, "file, or folder for several files", "photo.air beside photo.*")


def add_weights(parser: argparse.ArgumentParser) -> None:
    """--weights."""
    add_options(parser, ("--weights FILE", str, "weights (.safetensors) other than the shipped ones"))
