"""Refinement curves of images and of scenes: quality over steps, and over seconds, from several starts.

Letters: s starts, r training seeds, c cases (images or scenes), k numbers of steps. All starts see the same cases and
are refined by the same loop; where it begins differs, or its learning rates. Differences are paired, by case and by
seed.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes
from airjax.inner.stopwatch import Stopwatch
from airjax.inner.task import SEGMENT, State, Task, advance, start_state
from airjax.inner.task import run as refine
from airjax.metrics import Quality
from eval.plots import Line, Panel, draw_panels
from eval.report import Measured, cached, code_version, format_table, number, write_report
from train.runs import Run, find_runs, group_by_settings

SCRATCH = "scratch"  # instead of a weights file: a start without a network


class Subject(Protocol):
    """One image or scene to measure."""

    name: str
    arrays: Any  # all that decides what is measured, a pytree
    capacity: Any  # of the renderer to begin with; None to plan it
    rates: Any  # of a start without a network
    loss_fn: Callable[..., Any]  # the inner loss

    def task(self, rates: Any) -> Task:
        """What refinement moves, towards what."""

    def start(self, model: Any) -> Any:
        """The Gaussians that a model predicts, or that a start from scratch has for None."""

    def score(self, gaussians: Any, capacity: Any) -> Quality:
        """Of the 8-bit images that are judged; mean over them."""


class Subjects(Protocol):
    """The images or scenes of an evaluation: a frozen dataclass of settings."""

    def __iter__(self) -> Iterator[Callable[[], Subject]]:
        """What opens each of them; always the same, in the same order."""

    def __len__(self) -> int:
        """How many there are."""

    def load_model(self, file: str) -> Any:
        """The model of a weights file; "" is the shipped one."""


class Start(NamedTuple):
    """Where a refinement begins, and how fast it goes."""

    name: str  # for the reports
    # weights files, one per training seed; "" is the shipped model, `SCRATCH` a start without one
    files: tuple[str, ...]
    rates: Any = None  # learning rates; None for those of each file


@dataclass(frozen=True)
class Curves:
    """What to measure."""

    # name, description: of the evaluation, for the reports
    name: str
    description: str
    subjects: Any  # images or scenes, `Subjects`
    starts: tuple[Start, ...] = ()  # the first of all is the reference of all differences
    # folders of training runs, or that hold some: further starts, one for all runs that differ in their seeds alone
    runs: tuple[str, ...] = ()
    reference: str = ""  # part of the name of the start that comes first; "" to leave the order
    # (what to add to the name, learning rates) of every start of a run; None for those that it learned, if it did
    rates: tuple[tuple[str, Any], ...] = (("", None),)
    # numbers of refinement steps, increasing, the first is 0
    steps: tuple[int, ...] = (0, 5, 10, 20, 50, 100, 200, 500)
    seconds: tuple[float, ...] = ()  # of refinement on this machine, increasing; may be empty
    compared: tuple[int, ...] = (0, 50, 100, 500)  # of the steps, where differences are printed

    def __post_init__(self):
        for name, values in (("steps", self.steps), ("seconds", (0, *self.seconds))):
            if not values or values[0] != 0 or list(values) != sorted(set(values)):
                raise AirjaxError(f"{name}: expected increasing numbers, steps from 0 on, got {values}")
        if not set(self.compared) <= set(self.steps):
            raise AirjaxError(f"compared: expected some of {self.steps}, got {self.compared}")
        if not (self.starts or self.runs) or not all(start.files for start in self.starts):
            raise AirjaxError("starts: expected at least one, with weights, or training runs; give --runs FOLDER ...")


class Curve(NamedTuple):
    """One case from one start: the number of Gaussians, and PSNR in dB and SSIM of 8-bit images."""

    num_gaussians: int
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    psnr_by_seconds: tuple[float, ...]


def all_starts(config: Curves) -> tuple[Start, ...]:
    """The starts of a configuration and of its runs, all with as many files: one file stands for every seed.

    Of runs those seeds are taken that all of them have; what is left out is a line on the screen. Raises AirjaxError:
    no such runs, no seed that all have, or no such reference.
    """
    found: list[Start] = []
    if config.runs:
        groups = group_by_settings(find_runs(config.runs))
        trained = {name: {run.seed: run for run in runs if run.weights} for name, runs in groups.items()}
        for name, runs in groups.items():
            if without := [str(run.folder) for run in runs if not run.weights]:
                print(f"left out, without weights yet: {', '.join(without)}")
            if not trained[name]:
                del trained[name]
        seeds = sorted(set.intersection(*map(set, trained.values()))) if trained else []
        if not seeds:
            raise AirjaxError(f"{', '.join(config.runs)}: expected trained weights of a seed that all have, found none")
        for name, by_seed in trained.items():
            if others := sorted(set(by_seed) - set(seeds)):
                print(f"left out, since not all runs have them: seeds {others} of {name}")
            found += _starts_of_runs(name, [by_seed[seed] for seed in seeds], config)
    count = max(len(start.files) for start in (*config.starts, *found))
    starts = [
        start._replace(files=start.files * count) if len(start.files) == 1 else start
        for start in (*config.starts, *found)
    ]
    if any(len(start.files) != count for start in starts):
        raise AirjaxError(f"starts: expected one file or {count}, got {[len(start.files) for start in starts]}")
    first = [start for start in starts if _letters(config.reference) in _letters(start.name)]
    if not first:
        names = ", ".join(start.name for start in starts)
        raise AirjaxError(f"reference: expected a part of one of {names}, got {config.reference!r}")
    return (first[0], *(start for start in starts if start is not first[0]))


def _letters(name: str) -> str:
    """A name however it is spelled: "zero_step" is the estimator ZeroStep."""
    return name.replace("_", "").lower()


def _starts_of_runs(name: str, runs: Sequence[Run], config: Curves) -> Iterator[Start]:
    """What runs of several seeds left, at each of the learning rates that say something new."""
    files = tuple(str(run.weights) for run in runs)
    settings = runs[0].settings
    learned, rates_alone = settings.get("config.phase.learn_rates"), settings.get("config.phase.trained") == "rates"
    for suffix, rates in config.rates:
        if (suffix and rates is None and not learned) or (rates is not None and rates_alone):
            continue
        yield Start(f"{name}, {suffix}" if suffix else name, files, rates)


def readable(subjects: Subjects, problems: list[str]) -> Iterator[Subject]:
    """The subjects that can be opened; of the others a line on screen, which is added to `problems`.

    Raises AirjaxError: at the end, where there was none.
    """
    count = 0
    for open_subject in subjects:
        try:
            subject = open_subject()
        except AirjaxError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            problems.append(str(error))
            continue
        count += 1
        yield subject
    if not count:
        raise AirjaxError(f"{subjects}: expected a case that can be read, found none")


def measure(subject: Subject, model: Any, rates: Any, config: Curves) -> Curve:
    """Refines a start, a prediction or one from scratch for `model` None.

    Looked at on the way after so many steps, at constant rates; and after so many seconds, each a refinement of its own
    that knows how much time it has (`airjax.inner.task.run`), as a user's.
    """
    task = jax.tree.map(jnp.asarray, subject.task(rates))

    def first_state(gaussians) -> State:
        return start_state(task, gaussians)._replace(capacity=subject.capacity)

    def go_on(state: State, num_steps: int) -> State:
        return jax.block_until_ready(advance(task, state, num_steps=num_steps))

    def score(state: State) -> Quality:
        return subject.score(task.gaussians(state.coordinates, state.active), state.capacity)

    start = subject.start(model)
    state, scores, timed = first_state(start), [], []
    for step in config.steps:
        while state.step < step:
            state = go_on(state, min(SEGMENT, step - state.step))
        scores.append(score(state))
    for mark in config.seconds:
        with Stopwatch() as watch:
            start = subject.start(model)
            spent = watch.seconds
        refined = refine(task, start, seconds=max(mark - spent, 0.0))
        timed.append(subject.score(refined, None).psnr)
    psnr, ssim = zip(*scores, strict=True)
    return Curve(int(np.count_nonzero(start.active)), psnr, ssim, tuple(timed))


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin


def summary(config: Curves, psnr: np.ndarray) -> dict[str, Any]:
    """Means of (s, r, c, k) dB over seeds and cases, and differences from the first start, both with error bars.

    An error "over seeds" is the standard error of the means over cases, one for each training seed: what another
    training would change. One "over cases" is that of the means over seeds, one for each image or scene: what other
    images would change. Both are NaN where there is only one.
    """
    by_seed, by_case = psnr.mean(axis=2), psnr.mean(axis=1)
    mean = by_case.mean(axis=1)

    named = partial(_by_start, config)

    def bars(values: np.ndarray) -> dict[str, Any]:
        """Standard error over axis 1."""
        count = values.shape[1]
        error = values.std(axis=1, ddof=1) / math.sqrt(count) if count > 1 else np.full_like(values[:, 0], np.nan)
        return named(error.tolist())

    return {
        "steps": list(config.steps),
        "psnr": named(mean.tolist()),
        "psnr_error_over_seeds": bars(by_seed),
        "psnr_error_over_cases": bars(by_case),
        "difference": named((mean - mean[:1]).tolist()),
        "difference_error_over_seeds": bars(by_seed - by_seed[:1]),
        "difference_error_over_cases": bars(by_case - by_case[:1]),
        "psnr_by_seed": named(by_seed.tolist()),
        "psnr_by_case": named(by_case.tolist()),
        "steps_to_reach": named([steps_to_reach(config.steps, row, mean[0, -1]) for row in mean]),
    }


def _by_start(config: Curves, rows: Any) -> dict[str, Any]:
    return {start.name: row for start, row in zip(config.starts, rows, strict=True)}


def steps_to_reach(steps: Sequence[int], psnr: Sequence[float], level: float) -> float | None:
    """The step at which a mean curve first reaches a level, linear in the step between two points; None for never."""
    reached = np.flatnonzero(np.asarray(psnr) >= level)
    if not len(reached):
        return None
    i = reached[0]
    return float(np.interp(level, psnr[i - 1 : i + 1], steps[i - 1 : i + 1])) if i else float(steps[0])


def table(config: Curves, report: dict[str, Any]) -> str:
    """Quality after so many steps and seconds, and differences from the first start with their errors."""

    def rows_of(key: str, digits: int) -> list[list[str]]:
        return [[name, *(number(value, digits) for value in row)] for name, row in report[key].items()]

    steps = ["start", *map(str, config.steps)]
    parts = ["PSNR, dB, after so many steps", format_table(steps, rows_of("psnr", 2)), ""]
    parts += ["SSIM", format_table(steps, rows_of("ssim", 4)), ""]
    if config.seconds:
        head = ["start", *(f"{mark:g} s" for mark in config.seconds)]
        parts += ["PSNR, dB, after so many seconds, the prediction counted"]
        parts += [format_table(head, rows_of("psnr_by_seconds", 2)), ""]
    if len(config.starts) > 1:
        parts += [_difference_table(config, report)]
    return "\n".join(parts)


def _difference_table(config: Curves, report: dict[str, Any]) -> str:
    first, places = config.starts[0].name, [config.steps.index(step) for step in config.compared]
    rows = []
    for start in config.starts[1:]:
        gain, seeds, cases, reach = (
            report[key][start.name]
            for key in ("difference", "difference_error_over_seeds", "difference_error_over_cases", "steps_to_reach")
        )
        cells = [f"{gain[i]:+.3f} ({number(seeds[i], 3)}; {number(cases[i], 3)})" for i in places]
        rows.append([start.name, *cells, number(reach, 0)])
    head = ["start", *(f"at {step}" for step in config.compared), f"steps to {first}@{config.steps[-1]}"]
    return f"minus {first}, dB (standard error over seeds; over cases)\n{format_table(head, rows)}"


def plot(config: Curves, report: dict[str, Any]) -> bytes:
    """PNG of PSNR, and of the difference from the first start with its errors over cases, over the steps."""
    steps = np.array(config.steps[1:])

    def panel(title: str, key: str) -> Panel:
        values, errors = (
            {name: np.array(row[1:], float) for name, row in report[field].items()}
            for field in (key, f"{key}_error_over_cases")
        )
        lines = tuple(Line(name, steps, values[name], errors[name]) for name in values)
        return Panel(title, "refinement steps", lines, log2_x=True)

    panels = [panel("PSNR, dB", "psnr")]
    if len(config.starts) > 1:
        panels.append(panel(f"PSNR minus that of {config.starts[0].name}, dB", "difference"))
    return draw_panels(config.description, panels)


def run(config: Curves, weights: Path | None, out: Path) -> int:
    """Measures all starts on all cases, prints tables, writes `curves.json` and `curves.png`; see `eval.config`.

    What was measured before is kept in `out/curves` and not measured again: an interrupted run goes on. Raises
    AirjaxError also where `weights` are given, since the configuration names them.
    """
    if weights is not None:
        raise AirjaxError("--weights: not an option of refinement curves, whose configuration names the weights")
    config = dataclasses.replace(config, starts=all_starts(config), runs=())
    load = config.subjects.load_model
    models = [[None if file == SCRATCH else load(file) for file in start.files] for start in config.starts]
    count, total = sum(map(len, models)), len(config.subjects)
    print(f"{config.description}: {total} cases, {count} sets of weights, {config.steps[-1]} steps")
    names: list[str] = []
    records: list[list[list[Curve]]] = []
    environments: list[dict] = []
    problems: list[str] = []
    with tqdm(total=total * count, unit="curve", disable=None) as progress:

        def measured(subject: Subject, model: Any, start: Start) -> Curve:
            curve, environment = _cached_curve(subject, model, start, config, out)
            environments.append(environment)
            progress.update()
            return curve

        for subject in readable(config.subjects, problems):
            names.append(subject.name)
            pairs = list(zip(config.starts, models, strict=True))
            records.append([[measured(subject, model, start) for model in row] for start, row in pairs])
    report = make_report(config, models, names, records)
    write_report(out / "curves.json", config, report, environments=environments)
    atomic_write_bytes(out / "curves.png", plot(config, report))
    print(table(config, report))
    print(f"mean number of Gaussians: {np.mean(list(report['num_gaussians'].values())):.0f}")
    print(f"report: {out / 'curves.json'}")
    return len(problems)


def make_report(config: Curves, models: list[list[Any]], names: list[str], records: list[list[list[Curve]]]) -> dict:
    """The report of `run`: models by start and seed, names of the cases, records by case, start and seed."""

    def values(field: str) -> np.ndarray:
        """(s, r, c, ..)."""
        stacked = np.array([[[getattr(curve, field) for curve in row] for row in case] for case in records], float)
        return np.moveaxis(stacked, 0, 2)

    named, seconds = partial(_by_start, config), values("psnr_by_seconds")
    return {
        "description": config.description,
        "weights": named([[SCRATCH if model is None else model.name for model in row] for row in models]),
        **summary(config, values("psnr")),
        "ssim": named(values("ssim").mean(axis=(1, 2)).tolist()),
        "seconds": list(config.seconds),
        "psnr_by_seconds": named(seconds.mean(axis=(1, 2)).tolist()),
        "psnr_by_seconds_by_case": named(seconds.mean(axis=1).tolist()),
        "num_gaussians": named(values("num_gaussians").mean(axis=(1, 2)).tolist()),
        "cases": names,
    }


def _cached_curve(subject: Subject, model: Any, start: Start, config: Curves, out: Path) -> Measured:
    """`measure`, or its result from an earlier run for the same case, weights, settings and code."""
    rates = start.rates or (subject.rates if model is None else model.rates)
    arrays = subject.arrays, None if model is None else model.params
    code = code_version(sys.modules[type(subject).__module__])
    settings = config.steps, config.seconds, rates, subject.capacity, subject.loss_fn, code
    work = partial(measure, subject, model, rates, config)
    return cached(work, Curve, out / "curves", arrays=arrays, settings=settings, code=sys.modules[__name__])
