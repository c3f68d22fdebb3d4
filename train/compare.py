"""Compare runs on one page: python -m train.compare RUNS... [-o compare.html] [--metric psnr ...]

The page is one file that needs nothing else: curves of every metric over steps and over seconds, with bands over the
seeds of a group (`train.runs.group_by_settings`), tables of values and of settings that differ, and the last pictures.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from airjax.commands.outputs import check_free
from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, display_name, reason
from train.runs import Run, find_runs, group_by_settings, settings_that_differ
from train.settings import text_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Groups = dict[str, list[Run]]  # by label

_TEMPLATE = Path(__file__).with_name("compare.html")
_HIGHER = ("psnr", "ssim", "ms_ssim")  # what names of metrics begin with whose best value is the highest
_NUM_COLORS = 8  # of the page: --c0, --c1, ..
_DASHES = ("", "6 2", "1.5 2", "6 2 1.5 2")  # one for each round through the colors
_MAX_POINTS = 500  # of a curve as it is drawn
_MAX_TEXT = 200  # characters of a setting
_LOG_RATIO = 20  # of the highest to the lowest value, from which on the axis is logarithmic
_PANEL_SIDE, _MAX_PANELS = 512, 24  # pixels of a picture, and number of them
_UNITS = ((7200, 3600, "hours"), (600, 60, "minutes"), (0, 1, "seconds"))  # from so many seconds on, how long, name


# --- curves ----------------------------------------------------------------------------------------------------------


class Band(NamedTuple):
    """Several runs as one: (k,) arrays."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(run: Run, metric: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """(k,) x and y of a metric where it is a number; `axis` is "step" or "elapsed", which never decreases."""
    values = run.log.get(metric, np.full(len(run.log["step"]), np.nan))
    there = np.isfinite(values)
    return np.maximum.accumulate(run.log[axis])[there], values[there]


def band(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Band | None:
    """Mean, lowest and highest of curves at every x that one of them has, where all of them are.

    Between its points a curve is a straight line. None where the curves have no range of x in common.
    """
    curves = [(x, y) for x, y in curves if len(x)]
    if not curves:
        return None
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    if not len(grid):
        return None
    rows = np.array([np.interp(grid, x, y) for x, y in curves])
    return Band(grid, rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0))


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Mean of those that are numbers, and its standard error: the deviation over n - 1 by the root of n; else NaN."""
    finite = np.array([value for value in values if math.isfinite(value)])
    if not len(finite):
        return math.nan, math.nan
    return float(finite.mean()), float(finite.std(ddof=1) / math.sqrt(len(finite))) if len(finite) > 1 else math.nan


def best(run: Run, metric: str) -> float:
    """The highest value of a metric of quality, the lowest of any other; NaN for none."""
    values = curve(run, metric, "step")[1]
    if not len(values):
        return math.nan
    return float(values.max() if metric.startswith(_HIGHER) else values.min())


def metrics_of(runs: Sequence[Run], chosen: Sequence[str]) -> list[str]:
    """The metrics to show: the loss and what starts with psnr, or those chosen. Raises AirjaxError: no run has it."""
    names = dict.fromkeys(name for run in runs for name in run.log if name not in ("step", "elapsed"))
    if unknown := [name for name in chosen if name not in names]:
        raise AirjaxError(f"--metric {unknown[0]}: expected one of {', '.join(names) or 'none: the logs are empty'}")
    return list(dict.fromkeys(chosen)) or [
        *(name for name in names if name == "loss"),
        *(name for name in names if name.startswith("psnr")),
    ]


# --- drawing ---------------------------------------------------------------------------------------------------------

# Colors that stand for those of the page, which differ between day and night.
_TEXT, _GRID = "#010203", "#010204"
_COLORS = tuple(f"#01030{i}" for i in range(_NUM_COLORS))


