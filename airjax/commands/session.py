"""What a user sees of a command: results on stdout, notices and errors on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from tqdm import tqdm


class Fatal(Exception):
    """What makes the files still to come pointless; the message is the line for the user."""


class Screen:
    """What the user sees: results on stdout, notices and errors on stderr, each at once and above the progress bar."""

    def __init__(self):
        self.quiet = False
        self.num_errors = 0

    def result(self, line: str) -> None:
        if not self.quiet:
            _print(line, sys.stdout)

    def notice(self, line: str) -> None:
        if not self.quiet:
            _print(_one_line(line), sys.stderr)

    def error(self, line: str) -> None:
        self.num_errors += 1
        _print(_one_line(line), sys.stderr)


def bar_of(screen: Screen, *, total: int, unit: str, desc: str | None = None) -> tqdm:
    """A progress bar that goes away at its end; none where nobody looks: quiet, not a terminal, a single step."""
    hidden = screen.quiet or total < 2 or not sys.stderr.isatty()
    return tqdm(total=total, unit=unit, desc=desc, leave=False, disable=hidden, file=sys.stderr)


def _one_line(text: str) -> str:
    return "airjax: " + " ".join(text.splitlines())


def _print(line: str, stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = line.encode(encoding, "backslashreplace").decode(encoding)  # names that the terminal cannot show
    with tqdm.external_write_mode(file=stream):
        print(line, file=stream, flush=True)


def discard_output() -> None:
    """Sends what Python still holds for stdout nowhere: writing it again when the program ends would fail again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reason(error: OSError) -> str:
    """The system's words for an error."""
    return error.strerror or type(error).__name__
