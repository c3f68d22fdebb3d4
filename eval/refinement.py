"""Refinement curves: PSNR over the number of inner steps, from the predictions of several sets of weights.

All of them see the same images with the same budget of Gaussians and are refined by the same optimiser; where it starts
differs, or its learning rates. With several seeds of each, differences come with error bars.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, find_images
from airjax.image.model import Model, load
from airjax.image.task import Coordinates, State, advance, start_state
from airjax.photographs import IMAGE_SUFFIXES, read_image
from airjax.raster.draw import render
from eval.image.measures import score
from eval.plots import Line, Panel, draw_panels
from eval.report import cached, environment, format_table, number, write_json


class Start(NamedTuple):
    """Where a refinement begins, and how fast it goes.

    Fields:
      name: for the reports.
      files: weights files, one per seed; "" is the shipped model.
      rates: of `airjax.image.task`; None for those of each file.
    """

    name: str
    files: tuple[str, ...]
    rates: Coordinates | None = None

    def models(self) -> list[Model]:
        """One per seed."""
        models = [load(file or None) for file in self.files]
        return models if self.rates is None else [replace(model, rates=self.rates) for model in models]


@dataclass(frozen=True)
class Refinement:
    """What to measure.

    Fields:
      name, description: of the evaluation, for the reports.
      images: a folder of images, or one image.
      starts: the first is what the others are compared with.
      steps: numbers of inner steps, increasing multiples of 5 that begin with 0.
      compared: of these, where differences are printed.
      max_gaussians: budget of a whole image of 768 x 512; smaller ones get as many per pixel.
      crop: the middle so many pixels squared only; None for whole images.
      limit: only the first images; None for all.
    """

    name: str
    description: str
    images: str
    starts: tuple[Start, ...]
    steps: tuple[int, ...] = (0, 5, 10, 20, 50, 100, 200, 500)
    compared: tuple[int, ...] = (0, 50, 100, 500)
    max_gaussians: int = 14_000
    crop: int | None = None
    limit: int | None = None

    def __post_init__(self):
        steps = self.steps
        if not steps or steps[0] != 0 or list(steps) != sorted(set(steps)) or any(step % 5 for step in steps):
            raise AirjaxError(f"steps: expected 0, then increasing multiples of 5, got {steps}")
        if not set(self.compared) <= set(steps):
            raise AirjaxError(f"compared: expected some of {steps}, got {self.compared}")
        if not self.starts or len({len(start.files) for start in self.starts}) > 1 or not self.starts[0].files:
            raise AirjaxError("starts: expected some with the same number of files each, at least one")
        if self.max_gaussians < 1:
            raise AirjaxError(f"max_gaussians: expected at least 1, got {self.max_gaussians}")
        if self.crop is not None and self.crop < 16:
            raise AirjaxError(f"crop: expected at least 16 pixels, got {self.crop}")


class Curve(NamedTuple):
    """One image with one set of weights: Gaussians, and PSNR in dB of the 8-bit image after each number of steps."""

    num_gaussians: int
    psnr: tuple[float, ...]


def middle(image: np.ndarray, crop: int | None) -> np.ndarray:
    """The middle `crop` pixels of each side, or less where there are less."""
    if crop is None:
        return image
    cut = [slice(max(0, (side - crop) // 2), max(0, (side - crop) // 2) + min(side, crop)) for side in image.shape[:2]]
    return image[cut[0], cut[1]]


def budget_for(image: np.ndarray, max_gaussians: int) -> int:
    """The share of an (h, w, 3) image in a budget that is meant for 768 x 512 pixels."""
    return round(max_gaussians * image.shape[0] * image.shape[1] / (768 * 512))


def measure(model: Model, image: np.ndarray, config: Refinement) -> Curve:
    """Refines the networks' prediction for one image and looks at it on the way."""
    budget = budget_for(image, config.max_gaussians)
    predicted = model.encode(image, max_gaussians=budget, solve_steps=0).gaussians

    def psnr_of(state: State) -> float:
        return score(image, np.asarray(render(state.gaussians, image_size=image.shape[:2]).image)).psnr

    state, values = start_state(predicted), []
    for step in config.steps:
        while state.step < step:
            state = advance(state, image, num_steps=5, rates=model.rates)
        values.append(psnr_of(state))
    return Curve(predicted.num_slots, tuple(values))


def summary(config: Refinement, curves: np.ndarray) -> dict:
    """Means over images, then over seeds with their standard error; differences are paired seed by seed.

    Args:
      curves: (weights, seeds, images, steps) PSNR.
    """
    per_seed = curves.mean(axis=2)
    difference = per_seed - per_seed[:1]

    def bars(values: np.ndarray) -> list:
        count = values.shape[1]
        spread = values.std(axis=1, ddof=1) / math.sqrt(count) if count > 1 else np.full_like(values[:, 0], np.nan)
        return spread.tolist()

    reference = per_seed[0].mean(axis=0)
    reach = []
    for mean in per_seed.mean(axis=1):
        later = np.flatnonzero(mean >= reference[-1])
        reach.append(None if not len(later) else _crossing(config.steps, mean, later[0], reference[-1]))

    def named(rows: list) -> dict:
        return {start.name: row for start, row in zip(config.starts, rows, strict=True)}

    return {
        "steps": list(config.steps),
        "psnr": named(per_seed.mean(axis=1).tolist()),
        "standard_error": named(bars(per_seed)),
        "difference": named(difference.mean(axis=1).tolist()),
        "difference_error": named(bars(difference)),
        "per_seed": named(per_seed.tolist()),
        "steps_to_reach": named(reach),
    }