def draw(groups: Groups, metric: str, axis: str) -> str:
    """An SVG element: every run as a thin line, every group of several seeds as a thick mean and a band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    curves = {label: [curve(run, metric, axis) for run in runs] for label, runs in groups.items()}
    points = [pair for pairs in curves.values() for pair in pairs if len(pair[0])]
    if not points:
        return '<p class="chart">no values yet</p>'
    scale, name = 1, "step"
    if axis == "elapsed":
        longest = max(x[-1] for x, _ in points)
        scale, unit = next((length, unit) for start, length, unit in _UNITS if longest >= start)
        name = f"{unit} of training"
    low, high = (limit(limit(y) for _, y in points) for limit in (min, max))
    if low > 0 and high > _LOG_RATIO * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    for index, pairs in enumerate(curves.values()):
        style = {"color": _COLORS[index % _NUM_COLORS], "zorder": 3 - index / len(curves)}
        several = sum(len(x) > 0 for x, _ in pairs) > 1
        for x, y in pairs if several else ():
            axes.plot(*_thinned(x / scale, y), linewidth=0.7, alpha=0.45, **style)
        if (together := band(pairs)) is None:
            continue
        x, mean, lowest, highest = _thinned(together.x / scale, *together[1:])
        if several:
            axes.fill_between(x, lowest, highest, color=style["color"], alpha=0.18, linewidth=0)
        marker = "o" if len(x) == 1 else ""
        axes.plot(x, mean, linewidth=1.8, marker=marker, markersize=4, linestyle=_dashes(index), **style)
    axes.set_xlabel(name, color=_TEXT)
    axes.xaxis.get_major_locator().set_params(integer=axis == "step")
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=_TEXT, length=0)
    for side, spine in axes.spines.items():
        spine.set(color=_GRID, visible=side in ("left", "bottom"))
    return _svg(figure, f"{metric} by {name}")


def _thinned(*columns: np.ndarray) -> list[np.ndarray]:
    """The first, the last, and every so manieth point."""
    count = len(columns[0])
    kept = np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).round().astype(int))
    return [column[kept] for column in columns]


def _dashes(index: int) -> str | tuple[float, tuple[float, ...]]:
    """Of the line of a group, as matplotlib takes it."""
    pattern = _DASHES[index // _NUM_COLORS % len(_DASHES)]
    return (0, tuple(map(float, pattern.split()))) if pattern else "-"


def _svg(figure: Figure, name: str) -> str:
    """A figure as an element of the page, in its colors and its font."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": ascii(name)}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])  # the same in every figure
    colors = {_TEXT: "var(--text)", _GRID: "var(--line)"} | {color: f"var(--c{i})" for i, color in enumerate(_COLORS)}
    text = re.sub("|".join(colors), lambda match: colors[match[0]], text)
    return text.replace("<svg ", f'<svg class="chart" role="img" aria-label="{html.escape(name)}" ', 1)


def _swatch(index: int) -> str:
    return (
        '<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">'
        f'<path d="M1 5H29" style="stroke: var(--c{index % _NUM_COLORS})" stroke-width="3" '
        f'stroke-dasharray="{_DASHES[index // _NUM_COLORS % len(_DASHES)]}"/></svg>'
    )


# --- the page --------------------------------------------------------------------------------------------------------


def page(groups: Groups, metrics: Sequence[str]) -> str:
    """The whole file. Nothing of a run reaches it unescaped."""
    runs = [run for group in groups.values() for run in group]
    labels = {label: _swatch(i) + html.escape(label) for i, label in enumerate(groups)}
    lowest = [metric for metric in metrics if not metric.startswith(_HIGHER)]
    parts = {
        "title": f"{_count(len(runs), 'run')} in {_count(len(groups), 'group')}",
        "subtitle": "Runs that differ in nothing but their seeds are one group.",
        "legend": "\n".join(f"<li>{label}</li>" for label in labels.values()),
        "curves_note": "A thick line is the mean over the seeds of a group, its band reaches from the lowest to the "
        "highest of them, and thin lines are the runs themselves. A mean ends with the first of its runs to end. "
        "Between the lines of a log, values are interpolated. The time is that of all sessions of a run, with "
        f"compilation and pictures. At most {_MAX_POINTS} points of a curve are drawn.",
        "charts": "\n".join(_charts(groups, metric) for metric in metrics) or "<p>no values yet</p>",
        "values_note": "Mean over the seeds of a group ± its standard error. Every value is itself the mean over the "
        "steps since the line before in the log. Best is the "
        + ("lowest" if len(lowest) == len(metrics) else f"lowest of {', '.join(lowest)} and the highest of the others")
        + ".",
        "values": _values_table(groups, labels, metrics),
        "settings": _settings_table(groups, labels),
        "panels": _panels(groups, labels),
        "runs": _runs_table(groups, labels),
        "environments": _environments(runs),
    }
    escaped = ("title", "subtitle", "curves_note", "values_note", "environments")
    parts |= {name: html.escape(parts[name]) for name in escaped}
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(parts)


def _charts(groups: Groups, metric: str) -> str:
    charts = "\n".join(draw(groups, metric, axis) for axis in ("step", "elapsed"))
    return f'<section class="card"><h3>{html.escape(metric)}</h3><div class="charts">\n{charts}\n</div></section>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """Cells are HTML already."""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    top = "".join(f"<th>{name}</th>" for name in head)
    table = f'<table class="{kind}">\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'
    return f'<div class="table">{table}</div>'


def _values_table(groups: Groups, labels: dict[str, str], metrics: Sequence[str]) -> str:
    head = ["group", "runs", "steps", "time"]
    head += [f"{html.escape(metric)}, {which}" for metric in metrics for which in ("last", "best")]
    measures: tuple[Callable[[Run, str], float], ...] = (Run.last, best)
    rows = []
    for label, runs in groups.items():
        steps = [run.last("step") for run in runs if len(run.log["step"])]
        extent = " to ".join(dict.fromkeys(f"{of(steps):.0f}" for of in (min, max))) if steps else "-"
        seconds, _ = mean_and_error(run.last("elapsed") for run in runs)
        values = [mean_and_error(of(run, metric) for run in runs) for metric in metrics for of in measures]
        rows.append(
            [labels[label], str(len(runs)), extent, _duration(seconds), *(_with_error(*pair) for pair in values)]
        )
    return _table(head, rows)


