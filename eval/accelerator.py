"""What an accelerator computes, and how fast: every row is checked against this machine's CPU, and timed.

Both happen in one process, on the same inputs, which the CPU makes. First all rows are compiled, for both devices and
several at a time; then, with nothing else running, they are measured one after the other.

A difference is the largest one of an output, as it is and as a share of the largest value that the CPU has there.
Shares of the machine are rates against those of plain loops of the same run. Exponentials are counted as in
`eval.image.bench`, operations and bytes of a program by XLA, which counts the body of a loop once.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from airjax.commands.session import Clock
from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes
from eval.cases import PARTS, Case, Inputs
from eval.image.sets import PHOTOGRAPH
from eval.report import environment, format_table, number, write_report
from eval.timing import Row, Timing, copy_row, exp_row, matmul_row, time_warm
from train.settings import check_at_least, where

PRODUCT = 2e-5  # of a matrix product in float32; rounded factors give ten times as much
FAILURES = (RuntimeError, ValueError, TypeError, AirjaxError)  # of one row: the others go on


@dataclass(frozen=True)
class Accelerator:
    """What to measure."""

    # name, description: of the evaluation, for the report
    name: str
    description: str
    images: str = where(PHOTOGRAPH)  # the photograph
    max_gaussians: int = 28_000  # how many Gaussians it gets
    solve_steps: int = 10  # of the color solve
    view_size: int = 256  # pixels a side of the two views of the scene
    cell: int = 2  # pixels a side of those that share a Gaussian of each view
    scene_weights: str | None = None  # of the scene predictor; None for the shipped ones
    # batch_size, crop_size, training_view: images or scenes of a training step, and pixels a side of theirs
    batch_size: int = 4
    crop_size: int = 128
    training_view: int = 64
    precision: str | None = None  # of matrix products, as JAX names it ("highest"); None for JAX's default
    repetitions: int = 20  # warm runs of each row
    seconds: float = 2.0  # after which a row is not repeated further, three times in any case
    machine_scale: float | None = None  # size of the plain loops; None for 1 on a CPU, 16 elsewhere
    threads: int | None = None  # that compile; None for one a core, at most 8
    parts: tuple[str, ...] | None = None  # which of eval.cases.PARTS to measure; None for all

    def __post_init__(self):
        counts = "max_gaussians", "view_size", "cell", "batch_size", "crop_size", "training_view"
        check_at_least(self, 1, *counts, "repetitions", "threads")
        check_at_least(self, 0, "solve_steps")
        if self.precision not in (None, "default", "high", "highest"):
            raise AirjaxError(f"precision: expected default, high or highest, got {self.precision!r}")
        if self.view_size % self.cell:
            raise AirjaxError(f"cell: expected a divisor of view_size, {self.view_size}, got {self.cell}")
        if unknown := set(self.parts or ()) - set(PARTS):
            raise AirjaxError(f"parts: expected some of {', '.join(PARTS)}, got {sorted(unknown)}")


class Compiled(NamedTuple):
    """A case on one device."""

    call: Callable[[], Any]
    seconds: float  # of compiling
    first: Any = None  # the first result of what is not a program, which had to be called
    # flops, moved_bytes, memory_bytes: what XLA says of a program; None for what it does not say
    flops: float | None = None
    moved_bytes: float | None = None
    memory_bytes: int | None = None


class Difference(NamedTuple):
    """Largest difference of an output from the CPU's, and that as a share of the CPU's largest value."""

    absolute: float
    relative: float


@dataclass(frozen=True)
class Result:
    """One row as measured; where it failed there is `error` alone, which says why."""

    what: str
    timing: Timing | None = None  # of one step
    compile_seconds: float | None = None
    memory_bytes: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)  # of the rates of the plain loops, by what they measure
    differences: Mapping[str, Difference] = field(default_factory=dict)  # by output
    tolerance: float | None = None
    overflow: float = 0.0  # share of the lists
    error: str | None = None

    @property
    def worst(self) -> str | None:
        """The output with the largest relative difference; one that is not finite is the largest."""
        relative = {name: difference.relative for name, difference in self.differences.items()}
        return max(relative, key=lambda name: np.nan_to_num(relative[name], nan=np.inf), default=None)

    def as_json(self) -> dict[str, Any]:
        """Its fields by name."""
        differences = {name: difference._asdict() for name, difference in self.differences.items()}
        timing = None if self.timing is None else self.timing._asdict()
        return {**vars(self), "timing": timing, "differences": differences}

    def notes(self) -> Iterator[str]:
        """A line for whatever is wrong with it."""
        if self.error is not None:
            yield f"{self.what}: failed ({self.error})"
        if self.overflow:
            yield f"{self.what}: the renderer's lists overflowed, in {self.overflow:.0%} of what was drawn"
        if self.worst is not None and not self.differences[self.worst].relative <= self.tolerance:
            (absolute, relative), got = self.differences[self.worst], f"{self.tolerance:.0e} of the largest value"
            yield f"{self.what}: {self.worst} differ by {absolute:.1e}, {relative:.1e} of the largest; expected {got}"


def _products(precision: str | None) -> contextlib.AbstractContextManager:
    """The precision of products, in this thread."""
    return contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision)


@contextlib.contextmanager
def _on(device: Any, precision: str | None) -> Iterator[None]:
    """JAX on one device, in this thread."""
    with jax.default_device(device), _products(precision):
        yield


def compile_on(case: Case, device: Any, precision: str | None) -> Compiled:
    """A case with its arguments on a device, called once if it is not a single program."""
    arguments = jax.device_put(case.arguments, device)
    with Clock() as clock:
        if case.program:
            # Its arguments say where it runs; with another default device it would be traced again.
            with _products(precision):
                compiled = jax.jit(case.function).lower(*arguments).compile()
            call, facts = partial(compiled, *arguments), _facts(compiled)
        else:
            call = partial(case.function, *arguments)
            with _on(device, precision):
                facts = {"first": jax.block_until_ready(call())}
    return Compiled(call, clock.compiling, **facts)


def _facts(compiled: Any) -> dict[str, Any]:
    """What XLA says of a program; some backends say nothing."""
    facts: dict[str, Any] = {}
    with contextlib.suppress(RuntimeError):
        cost = compiled.cost_analysis() or {}
        facts |= {"flops": cost.get("flops"), "moved_bytes": cost.get("bytes accessed")}
    with contextlib.suppress(RuntimeError):
        if (memory := compiled.memory_analysis()) is not None:
            used = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
            facts["memory_bytes"] = used
    return facts


def compare(values: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Difference]:
    """Differences of outputs of the same names; one of other shapes, or of what is not finite, is NaN."""
    found = {}
    for name, value in values.items():
        a, b = np.asarray(value, np.float64), np.asarray(expected[name], np.float64)
        absolute = float(np.max(np.abs(a - b), initial=0.0)) if a.shape == b.shape else math.nan
        largest = float(np.max(np.abs(b), initial=0.0))
        found[name] = Difference(absolute, absolute / largest if largest else absolute)
    return found


def machine_rows(config: Accelerator, device: Any) -> dict[str, Row]:
    """The plain loops, by what they are the measure of, and a call that does nothing."""
    scale = config.machine_scale or (1.0 if device.platform == "cpu" else 16.0)
    runs, nothing, zero = config.repetitions, jax.jit(lambda x: x + 1), jnp.zeros(())
    products = partial(matmul_row, scale, runs)
    return {
        "exp": exp_row(scale, runs),
        "FLOP": products(precision="highest"),
        "default": products(precision="default"),
        "bfloat16": products(dtype=jnp.bfloat16, precision="default"),
        "copy": copy_row(scale, runs),
        "call": Row("a call of nothing", time_warm(lambda: nothing(zero), runs)[0]),
    }


def _rate(amount: float | None, row: Row) -> float:
    return (amount or math.nan) / row.timing.median


def measure(case: Case, compiled: Compiled, expected: Mapping[str, Any], ceilings: Mapping[str, Row], config) -> Result:
    """Times and checks a case on the device that JAX now uses; `expected` are the CPU's values."""
    timing, result = time_warm(compiled.call, config.repetitions, seconds=config.seconds)
    timing = timing.per(case.steps)
    values = jax.device_get(dict(case.values(result)))
    done = Row("", timing, case.evaluations, None, case.flops or compiled.flops, compiled.moved_bytes)
    shares = {}
    for name, what in (("exp", "evaluations"), ("FLOP", "flops"), ("copy", "moved_bytes")):
        if amount := getattr(done, what):
            shares[name] = _rate(amount, done) / _rate(getattr(ceilings[name], what), ceilings[name])
    overflow = float(np.mean(values.pop("overflow", 0.0)))
    differences = compare(values, expected)
    facts = compiled.seconds, compiled.memory_bytes, shares, differences, case.tolerance, overflow
    return Result(case.what, timing, *facts)


