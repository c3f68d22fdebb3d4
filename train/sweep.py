"""Train a config with every combination of some settings and seeds: one process and one folder for each.

python -m train.sweep metagrad --grid variant=budget,es optimizer.learning-rate=1e-4,5e-5 --seeds 0 1 2

It only starts `python -m train.main` and looks at folders, so it needs no JAX itself. The same command goes on where an
interrupted one was: what is finished is not started again, and a run continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, display_name, read_bytes, reason
from train.runs import Run, read_run
from train.settings import safe_name
from train.signals import Signals

COMMAND = (sys.executable, "-m", "train.main")
RECORD = "sweep.json"  # in the folder of a sweep: the arguments of its members
OUTPUT = "output.txt"  # in the folder of a member: all that its process printed
_OURS = {"seed": "--seeds", "out": "--out", "config": "CONFIG"}  # flags of a member that the sweep gives itself
_POLL = 0.1  # seconds between looks at the processes
_STOPPED = {-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM}  # exit statuses

_DESCRIPTION = """\
Train a config with every combination of some settings and seeds: one process and one folder for each.

  python -m train.sweep metagrad --grid variant=budget,es --seeds 0 1 2 --data.folders photos

Flags that are not listed here go to every member as they are; put them last. The same command goes on with what is
not finished; one with more values or seeds adds members to the folder.
"""
_EPILOG = """\
Values of --grid are separated by commas, and each is split into words as a shell does it, so that a tuple is
--grid 'data.image-size=64 64,128 128'. Where there is a semicolon it separates the values, and commas are parts of
them: --grid 'data.folders=a,b;c'.