def _settings_table(groups: Groups, labels: dict[str, str]) -> str:
    differing = settings_that_differ([runs[0] for runs in groups.values()])
    if not differing:
        return f"<p>{'The runs differ in their seeds only.' if sum(map(len, groups.values())) > 1 else 'One run.'}</p>"
    names = [html.escape(name) for name in differing]
    columns = [[html.escape(_shortened(text_of(value))) for value in row] for row in differing.values()]
    if len(names) > len(groups):
        return _table(
            ["setting", *labels.values()],
            ([name, *row] for name, row in zip(names, columns, strict=True)),
            kind="words",
        )
    return _table(
        ["group", *names], ([label, *row] for label, *row in zip(labels.values(), *columns, strict=True)), kind="words"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


def _runs_table(groups: Groups, labels: dict[str, str]) -> str:
    rows = []
    for label, runs in groups.items():
        for run in runs:
            step, total = run.last("step"), run.settings.get("loop.num_steps")
            state = "finished" if run.finished else "not finished"
            state += f", step {0 if math.isnan(step) else step:.0f} of {text_of(total)}"
            if run.num_damaged:
                state += f"; {_count(run.num_damaged, 'damaged line')} of the log left out"
            seed = "-" if run.seed is None else str(run.seed)
            cells = (display_name(run.folder), seed, state, _duration(run.last("elapsed")))
            rows.append([labels[label], *map(html.escape, cells)])
    return _table(["group", "folder", "seed", "state", "time"], rows, kind="words")


def _environments(runs: Sequence[Run]) -> str:
    made: dict[str, int] = {}
    for run in runs:
        versions = ", ".join(f"{name} {version}" for name, version in run.versions.items()) or "versions unknown"
        kinds = {device: run.devices.count(device) for device in run.devices}
        devices = ", ".join(f"{count} x {device}" for device, count in kinds.items()) or "device unknown"
        made[f"{devices}; {versions}"] = made.get(f"{devices}; {versions}", 0) + 1
    return "Made with " + " | ".join(f"{text} ({_count(count, 'run')})" for text, count in made.items())


def _panels(groups: Groups, labels: dict[str, str]) -> str:
    """The newest picture of every run, first seeds first."""
    ordered = [(place, label, run) for label, runs in groups.items() for place, run in enumerate(runs) if run.panel]
    ordered.sort(key=lambda item: item[0])
    if not ordered:
        return "<p>None of the runs has one; --loop.panel-every makes them.</p>"
    figures = []
    for _, label, run in ordered[:_MAX_PANELS]:
        caption = f"{labels[label]}<br>{html.escape(f'seed {run.seed}, {run.panel.stem}')}"
        figures.append(f"<figure>{_picture(run.panel)}<figcaption>{caption}</figcaption></figure>")
    more = len(ordered) - _MAX_PANELS
    note = f"<p>{_count(more, 'more picture')} in the folders of the runs.</p>" if more > 0 else ""
    return f'<div class="panels">\n{chr(10).join(figures)}\n</div>{note}'


def _picture(path: Path) -> str:
    """A PNG as an element, not larger than `_PANEL_SIDE`; what cannot be read is said instead."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            picture = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"<p>{html.escape(f'{display_name(path)}: cannot be read ({reason(error)})')}</p>"
    picture.thumbnail((_PANEL_SIDE, _PANEL_SIDE), Image.Resampling.LANCZOS)
    picture.save(buffer := io.BytesIO(), "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" width="{picture.width}" height="{picture.height}" src="data:image/png;base64,{data}">'


def _with_error(mean: float, error: float) -> str:
    """Two digits of the error, and the mean to the same place: "31.100 ± 0.046"."""
    if math.isnan(mean):
        return "-"
    if math.isnan(error) or error == 0:
        return f"{mean:.4g}"
    places = min(max(1 - math.floor(math.log10(error)), 0), 9)
    return f"{mean:.{places}f} ± {error:.{places}f}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    length, unit = next((length, unit) for start, length, unit in _UNITS if seconds >= start)
    return f"{seconds / length:.3g} {unit}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, or 2 after one line for the user."""
    parser = argparse.ArgumentParser(prog="python -m train.compare", description="Compare training runs on one page.")
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="run folders, folders that hold some, or globs of them")
    parser.add_argument("-o", "--output", type=Path, default=Path("compare.html"), help="the page (compare.html)")
    parser.add_argument(
        "--metric", nargs="+", action="extend", default=[], metavar="NAME", help="what to show (loss, psnr...)"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there already")
    args = parser.parse_args(argv)
    try:
        check_free(args.output, args)
        runs = find_runs(args.runs)
        text = page(group_by_settings(runs), metrics_of(runs, args.metric))
        atomic_write_bytes(args.output, text.encode(errors="replace"))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        print("error: matplotlib: expected to be installed, see requirements.txt", file=sys.stderr)
        return 2
    except (AirjaxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