def product_error() -> float:
    """Largest error of a matrix product of float32 numbers at JAX's precision, a share of its largest value."""
    a, b = np.random.default_rng(0).standard_normal((2, 256, 256), np.float32)
    exact = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
    return compare({"": jnp.dot(a, b)}, {"": exact})[""].relative


def devices() -> tuple[Any, Any]:
    """(what JAX computes on, the CPU); AirjaxError where one of them is not to be had."""
    try:
        return jax.devices()[0], jax.devices("cpu")[0]
    except RuntimeError as error:
        chosen = f"JAX_PLATFORMS={jax.config.jax_platforms or ''}"
        expected = "expected a device, and the CPU beside it, with whose values its own are compared ('cuda,cpu')"
        raise AirjaxError(f"{chosen}: {expected} ({str(error).splitlines()[0]})") from error


def fallbacks(device: Any) -> list[str]:
    """A line for each reason to think that JAX should compute on something else than a CPU."""
    if device.platform != "cpu":
        return []
    notes = ["JAX computes on a CPU: its values are compared with themselves"]
    for plugin in importlib.metadata.distributions():
        if re.fullmatch(r"jax[-_]\w+[-_]plugin|jax[-_]metal|libtpu", name := plugin.metadata["Name"] or ""):
            chosen = jax.config.jax_platforms
            why = f"JAX_PLATFORMS is {chosen}" if chosen else "see what JAX warns of when it starts"
            notes.append(f"JAX computes on a CPU although {name} {plugin.version} is installed; {why}")
    for file, what in {"/dev/nvidia0": "an NVIDIA GPU: jax[cuda13]", "/dev/accel0": "a TPU: jax[tpu]"}.items():
        if Path(file).exists():
            notes.append(f"JAX computes on a CPU although there seems to be {what} is what to install")
    return notes


