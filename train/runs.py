"""Run folders as plain data, for whatever looks at several of them: found, read, and grouped over their seeds.

Nothing here needs JAX. Nothing of a folder is trusted: a run may have been killed at any moment, or be under way.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name, read_bytes, reason
from train.settings import leaves, text_of

# Last parts of names of settings that change what a run shows or keeps, not its results.
SHOWN = frozenset({"log_every", "checkpoint_every", "panel_every", "keep", "cache_mb", "devices"})
# Settings that say where data lie: their last part counts, the folder around it does not.
PLACES = frozenset({"config.data.folders", "config.data.scenes"})
_LARGEST = float(np.finfo(np.float32).max)
_LABEL = 40  # characters of one value in a label, at most


@dataclass(frozen=True, eq=False)
class Run:
    """What a run folder holds."""

    folder: Path
    settings: dict[str, Any]  # by dotted name, see `train.settings.leaves`: "config.optimizer.learning_rate"
    seed: int | None
    # (k,) float64 columns: "step", increasing; "elapsed", seconds; and the metrics, NaN where a line has none
    log: dict[str, np.ndarray]
    num_damaged: int  # lines of the log that are left out
    panel: Path | None  # the newest picture
    weights: Path | None
    finished: bool  # there are weights, and the log reached the last step or the time limit
    versions: dict[str, str]
    devices: tuple[str, ...]

    @property
    def name(self) -> str:
        """That of the configuration, or of the folder."""
        name = self.settings.get("config.name")
        return name if isinstance(name, str) and name else self.folder.name

    def last(self, metric: str) -> float:
        """The last value of a metric that is a number; NaN for none."""
        values = self.log.get(metric, np.zeros(0))
        values = values[np.isfinite(values)]
        return float(values[-1]) if len(values) else math.nan


def read_run(folder: str | os.PathLike) -> Run:
    """The run in a folder. Raises AirjaxError: there is none, or its config.json or log cannot be read."""
    folder = Path(folder)
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "nothing"
        raise AirjaxError(f"{display_name(folder)}: expected a run folder, found {kind}")
    path = folder / "config.json"
    if not path.exists():
        raise AirjaxError(f"{display_name(folder)}: expected a run folder, found no config.json in it")
    data = read_bytes(path)
    try:
        content = json.loads(data)
        if not isinstance(content["loop"], dict):
            raise TypeError
        parts = {name: content[name] for name in ("config", "loop") if content[name] is not None}
        settings = leaves(parts)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise AirjaxError(f"{display_name(path)}: expected the settings of a run, got something else") from error
    log, num_damaged = read_log(folder / "log.jsonl")
    weights = folder / "weights.safetensors"
    seed, versions, devices = (content.get(name) for name in ("seed", "versions", "devices"))
    return Run(
        folder=folder,
        settings=settings,
        seed=seed if isinstance(seed, int) else None,
        log=log,
        num_damaged=num_damaged,
        panel=max((folder / "panels").glob("step_*.png"), key=_natural, default=None),
        weights=weights if weights.is_file() else None,
        finished=weights.is_file() and _is_over(settings, log),
        versions={str(key): str(value) for key, value in versions.items()} if isinstance(versions, dict) else {},
        devices=tuple(map(str, devices)) if isinstance(devices, list) else (),
    )


def read_log(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Columns of a log.jsonl, as in `Run`, and how many lines were left out: damaged, or of a step not after the last.

    No file is an empty log. Raises AirjaxError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise AirjaxError(f"{display_name(path)}: cannot be read ({reason(error)})") from error
    kept: list[dict[str, float]] = []
    lines = [line for line in text.split("\n") if line.strip()]
    last = -1.0
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(line)
            record = {key: _number(value) for key, value in content.items()} if isinstance(content, dict) else {}
            if record.get("step", math.nan) > last and record.get("elapsed", math.nan) >= 0:
                kept.append(record)
                last = record["step"]
    names = dict.fromkeys(["step", "elapsed", *(name for record in kept for name in record)])
    columns = {name: np.array([record.get(name, math.nan) for record in kept], float) for name in names}
    return columns, len(lines) - len(kept)


def find_runs(patterns: Iterable[str | os.PathLike], *, say: Callable[[str], None] | None = None) -> list[Run]:
    """The runs that are named, each once, in natural order of their folders: seed=2 comes before seed=10.

    A pattern is a run folder, a folder that holds runs, one or two levels below it, or a glob of those. What was found
    by looking and is not a run, or a damaged one, is a line for `say` (default: on stderr); what was named is refused.
    Raises AirjaxError: that, or a pattern without any run.
    """
    runs: dict[Path, Run] = {}
    for pattern in patterns:
        places, was_named = _places(pattern)
        found = [(folder, was_named and folder == place) for place in places for folder in _run_folders(place)]
        readable = 0
        for folder, must_be_one in found:
            try:
                run = read_run(folder)
            except AirjaxError as error:
                if must_be_one:
                    raise
                (say or _to_stderr)(f"left out: {error}")
                continue
            readable += 1
            runs.setdefault(folder.resolve(), run)
        if not readable:
            raise AirjaxError(f"{display_name(pattern)}: expected a run folder, or one that holds some, found no run")
    if not runs:
        raise AirjaxError("runs: expected a run folder, found none")
    return sorted(runs.values(), key=lambda run: _natural(run.folder))


def settings_that_differ(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs, by dotted name: their values, one for each run, None for none.

    Left out are seeds, names, and what only changes what is shown. Of the places of data the last part counts.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings if _counts(name, run.settings))
    rows = {name: [_comparable(name, run.settings.get(name)) for run in runs] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def group_by_settings(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but seeds are one group, sorted by seed; groups are in the order of their first run.

    Their labels say what tells them apart, in as few settings as that takes: "estimator=Budget, learning_rate=0.001";
    the name of the run where there is one group only.
    """
    differing = settings_that_differ(runs)
    rows: list[list[Any]] = []
    groups: list[list[Run]] = []
    for i, run in enumerate(runs):
        row = [values[i] for values in differing.values()]
        if row not in rows:
            rows.append(row)
            groups.append([])
        groups[rows.index(row)].append(run)
    for group in groups:
        group.sort(key=lambda run: (run.seed is not None, run.seed, _natural(run.folder)))
    labels = _labels(list(differing), rows) if len(groups) > 1 else [_common_name(runs)] * len(groups)
    return dict(zip(labels, groups, strict=True))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """For each dotted name its last part, or as many of its last parts as no other of them ends in."""

    def short(name: str) -> str:
        parts = name.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts)))
        return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in names) == 1), name)

    return {name: short(name) for name in names}