--jobs shares one machine: on a CPU all members use all cores; on a GPU the first one takes most of the memory, unless
XLA_PYTHON_CLIENT_PREALLOCATE=false is in the environment.
"""


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    name: str  # of its folder
    arguments: tuple[str, ...]  # of train.main, but for --out

    def command(self, out: Path) -> list[str]:
        """What its process is started with."""
        config, *flags = self.arguments
        return [*COMMAND, config, "--out", str(out / self.name), *flags]


class Outcome(NamedTuple):
    """What became of a member."""

    state: str  # "done", "failed", "interrupted" or "not started"
    detail: str = ""  # of one that failed: the exit status, and the last line that it printed


def parse_grid(items: Sequence[str]) -> dict[str, list[tuple[str, ...]]]:
    """NAME=V1,V2 -> the words of each value, by name. Raises AirjaxError: malformed, or not for a grid."""
    grid: dict[str, list[tuple[str, ...]]] = {}
    for item in items:
        name, equals, text = item.partition("=")
        name = name.lstrip("-")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.-]*", name, re.ASCII):
            raise AirjaxError(f"--grid {item}: expected NAME=V1,V2")
        if name in _OURS:
            raise AirjaxError(f"--grid {item}: not for a grid, give {_OURS[name]}")
        if _same_flag(name) in map(_same_flag, grid):
            raise AirjaxError(f"--grid {item}: {name} is given twice")
        try:
            values = [tuple(shlex.split(value)) for value in text.split(";" if ";" in text else ",")]
        except ValueError as error:
            raise AirjaxError(f"--grid {item}: {reason(error)}") from error
        if not all(values):
            raise AirjaxError(f"--grid {item}: expected a value on both sides of every separator")
        grid[name] = list(dict.fromkeys(values))
    return grid


def members_of(
    config: str, grid: dict[str, list[tuple[str, ...]]], seeds: Sequence[int], common: Sequence[str]
) -> list[Member]:
    """The product of a grid and seeds, all with the flags `common`.

    Raises AirjaxError: among them is one that the sweep gives itself, or two members would have one name.
    """
    if common and not common[0].startswith("-"):
        raise AirjaxError(f"{common[0]}: expected a flag after the config")
    given = {_same_flag(name): f"--grid {name}" for name in grid} | {_same_flag(name): _OURS[name] for name in _OURS}
    for word in common:
        if word.startswith("--") and (owner := given.get(_same_flag(word[2:].partition("=")[0]))):
            raise AirjaxError(f"{word}: given to each member by {owner}")
    members: dict[str, Member] = {}
    for seed in dict.fromkeys(seeds):
        for values in itertools.product(*grid.values()):
            chosen = [*zip(grid, values, strict=True), ("seed", (str(seed),))]
            flags = [word for name, words in chosen for word in (f"--{name}", *words)]
            name = safe_name(",".join(f"{name}={','.join(words)}" for name, words in chosen))
            if name in members:
                raise AirjaxError(f"--grid: two members would be called {name}")
            members[name] = Member(name, (config, *flags, *common))
    return list(members.values())


def to_start(members: Sequence[Member], out: Path) -> list[Member]:
    """Those that are not finished; all of them are recorded in the folder.

    A member that the folder has a run of must have been recorded with the same arguments, or with --extend among them.
    Raises AirjaxError: it was not, or the record is damaged.
    """
    recorded = _read_record(out / RECORD)
    unfinished = []
    for member in members:
        before, now = recorded.get(member.name), [word for word in member.arguments if word != "--extend"]
        run = _run_of(out / member.name)
        changed = before is not None and before != now
        if run is not None and changed and "--extend" not in member.arguments:
            line = f"was started as {shlex.join(before)}, is now {shlex.join(now)}; choose another folder with --out"
            raise AirjaxError(f"{display_name(out / member.name)}: {line}")
        if before is None or changed or run is None or not run.finished:
            unfinished.append(member)
        recorded[member.name] = now
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(out / RECORD, f"{json.dumps({'members': recorded}, indent=2)}\n".encode())
    return unfinished


def run_members(
    members: Sequence[Member], out: Path, *, jobs: int = 1, finished: int = 0
) -> tuple[dict[str, Outcome], int | None]:
    """Runs members as processes, `jobs` at a time, with a line at the start and the end of each.

    SIGINT and SIGTERM are passed on to the processes, which write a checkpoint and stop; none is started after that.
    `finished` is the number of other members, for the progress bar. Returns outcomes by name, and the last signal.
    """
    queue, running = list(members), []
    outcomes = dict.fromkeys((member.name for member in members), Outcome("not started"))
    total = len(members) + finished
    with tqdm(total=total, initial=finished, unit="run", disable=None) as bar, Signals() as signals:
        try:
            while running or (queue and signals.last is None):
                while queue and len(running) < jobs and signals.last is None:
                    _say(f"start {queue[0].name}")
                    running.append(_Process(queue.pop(0), out))
                time.sleep(_POLL)
                for number in signals.take():
                    _say("stopping: the members write their checkpoints; a second signal stops them without")
                    for process in running:
                        process.signal(number)
                for process in [process for process in running if process.is_over()]:
                    running.remove(process)
                    outcome = outcomes[process.member.name] = process.outcome()
                    _say(f"{outcome.state} {process.member.name} after {process.seconds():.0f} s  {outcome.detail}")
                    bar.update()
        finally:  # empty but where something here failed
            for process in running:
                process.signal(signal.SIGTERM)
            for process in running:
                process.wait()
    return outcomes, signals.last


def table(members: Sequence[Member], out: Path, outcomes: dict[str, Outcome]) -> str:
    """What became of every member; one without an outcome was finished before."""
    rows = [["member", "state", "step", "trained, s", "loss", "psnr", ""]]
    for member in members:
        run, outcome = _run_of(out / member.name), outcomes.get(member.name, Outcome("done"))
        step, seconds = (math.nan, math.nan) if run is None else (run.last("step"), run.last("elapsed"))
        numbers = zip((step, seconds, *_last_numbers(run)), (".0f", ".0f", ".4g", ".4g"), strict=True)
        cells = ["-" if math.isnan(value) else format(value, form) for value, form in numbers]
        rows.append([member.name, outcome.state, *cells, outcome.detail])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    adjust = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.rjust, str.ljust)
    return "\n".join(
        "  ".join(to(cell, width) for to, cell, width in zip(adjust, row, widths, strict=True)).rstrip() for row in rows
    )


def slurm_script(members: Sequence[Member], out: Path, *, jobs: int | None) -> str:
    """A batch script with one array task for each member, at most `jobs` at a time."""
    commands = "\n".join(f"  {shlex.quote(shlex.join(member.command(out)))}" for member in members)
    limit = "" if jobs is None else f"%{jobs}"
    return f"""\
#!/bin/bash
# {len(members)} runs, one array task each. Submit this file in the folder where it was made: sbatch FILE
# Adjust what a task may use, and add what your cluster wants: account, partition, modules.
# Two minutes before its time is over a task is told to write a checkpoint; submitted again, it continues from there.
#SBATCH --job-name={safe_name(out.name)}
#SBATCH --array=0-{len(members) - 1}{limit}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
# For a GPU each, take one # away:
##SBATCH --gres=gpu:1