def _crossing(steps, mean, index: int, level: float) -> float:
    """Where a curve reaches a level, linear in the logarithm of the step between two points."""
    if index == 0 or steps[index - 1] == 0:
        return float(steps[index])
    share = (level - mean[index - 1]) / (mean[index] - mean[index - 1])
    return float(math.exp(np.interp(share, [0, 1], np.log([steps[index - 1], steps[index]]))))


def table(config: Refinement, report: dict) -> str:
    """PSNR after each number of steps, and the differences from the first weights with their standard errors."""
    steps = [str(step) for step in config.steps]
    rows = [[name, *(number(value, 2) for value in row)] for name, row in report["psnr"].items()]
    parts = ["PSNR, dB, after so many steps", format_table(["start", *steps], rows), ""]
    places = [config.steps.index(step) for step in config.compared]
    first = config.starts[0].name
    rows = []
    for name in list(report["psnr"])[1:]:
        gain, error = report["difference"][name], report["difference_error"][name]
        reach = report["steps_to_reach"][name]
        cells = [f"{gain[i]:+.3f} +- {error[i]:.3f}" for i in places]
        rows.append([name, *cells, "-" if reach is None else f"{reach:.0f}"])
    if rows:
        head = ["start", *(f"at {step}" for step in config.compared), f"steps to {first}@{config.steps[-1]}"]
        parts += [f"minus {first}, dB, mean and standard error over the seeds", format_table(head, rows)]
    return "\n".join(parts)


def plot(config: Refinement, report: dict) -> bytes:
    """PNG of PSNR, and of the difference from the first weights, over the steps."""
    steps = np.array(config.steps[1:])

    def lines(values: dict) -> tuple[Line, ...]:
        return tuple(Line(name, steps, np.array(row[1:])) for name, row in values.items())

    panels = [Panel("PSNR, dB", "refinement steps", lines(report["psnr"]), log2_x=True)]
    if len(config.starts) > 1:
        title = f"PSNR minus that of {config.starts[0].name}, dB"
        panels.append(Panel(title, "refinement steps", lines(report["difference"]), log2_x=True))
    return draw_panels(config.description, panels)


def run(config: Refinement, weights: Path | None, out: Path) -> int:
    """Measures all weights on all images, prints tables, writes `refinement.json` and `refinement.png`.

    What was measured before is kept in `out/curves` and not measured again: an interrupted run goes on.

    Returns:
      The number of images that could not be read.

    Raises:
      AirjaxError: no such weights, no such folder, no image in it, or none that can be read; `weights` given, since the
        configuration says which.
    """
    if weights is not None:
        raise AirjaxError("--weights: not an option of refinement curves, whose configuration names the weights")
    models = [start.models() for start in config.starts]
    if not Path(config.images).exists():
        raise AirjaxError(f"{config.images}: expected a folder of images or an image, found none")
    paths = find_images([config.images], suffixes=IMAGE_SUFFIXES)[: config.limit]
    count = sum(len(row) for row in models)
    print(f"{config.description}: {len(paths)} images, {count} sets of weights, {config.steps[-1]} steps")
    names, curves = [], []
    with tqdm(total=len(paths) * count, unit="curve", disable=None) as progress:
        for path in paths:
            try:
                image = middle(read_image(path).pixels, config.crop)
            except AirjaxError as error:
                tqdm.write(f"error: {error}", file=sys.stderr)
                continue
            names.append(path.name)
            rows = []
            for row in models:
                rows.append([])
                for model in row:
                    rows[-1].append(_remembered(model, image, config, out))
                    progress.update()
            curves.append(rows)
    if not curves:
        raise AirjaxError(f"{config.images}: expected images that can be read, found none")
    values = np.array([[[curve.psnr for curve in row] for row in rows] for rows in curves])
    report = {
        "description": config.description,
        "weights": {s.name: [m.name for m in row] for s, row in zip(config.starts, models, strict=True)},
        "rates": {s.name: [m.rates._asdict() for m in row] for s, row in zip(config.starts, models, strict=True)},
        **summary(config, np.moveaxis(values, 0, 2)),
        "num_gaussians": float(np.mean([[[c.num_gaussians for c in row] for row in rows] for rows in curves])),
        "images": names,
        "environment": environment(),
    }
    write_json(out / "refinement.json", report)
    atomic_write_bytes(out / "refinement.png", plot(config, report))
    print(table(config, report))
    print(f"mean number of Gaussians: {report['num_gaussians']:.0f}; report: {out / 'refinement.json'}")
    return len(paths) - len(names)


def _remembered(model: Model, image: np.ndarray, config: Refinement, out: Path) -> Curve:
    """`measure`, or what it gave before for the same pixels, weights and settings."""
    settings = config.steps, config.max_gaussians, model.rates
    work = partial(measure, model, image, config)
    code = sys.modules[__name__]
    return cached(work, Curve, out / "curves", arrays=(image, model.params), settings=settings, code=code).record