def describe(device: Any) -> dict[str, Any]:
    """What the accelerator is, as far as JAX knows."""
    stats, version = {}, device.client.platform_version
    with contextlib.suppress(RuntimeError):  # a plugin that does not tell
        stats = device.memory_stats() or {}
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "version": None if "unknown" in version else " ".join(version.split()),
        "memory_bytes": stats.get("bytes_limit"),
        "peak_bytes": stats.get("peak_bytes_in_use"),
    }


def run(config: Accelerator, weights: Path | None, out: Path) -> int:
    """Measures, prints the report and writes it, accelerator.json and accelerator.md: number of rows that failed."""
    device, cpu = devices()
    notes, hits = fallbacks(device), []

    def listen(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    def ready(case: Case) -> tuple[Compiled, Any] | str:
        """The case on the device, and the CPU's values."""
        try:
            compiled = compile_on(case, cpu, config.precision)
            with _on(cpu, config.precision):
                result = compiled.call() if case.program else compiled.first
                expected = jax.device_get(dict(case.values(result)))
            if device != cpu:
                compiled = compile_on(case, device, config.precision)
            return compiled._replace(first=None), expected
        except FAILURES as error:
            return _one_line(error)

    jax.monitoring.register_event_listener(listen)
    try:
        with _on(cpu, config.precision):
            inputs = Inputs(config, weights)
            chosen = tqdm(config.parts or PARTS, desc="inputs", disable=None)
            cases = [case for part in chosen for case in PARTS[part](inputs)]
        with ThreadPoolExecutor(config.threads or min(8, os.cpu_count() or 1)) as pool:
            # The last cases first: they take longest.
            done = tqdm(pool.map(ready, reversed(cases)), total=len(cases), desc="compile", disable=None)
            prepared = [*done][::-1]
    finally:
        jax.monitoring.unregister_event_listener(listen)
    results = []
    with _on(device, config.precision):
        ceilings = machine_rows(config, device)
        error = product_error()
        for case, found in zip(tqdm(cases, desc="measure", disable=None), prepared, strict=True):
            if isinstance(found, str):
                results.append(Result(case.what, error=found))
                continue
            try:
                results.append(measure(case, *found, ceilings, config))
            except FAILURES as failure:
                results.append(Result(case.what, error=_one_line(failure)))
    if not error <= PRODUCT:
        advice = "not float32 but rounded factors, TF32 or bfloat16; --precision highest for float32"
        notes.append(f"matrix products of networks are off by {error:.1e} of the largest value: {advice}")
    if hits:
        notes.append(f"{len(hits)} programs were not compiled but loaded from the cache of an earlier run")
    notes += [note for result in results for note in result.notes()]
    facts = {"name": config.name, "description": config.description, "device": describe(device), "notes": notes}
    text = page(facts, ceilings, results)
    print(text)
    rows = {"machine": [row.as_json() for row in ceilings.values()], "rows": [row.as_json() for row in results]}
    write_report(out / "accelerator.json", config, {**facts, **rows})
    atomic_write_bytes(out / "accelerator.md", f"{text}\n".encode())
    print(f"\nreport: {out / 'accelerator.json'}, {out / 'accelerator.md'}")
    return sum(result.error is not None for result in results)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def page(facts: Mapping[str, Any], ceilings: Mapping[str, Row], results: Iterable[Result]) -> str:
    """The report in Markdown."""
    device, packages = facts["device"], environment()["packages"]
    versions = f"JAX {packages['jax']}, jaxlib {packages['jaxlib']}"
    memory = [f"{device[key] / 1e9:.1f} GB {what}" for key, what in _MEMORY.items() if device[key]]
    parts = [f"{device['count']} x {device['kind']} ({device['platform']})", *memory, device["version"], versions]
    lines = [", ".join(part for part in parts if part), "", _machine_table(ceilings), "", _table(results)]
    notes = [f"- {note}" for note in facts["notes"]] or ["Nothing fell back, overflowed or differed."]
    return "\n".join([*lines, "", *notes])


_MEMORY = {"memory_bytes": "of memory", "peak_bytes": "used at most"}


def _machine_table(ceilings: Mapping[str, Row]) -> str:
    def cells(row: Row) -> list[str]:
        amounts = ((row.evaluations, "Gexp/s"), (row.flops, "GFLOP/s"), (row.moved_bytes, "GB/s"))
        rates = [f"{number(1e-9 * _rate(amount, row), 1)} {unit}" for amount, unit in amounts if amount]
        return [row.what, *_times(row.timing), *(rates or ["-"])]

    return format_table(["this machine", *_TIMES, "rate"], map(cells, ceilings.values()), markdown=True)


_TIMES = ["median ms", "least", "middle half", "runs"]


def _times(timing: Timing | None) -> list[str]:
    if timing is None:
        return ["failed", "-", "-", "-"]
    return [*(number(1e3 * x, 3) for x in (timing.median, timing.least, timing.spread)), str(timing.repetitions)]


def _table(results: Iterable[Result]) -> str:
    def cells(row: Result) -> list[str]:
        memory = None if row.memory_bytes is None else row.memory_bytes / 1e6
        shares = [f"{row.shares[name]:.1%}" if name in row.shares else "-" for name in ("exp", "FLOP", "copy")]
        worst = row.differences.get(row.worst or "")
        difference = [f"{worst.absolute:.1e} ({row.worst})", f"{worst.relative:.1e}"] if worst else ["-", "-"]
        return [row.what, *_times(row.timing), number(row.compile_seconds, 1), number(memory, 0), *shares, *difference]

    head = ["", *_TIMES, "compile s", "MB", "of exp", "of FLOP", "of copy", "off by", "of the largest"]
    return format_table(head, map(cells, results), markdown=True)