commands=(
{commands}
)
eval "exec ${{commands[SLURM_ARRAY_TASK_ID]}}"
"""


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0; 1 if a member failed; 2 after one line for the user; 130 or 143 after a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m train.sweep",
        usage="%(prog)s CONFIG [--grid NAME=V1,V2 ...] [--seeds N ...] [options] [--FLAG VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", help="a file, or the name of one in train/configs")
    parser.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=V1,V2",
        help="flags of train.main and their values",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds of each combination (0)")
    parser.add_argument("--jobs", type=int, metavar="N", help="members at a time (1; with --slurm all)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the members' folders (runs/<config>_sweep)")
    parser.add_argument("--slurm", action="store_true", help="run nothing, print a script for a Slurm job array")
    args, common = parser.parse_known_args(argv)
    try:
        if args.jobs is not None and args.jobs < 1:
            raise AirjaxError(f"--jobs: expected at least 1, got {args.jobs}")
        out = args.out or Path("runs") / f"{Path(args.config).stem}_sweep"
        members = members_of(args.config, parse_grid(args.grid), args.seeds, common)
        if args.slurm:
            print(slurm_script(members, out, jobs=args.jobs), end="")
            return 0
        return _sweep(members, out, jobs=args.jobs or 1)
    except (AirjaxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _sweep(members: Sequence[Member], out: Path, *, jobs: int) -> int:
    unfinished = to_start(members, out)
    finished = len(members) - len(unfinished)
    _say(f"{out}: {len(members)} members, {finished} finished before")
    outcomes, signal_number = run_members(unfinished, out, jobs=jobs, finished=finished)
    print(table(members, out, outcomes))
    states = {outcome.state for outcome in outcomes.values()}
    if states & {"interrupted", "not started"}:
        print("the same command goes on")
    elif finished or "done" in states:
        print(f"curves and tables: python -m train.compare {shlex.quote(str(out))}")
    if signal_number is not None:
        return 128 + signal_number
    return 1 if states - {"done"} else 0


# --- a process -------------------------------------------------------------------------------------------------------


class _Process:
    """A member under way."""

    def __init__(self, member: Member, out: Path):
        self.member, self._start, self._error = member, time.monotonic(), ""
        command, self._output = member.command(out), out / member.name / OUTPUT
        self._output.parent.mkdir(parents=True, exist_ok=True)
        with self._output.open("ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            self._offset = file.tell()
            # In a session of its own, or Ctrl-C would reach it twice: from the terminal, and from here.
            self._popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def is_over(self) -> bool:
        return self._popen.poll() is not None

    def wait(self) -> None:
        self._popen.wait()

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def outcome(self) -> Outcome:
        status = self._popen.returncode
        if status == 0:
            return Outcome("done")
        if status in _STOPPED:
            return Outcome("interrupted")
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return Outcome("failed", f"{how}, {self._last_line() or 'nothing was printed'}")

    def _last_line(self) -> str:
        with self._output.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(self._offset, file.tell() - 4096))
            lines = file.read().decode(errors="replace").split("\n")
        return next((" ".join(line.split())[:300] for line in reversed(lines) if line.strip()), "")


# --- names, files and lines ------------------------------------------------------------------------------------------


def _same_flag(name: str) -> str:
    """The command line of a member takes both spellings."""
    return name.replace("_", "-")


def _read_record(path: Path) -> dict[str, list[str]]:
    """Arguments by name of a member. Raises AirjaxError: damaged."""
    if not path.exists():
        return {}
    try:
        members = json.loads(read_bytes(path))["members"]
        if not all(isinstance(word, str) for words in members.values() for word in words):
            raise TypeError
        return {name: list(words) for name, words in members.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise AirjaxError(f"{display_name(path)}: expected the members of a sweep, got something else") from error


def _run_of(folder: Path) -> Run | None:
    """The run in a member's folder, None for none that can be read."""
    with contextlib.suppress(AirjaxError):
        return read_run(folder)
    return None


def _last_numbers(run: Run | None) -> tuple[float, float]:
    """Loss, and the PSNR of what the whole model gives, else that of the last of its parts; NaN for none."""
    if run is None:
        return math.nan, math.nan
    names = [name for name in run.log if name.startswith("psnr")]
    return run.last("loss"), run.last("psnr" if "psnr" in names else names[-1]) if names else math.nan


def _say(line: str) -> None:
    """Above the progress bar, at once."""
    tqdm.write(line.rstrip())
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
