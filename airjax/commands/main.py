"""The command line: `airjax encode`, `fit`, `decode` and `info` for photographs, `poses`, `reconstruct` and `render`
for scenes, `convert` for the weights of others.

Results go to stdout, everything else to stderr. A bad file is one line that names it; the other files are still done,
and the exit status is 2 at the end. Status 3: everything is written, but a target was out of reach; 130: interrupted;
141: nobody reads the output any more.

JAX is imported by the commands that compute, once there is something to compute, and by `airjax --version`, which says
where they would.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence

from airjax.commands import convert, decode, encode, fit, info, poses, reconstruct, render, version
from airjax.commands.interrupt import INTERRUPTED, last_line
from airjax.commands.session import Fatal, Screen, discard_output
from airjax.errors import AirjaxError
from airjax.files import reason

# Each has HELP, add_arguments(parser) and run(options, screen).
COMMANDS = {"encode": encode, "fit": fit, "decode": decode, "info": info}
COMMANDS |= {"poses": poses, "reconstruct": reconstruct, "render": render, "convert": convert}
BAD_INPUT, SHORTFALL, BROKEN_PIPE = 2, 3, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; never raises for what a user can cause."""
    screen = Screen()
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs of odd files is not for users
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # odd metadata; what matters is a notice of read_image
            # A cache that cannot be written costs time and nothing else.
            warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
            status = _run(argv, screen)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stop:
        screen.error(last_line(stop))
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return BROKEN_PIPE
    except (AirjaxError, Fatal) as error:
        screen.error(str(error))
    except OSError as error:  # files have their own messages: what is left is the screen or what stands for it
        discard_output()
        screen.error(f"cannot go on ({reason(error)}), expected an output that can be written")
    return BAD_INPUT


def _run(argv: Sequence[str] | None, screen: Screen) -> int:
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # --help, --version, or a wrong option, all said by argparse
        return int(stop.code or 0)
    screen.quiet = options.quiet
    options.run(options, screen)
    return BAD_INPUT if screen.num_errors else SHORTFALL if screen.num_shortfalls else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="airjax", description="Pixels to Gaussians in one pass, and back.")
    parser.add_argument("--version", action=version.Show, nargs=0, help="versions, and the device that JAX computes on")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.HELP)
        subparser.set_defaults(run=command.run, quiet=False)
        command.add_arguments(subparser)
    return parser
