"""The study of estimators of the outer gradient, in images or in scenes; see `airjax.inner.compare`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes
from airjax.inner.compare import Comparison, Fidelity, compare
from airjax.inner.estimators import ESTIMATORS, Unrolled
from airjax.inner.task import Case
from eval.curves import readable
from eval.plots import Line, Panel, draw_panels
from eval.report import format_table, number, write_report

SCALARS = ("cosine", "bias", "variance", "milliseconds")


@dataclass(frozen=True)
class Estimators:
    """What to measure."""

    # name, description: of the evaluation, for the reports
    name: str
    description: str
    subjects: Any  # images or scenes, `eval.curves.Subjects`
    estimators: tuple[str, ...]  # registered names; `unrolled`, which they are compared with, comes by itself
    horizons: tuple[int, ...] = (1, 5, 20, 50)  # numbers of inner steps K
    draws: int = 4  # of estimators that draw
    seed: int = 0  # of the first case
    rates: Any = None  # of the tasks; None for those of the weights

    def __post_init__(self):
        if unknown := set(self.estimators) - set(ESTIMATORS):
            raise AirjaxError(f"estimators: expected some of {', '.join(ESTIMATORS)}, got {sorted(unknown)[0]!r}")
        horizons = list(self.horizons)
        if not horizons or min(horizons) < 1 or horizons != sorted(set(horizons)):
            raise AirjaxError(f"horizons: expected increasing numbers of at least 1, got {self.horizons}")
        if self.draws < 2:
            raise AirjaxError(f"draws: expected at least 2, got {self.draws}")


def run(config: Estimators, weights: Path | None, out: Path) -> int:
    """Measures every estimator at every horizon; writes `estimators.json` as it goes, `.png`; see `eval.config`."""
    model = config.subjects.load_model(str(weights or ""))
    problems: list[str] = []
    records: list[Fidelity] = []
    rates = model.rates if config.rates is None else config.rates
    subjects = readable(config.subjects, problems)
    cases = [Case(subject.name, subject.task(rates), subject.start(model)) for subject in subjects]
    kinds = [ESTIMATORS[name] for name in config.estimators]
    total = len(config.horizons) * len({Unrolled.name, *config.estimators})
    with tqdm(total=total, unit="program", disable=None) as progress:

        def keep(record: Fidelity) -> None:
            records.append(record)
            write_report(out / "estimators.json", config, make_report(config, model.name, cases, records))
            progress.update()

        options = {"horizons": config.horizons, "draws": config.draws, "seed": config.seed}
        comparison = compare(kinds, cases, progress=keep, **options)
    atomic_write_bytes(out / "estimators.png", plot(config, comparison))
    print(table(comparison), "cosine by group of coordinates", group_table(comparison), sep="\n")
    print(f"report: {out / 'estimators.json'}")
    return len(problems)


def make_report(config: Estimators, weights: str, cases: list[Case], records: list[Fidelity]) -> dict[str, Any]:
    """Means over the cases, their standard errors, and each case's own numbers."""
    return {
        "description": config.description,
        "weights": weights,
        "cases": [case.name for case in cases],
        "records": [
            {
                **dataclasses.asdict(record),
                "mean": {field: float(np.mean(getattr(record, field))) for field in SCALARS},
                "error_over_cases": {field: error_over_cases(getattr(record, field)) for field in SCALARS},
                "group_means": {name: float(np.mean(values)) for name, values in record.groups.items()},
            }
            for record in records
        ],
    }


def error_over_cases(values: tuple[float, ...]) -> float:
    """Standard error of a mean over cases; NaN where there is one."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def table(records: Comparison) -> str:
    """One line per estimator and horizon: means over the cases, the cosine with its error over them."""

    def row(record: Fidelity) -> list[str]:
        cosine, bias, variance, milliseconds = (float(np.mean(getattr(record, field))) for field in SCALARS)
        values = cosine, error_over_cases(record.cosine), bias, variance, milliseconds, record.megabytes
        cells = map(number, values, (3, 3, 3, 2, 1, 1))
        return [record.name, str(record.horizon), *cells]

    head = ["estimator", "K", "cosine", "+-", "bias", "variance", "ms", "MB"]
    return format_table(head, map(row, _by_name(records)))


def group_table(records: Comparison) -> str:
    """Mean cosines by group of coordinates, one line per estimator and horizon."""
    columns = list(records[0].groups)
    rows = [
        [record.name, str(record.horizon), *(number(float(np.mean(record.groups[column])), 3) for column in columns)]
        for record in _by_name(records)
    ]
    return format_table(["estimator", "K", *columns], rows)


def plot(config: Estimators, records: Comparison) -> bytes:
    """PNG of the cosine and of the time over the horizon."""

    def line(name: str, field: str) -> Line:
        rows = [getattr(record, field) for record in records if record.name == name]
        errors = np.array([error_over_cases(row) for row in rows])
        return Line(name, np.array(config.horizons), np.array([np.mean(row) for row in rows]), errors)

    def panel(title: str, field: str) -> Panel:
        names = dict.fromkeys(record.name for record in records)
        return Panel(title, "inner steps", tuple(line(name, field) for name in names), log2_x=True)

    panels = panel("cosine with the exact gradient", "cosine"), panel("milliseconds", "milliseconds")
    return draw_panels(config.description, panels)


def _by_name(records: Comparison) -> list[Fidelity]:
    """The same, all horizons of an estimator together."""
    names = list(dict.fromkeys(record.name for record in records))
    return sorted(records, key=lambda record: names.index(record.name))
