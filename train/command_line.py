"""Settings from the command line: every field of a configuration is an option, its comment the help (tyro)."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from airjax.errors import AirjaxError

Config = TypeVar("Config")
_FRAME = "│╭╮╰╯─+|- "


def parse_settings(config: Config, arguments: Sequence[str], *, prog: str) -> Config:
    """The frozen dataclass `config` with what `arguments` change, such as ("--optimizer.learning-rate", "1e-3").

    Raises AirjaxError: an unknown option or a value that does not fit; SystemExit(0) after --help.
    """
    marks = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed)
    with contextlib.redirect_stderr(io.StringIO()) as box, warnings.catch_warnings(action="ignore"):
        try:
            return tyro.cli(type(config), default=config, args=list(arguments), prog=prog, config=marks)
        except SystemExit as stop:
            if not stop.code:
                raise
    raise AirjaxError(_one_line(box.getvalue()))


def help_of(config: Any, *, prog: str) -> str:
    """The options of a configuration, for the screen."""
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        parse_settings(config, ["--help"], prog=prog)
    return text.getvalue()


def _one_line(box: str) -> str:
    """What tyro says in a frame of several lines: the message, and the options that it thinks were meant."""
    message, suggestions, place = [], [], "message"
    for framed in box.splitlines()[1:]:
        line = framed.strip("│| ")
        if not line.strip(_FRAME):  # a rule of the frame
            place = "after" if message else "message"
        elif place == "message":
            message.append(line)
        elif line.startswith("Perhaps you meant"):
            place = "suggestions"
        elif place != "suggestions":
            continue
        elif line.startswith("--"):
            suggestions.append(line.split()[0])
    text = " ".join(message).removeprefix("Error parsing ").rstrip(".") or " ".join(box.split())
    meant = f"; perhaps {' or '.join(suggestions)}" if suggestions else ""
    return f"{text}{meant}; --help lists the options"
