"""Settings from the command line: every field of a configuration is an option, its comment the help (tyro)."""

from __future__ import annotations

import argparse
import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

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


def config_parser(prog: str, description: str, *, folder: str, example: str) -> argparse.ArgumentParser:
    """A parser with CONFIG, which lies in `folder`, and --help; for `read_command`."""
    epilog = f"Every field of CONFIG is an option too: {example}; {prog} CONFIG --help lists them."
    parser = argparse.ArgumentParser(
        prog=prog, description=description, epilog=epilog, add_help=False, allow_abbrev=False
    )
    text = f"a file (.py), or the name of one in {folder}"
    parser.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help=text)
    parser.add_argument("-h", "--help", action="store_true", help="this text, and the fields of CONFIG")
    return parser


def read_command(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, load: Callable[[argparse.Namespace], Config]
) -> tuple[argparse.Namespace, list[str], Config] | None:
    """(the parser's own options, the others, the configuration that `load` makes of the first); None after --help.

    Raises AirjaxError: no CONFIG; as `load`.
    """
    args, options = parser.parse_known_args(argv)
    if args.help and args.config is None:
        parser.print_help()
        return None
    if args.config is None:
        raise AirjaxError(f"CONFIG: expected a config file (.py), or the name of one; see {parser.prog} --help")
    config = load(args)
    if not args.help:
        return args, options, config
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        parse_settings(config, ["--help"], prog=f"{parser.prog} {args.config}")
    print(parser.format_help(), text.getvalue(), sep="\n")
    return None


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