# --- reading ---------------------------------------------------------------------------------------------------------


def _number(value: Any) -> float:
    """NaN for anything but a number that a float32 can be: training makes no other, and sums of these are finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        return math.nan
    return float(value)


def _is_over(settings: dict[str, Any], log: dict[str, np.ndarray]) -> bool:
    """Whether a log reached the end of its run; one without lines says nothing against it."""
    if not len(log["step"]):
        return True
    ends = [settings.get("loop.num_steps"), *(settings.get("loop.extensions") or ())]
    last_step, max_seconds = _number(ends[-1]), _number(settings.get("loop.max_seconds"))
    out_of_time = log["elapsed"][-1] + 1e-3 >= max_seconds  # the log rounds to milliseconds
    return not log["step"][-1] < last_step or bool(out_of_time)


def _natural(path: PurePath) -> list[tuple[int, int, str]]:
    """Sorts names with numbers in them by the numbers."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts)]


# --- finding ---------------------------------------------------------------------------------------------------------


def _places(pattern: str | os.PathLike) -> tuple[list[Path], bool]:
    """The folders that a pattern stands for, and whether it is the name of one. Raises AirjaxError: none."""
    path = Path(pattern)
    if path.exists():
        if not path.is_dir():
            hint = "name the folder that holds the runs instead"
            raise AirjaxError(f"{display_name(path)}: expected a run folder, found a file; {hint}")
        return [path], True
    matches = [Path(match) for match in glob.glob(os.fspath(pattern), recursive=True)]
    folders = sorted((match for match in matches if match.is_dir()), key=_natural)
    if not folders:
        raise AirjaxError(f"{display_name(pattern)}: expected a run folder, found nothing")
    return folders, False


def _run_folders(place: Path) -> list[Path]:
    """A run folder, or those below it; where there are none the folder itself, for the message of `read_run`."""
    if (place / "config.json").exists():
        return [place]
    below = {path.parent for depth in ("*", "*/*") for path in place.glob(f"{depth}/config.json")}
    return sorted(below, key=_natural) or [place]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


# --- comparing -------------------------------------------------------------------------------------------------------


def _counts(name: str, settings: dict[str, Any]) -> bool:
    """Whether a setting may tell two runs apart."""
    last = name.rpartition(".")[2]
    if last == "seed" or last in SHOWN or name == "config.name":
        return False
    return not (name.startswith("config.loop") and name.removeprefix("config.") in settings)  # given twice


def _comparable(name: str, value: Any) -> Any:
    if name not in PLACES:
        return value
    return [_comparable(name, item) for item in value] if isinstance(value, list) else PurePath(str(value)).name


def _labels(names: list[str], rows: list[list[Any]]) -> list[str]:
    """One label for each row of values, all different, of those settings that are enough to tell the rows apart."""
    texts = [[_cut(text_of(value)) for value in row] for row in rows]
    chosen: list[int] = []

    def num_distinct(columns: list[int]) -> int:
        return len({tuple(row[i] for i in columns) for row in texts})

    # Outer settings first: the class of a part says more than its fields.
    candidates = sorted(range(len(names)), key=lambda i: names[i].count("."))
    while num_distinct(chosen) < num_distinct(candidates):
        chosen.append(max(candidates, key=lambda i: num_distinct([*chosen, i])))
    short = short_names(names)
    chosen.sort(key=candidates.index)
    labels = [", ".join(f"{short[names[i]]}={row[i]}" for i in chosen) for row in texts]
    # Values that are alike as far as they are shown.
    return [f"{label} ({i + 1})" if labels.count(label) > 1 else label for i, label in enumerate(labels)]


def _cut(text: str) -> str:
    return text if len(text) <= _LABEL else f"{text[: _LABEL // 2]}…{text[-_LABEL // 2 :]}"


def _common_name(runs: Sequence[Run]) -> str:
    """The name of runs of one group: what their names, which may end in a seed, have in common."""
    names = sorted({run.name for run in runs})
    if len(names) == 1:
        return names[0]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return re.sub(r"[-_=,. ]+\d*$", "", "".join(letters[0] for letters in same)) or names[0]
