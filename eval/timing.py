"""Wall-clock times of warm functions and of whole processes, the memory that they take, and tables of them."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from airjax.errors import AirjaxError
from eval.report import format_table, number, write_report

try:
    import resource
except ImportError:  # not on Windows
    resource = None

EXP_ROW = "plain exp loop"
# The unit of ru_maxrss: kibibytes on Linux, bytes on macOS.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Timing(NamedTuple):
    """Seconds of a repeated measurement: median, minimum and interquartile range over `repetitions`."""

    median: float
    least: float
    repetitions: int
    spread: float = math.nan  # NaN where it is not known

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        low, _, high = statistics.quantiles([*seconds], method="inclusive") if len(seconds) > 1 else (0.0,) * 3
        return cls(statistics.median(seconds), min(seconds), len(seconds), high - low)

    def per(self, count: int) -> Timing:
        """Of one of the `count` equal parts of what was measured."""
        return Timing(self.median / count, self.least / count, self.repetitions, self.spread / count)


def time_warm(
    function: Callable[[], Any], repetitions: int, *, seconds: float = math.inf, least: int = 3
) -> tuple[Timing, Any]:
    """(timing of a function and of the arrays of JAX in its result, what the first call returned, which compiles).

    After `seconds` it is not repeated further, but `least` times in any case (or `repetitions`, where they are fewer).
    With 0 repetitions the first call is the timing, compilation and all.
    """
    if repetitions < 0:
        raise ValueError(f"repetitions: expected at least 0, got {repetitions}")

    def timed() -> tuple[float, Any]:
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        return time.perf_counter() - start, result

    if not repetitions:
        only, result = timed()
        return Timing.of([only]), result
    result = jax.block_until_ready(function())
    times: list[float] = []
    while len(times) < repetitions and (len(times) < least or sum(times) < seconds):
        times.append(timed()[0])
    return Timing.of(times), result


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes: Python, JAX and compiling included; 0 on Windows."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


# Runs a command in between, in a process that stays small: Linux hands the peak memory of a process on to the programs
# that it starts, so a child of this large process would report at least our own.
_LAUNCHER = """
import json, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call([sys.executable, *sys.argv[1:]], stdin=subprocess.DEVNULL, stdout=sys.stderr)
seconds = time.perf_counter() - start
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
except ImportError:  # not on Windows
    peak = 0
print(json.dumps([seconds, peak, status]))
"""


def run_python(arguments: Sequence[str]) -> tuple[float, int]:
    """Runs this Python in a new process: (seconds from start to end, its peak resident memory in bytes; 0 on Windows).

    Raises AirjaxError: it did not exit with status 0; the last line that it wrote is in the message.
    """
    launched = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    seconds, peak, status = json.loads(launched.stdout) if launched.returncode == 0 else (0.0, 0, "no process")
    if status != 0:
        lines = launched.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
        command = " ".join(["python", *arguments])
        raise AirjaxError(f"{command}: expected exit status 0, got {status} ({lines[-1][:300]})")
    return seconds, peak * _MAXRSS_UNIT


class Row(NamedTuple):
    """One measurement."""

    what: str  # in words
    timing: Timing  # seconds
    evaluations: int | None = None  # exponentials of one run; None where none or not known
    peak_bytes: int | None = None  # peak memory of the process that did it; None for this process, 0 where not known
    flops: float | None = None  # floating-point operations of one run, where they are what counts
    moved_bytes: float | None = None  # read from and written to memory by one run, where they are what counts

    def as_json(self) -> dict[str, Any]:
        """Its fields by name."""
        return {**self._asdict(), "timing": self.timing._asdict()}


def exp_row(scale: float, repetitions: int) -> Row:
    """How fast the machine computes exponentials: a plain loop of some 50 ms of a CPU's core at `scale` 1."""
    terms, numbers = 32, jnp.linspace(0.0, 1.0, round(2**22 * scale), dtype=jnp.float32)

    @jax.jit
    def exponentials(x):
        # Independent of each other and fused into one loop: neither latency nor memory holds them up.
        return sum(jnp.exp(x * -(1.0 + term)) for term in range(terms))

    timing, _ = time_warm(lambda: exponentials(numbers), repetitions)
    return Row(EXP_ROW, timing, evaluations=terms * numbers.size)


def matmul_row(scale: float, repetitions: int, *, dtype: Any = jnp.float32, precision: str | None = None) -> Row:
    """How fast the machine multiplies matrices; scale as in `exp_row`, precision as JAX names it."""
    side = 256 * max(1, round(8 * scale ** (1 / 3)))
    matrix = jnp.full((side, side), 1.0 / side, dtype)
    matmul = jax.jit(lambda a: jnp.dot(a, a, precision=precision))
    timing, _ = time_warm(lambda: matmul(matrix), repetitions)
    what = "" if precision is None else f", {jnp.dtype(dtype).name} at {precision}"
    return Row(f"plain matmul{what}, {side}^3", timing, flops=2.0 * side**3)


def copy_row(scale: float, repetitions: int) -> Row:
    """How fast the machine moves memory: numbers that are read, changed and written; scale as in `exp_row`."""
    numbers = jnp.zeros(round(2**24 * scale), jnp.float32)
    change = jax.jit(lambda x: x + 1.0)
    timing, _ = time_warm(lambda: change(numbers), repetitions)
    return Row(f"plain copy, {8 * numbers.size / 1e6:,.0f} MB", timing, moved_bytes=8.0 * numbers.size)


def table(rows: Sequence[Row]) -> str:
    """All rows; rates per second are of the median."""
    head = ["what", "median ms", "min ms", "runs", "exp evaluations", "Gexp/s", "GFLOP/s", "peak GB"]
    cells = []
    for row in rows:
        median, least, repetitions, _ = row.timing
        rate = 1e-9 / median if median > 0 else math.nan
        rates = [value * rate if value else None for value in (row.evaluations, row.flops)]
        values = 1e3 * median, 1e3 * least, repetitions, row.evaluations, *rates, (row.peak_bytes or math.nan) / 1e9
        cells.append([row.what, *map(number, values, (1, 1, 0, 0, 2, 1, 2))])
    return format_table(head, cells)


def write_rows(out: Path, config: Any, rows: Sequence[Row], facts: Mapping[str, Any] | None = None) -> None:
    """Prints the table of a benchmark, and writes it with further facts to `bench.json`; see `write_report`."""
    print(table(rows))
    description = f"{config.description}; times in seconds"
    content = {"name": config.name, "description": description, "rows": [row.as_json() for row in rows]}
    write_report(out / "bench.json", config, {**content, **(facts or {})})
    print(f"report: {out / 'bench.json'}")
