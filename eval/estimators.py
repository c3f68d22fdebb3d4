"""Estimators of the outer gradient beside the exact one: cosine, bias, variance, time and memory, over the horizon.

The problem is the refinement of one crop from the networks' prediction, the outer loss minus its PSNR after K steps; or
that of a scene, see `eval.scene_estimators`. Gradients are taken in the coordinates of the Gaussians, in units of the
inner learning rates, and with the rows of chaotic Gaussians clipped, as training does (`train.meta.clipped_rows`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes
from airjax.image.model import Model
from airjax.image.task import Coordinates, State, reconstruction_loss, refinement_adam, start_state
from airjax.inner import estimators
from airjax.inner.estimators import Estimator, Problem, needs_second_order, outer_gradient
from airjax.inner.optimizers import scaled
from airjax.photographs import read_image
from airjax.raster.draw import capacity_of
from airjax.raster.tiles import Capacity
from eval.image.measures import prepare
from eval.plots import Line, Panel, draw_panels
from eval.refinement import budget_for, middle
from eval.report import environment, format_table, number, write_json
from eval.timing import time_warm
from train.meta import Meta, clipped_rows, decibels_of

EXACT = "unrolled"


def at_horizon(name: str, steps: int) -> Estimator:
    """The estimator of that name for an objective that ends after `steps` inner steps."""
    part = max(1, steps // 4)
    options = {
        "zero_step": {},
        "first_order": {"num_steps": steps},
        "multi_anchor": {"min_steps": part * 4 if steps >= 4 else steps, "max_steps": steps, "stride": part},
        "budget": {"anchors": (0, *({steps // 2} - {0}), steps)},
        "reptile": {"num_steps": steps},
        "unrolled": {"anchors": (steps,)},
        "truncated": {"num_steps": steps, "window": min(steps, 5)},
        "implicit_cg": {"num_steps": steps, "solver": "cg", "iterations": 5},
        "implicit_neumann": {"num_steps": steps, "solver": "neumann", "iterations": 5},
        "es": {"anchors": (steps,), "pairs": 2},
        "pes": {"anchors": (*({steps // 2} - {0}), steps), "pairs": 2},
    }
    if name not in options:
        raise AirjaxError(f"estimators: expected some of {', '.join(options)}, got {name!r}")
    return estimators.estimator(name.split("_cg")[0].split("_neumann")[0], **options[name])


def check_programs(estimators: tuple[str, ...], horizons: tuple[int, ...]) -> None:
    """Raises AirjaxError unless these are names of `at_horizon` and increasing numbers of at least 1."""
    for name in estimators:
        at_horizon(name, 4)
    if not horizons or min(horizons) < 1 or list(horizons) != sorted(set(horizons)):
        raise AirjaxError(f"horizons: expected increasing numbers of at least 1, got {horizons}")


@dataclass(frozen=True)
class Estimators:
    """What to measure.

    Fields:
      name, description: of the evaluation, for the reports.
      images: a folder of images, or one image.
      estimators: names, see `at_horizon`; `unrolled`, which they are compared with, comes by itself.
      horizons: numbers of inner steps K.
      crop: the middle so many pixels squared.
      max_gaussians: budget per 768 x 512 pixels.
      draws: of estimators that draw.
      limit: only the first images; None for all.
    """

    name: str
    description: str
    images: str
    estimators: tuple[str, ...]
    horizons: tuple[int, ...] = (1, 5, 20, 50)
    crop: int = 64
    max_gaussians: int = 14_000
    draws: int = 4
    limit: int | None = 8

    def __post_init__(self):
        check_programs(self.estimators, self.horizons)
        if self.crop < 16 or self.draws < 2:
            raise AirjaxError(f"crop, draws: expected at least 16 and 2, got {self.crop} and {self.draws}")


class Fidelity(NamedTuple):
    """One estimator at one horizon, means over the images unless said; g is an estimate, e the exact gradient.

    Fields:
      cosine: of the mean of g over the draws and e.
      bias: |mean of g, as long as suits e best, minus e| / |e|, which is the sine of that angle.
      variance: mean |g - mean of g|^2 / |mean of g|^2; 0 where nothing is drawn.
      milliseconds: of one estimate, warm.
      megabytes: of memory for its intermediate results, of the first image.
    """

    cosine: float
    bias: float
    variance: float
    milliseconds: float
    megabytes: float


def make_gradient(estimator: Estimator, *, capacity: Capacity, rates: Coordinates) -> Callable:
    """(key, start, active, image) -> the clipped estimate, coordinates, jitted."""

    @jax.jit
    def gradient(key, start, active, image):
        loss_fn = reconstruction_loss(image, active, capacity=capacity, any_order=needs_second_order(estimator))
        problem = Problem(loss_fn, outer_loss_fn=decibels_of(loss_fn, image.size), make_tx=refinement_adam)
        found = outer_gradient(key, start, rates, problem, estimator=estimator).start
        return scaled(rates, clipped_rows(found, rates, active, limit=Meta.row_clip))

    return gradient


def compare(estimates: np.ndarray, exact: np.ndarray) -> tuple[float, float, float]:
    """(cosine, bias, variance) of (draws, k) estimates; see `Fidelity`."""
    mean = estimates.mean(axis=0)
    cosine = _cosine(mean, exact)
    variance = float(np.mean(np.sum(np.square(estimates - mean), axis=1)) / max(mean @ mean, 1e-30))
    return cosine, math.sqrt(max(0.0, 1 - cosine**2)), variance


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))


def _vector(gradient: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(gradient)])


class Case(NamedTuple):
    """One problem: what its gradient function takes after the key."""

    arguments: tuple
    key: jax.Array


def prepare_state(model: Model, image: np.ndarray, config: Estimators) -> State:
    """The networks' prediction for one image."""
    budget = budget_for(image, config.max_gaussians)
    return start_state(model.encode(image, max_gaussians=budget, solve_steps=0).gaussians)


def shared_capacity(states: list[State], images: list[np.ndarray]) -> Capacity:
    """Room for all of them, and for what refinement makes of them: programs are then compiled once."""
    size = [image.shape[:2] for image in images]
    each = [capacity_of(c.gaussians, image_size=s, headroom=2.0) for c, s in zip(states, size, strict=True)]
    return Capacity(max(c.pairs for c in each), max(c.chunks for c in each))


class Measured(NamedTuple):
    """One estimator at one horizon.

    Fields:
      fidelity: mean over the cases.
      groups: cosines by group of coordinates, means over the cases; groups without an element are left out.
      estimates: of every case, the mean over the draws.
    """

    fidelity: Fidelity
    groups: dict[str, float]
    estimates: list[Any]


def measure(gradient: Callable, cases: list[Case], *, draws: int, exact: list[Any] | None) -> Measured:
    """One estimator at one horizon.

    Args:
      gradient: (key, *arguments of a case) -> estimate, a named tuple of arrays; jitted.
      draws: how many estimates of each case.
      exact: the gradient that it is compared with, one per case; None for itself.
    """
    found, groups, estimates, programs = [], [], [], {}
    for i, case in enumerate(cases):
        keys = jax.random.split(case.key, draws)
        shapes = str(jax.tree.map(np.shape, case.arguments))
        if shapes not in programs:
            programs[shapes] = gradient.lower(keys[0], *case.arguments).compile()
        program = programs[shapes]
        each = [jax.tree.map(np.asarray, program(key, *case.arguments)) for key in keys]
        mean = jax.tree.map(lambda *leaves: np.mean(np.stack(leaves).astype(np.float64), axis=0), *each)
        estimates.append(mean)
        true = mean if exact is None else exact[i]
        timing, _ = time_warm(partial(program, keys[0], *case.arguments), 1)
        if not i:
            megabytes = program.memory_analysis().temp_size_in_bytes / 2**20
        angle = compare(np.stack([_vector(one) for one in each]), _vector(true))
        found.append(Fidelity(*angle, 1e3 * timing.median, megabytes))
        pairs = {name: (getattr(mean, name).ravel(), getattr(true, name).ravel()) for name in mean._fields}
        groups.append({name: _cosine(*pair) for name, pair in pairs.items() if len(pair[0])})
    by_group = {name: float(np.mean([each[name] for each in groups])) for name in groups[0]}
    return Measured(Fidelity(*np.mean(found, axis=0).tolist()), by_group, estimates)


def study(config, make: Callable[[Estimator], Callable], cases: list[Case], names: list[str], out: Path) -> None:
    """Measures every estimator at every horizon; prints the tables, writes `estimators.json` and `.png`.

    Args:
      config: with `description`, `estimators`, `horizons` and `draws`.
      make: estimator -> the function that `measure` takes.
      names: of the cases, for the report.
    """
    found: dict[str, list[Measured]] = {name: [] for name in (EXACT, *config.estimators)}
    with tqdm(total=len(found) * len(config.horizons), unit="program", disable=None) as progress:
        for horizon in config.horizons:
            exact = None
            for name, row in found.items():
                draws = config.draws if name in ("es", "pes", "multi_anchor") else 1
                row.append(measure(make(at_horizon(name, horizon)), cases, draws=draws, exact=exact))
                exact = exact or row[-1].estimates
                progress.update()
            jax.clear_caches()  # programs of this horizon are not needed again
            report = {
                "description": config.description,
                "horizons": list(config.horizons[: len(found[EXACT])]),
                "means": {name: [each.fidelity._asdict() for each in row] for name, row in found.items()},
                "groups": {name: [each.groups for each in row] for name, row in found.items()},
                "images": names,
                "environment": environment(),
            }
            write_json(out / "estimators.json", report)
    means = {name: [each.fidelity for each in row] for name, row in found.items()}
    atomic_write_bytes(out / "estimators.png", plot(config, means))
    print(table(config, means))
    print("cosine by group of coordinates")
    print(group_table(config, {name: [each.groups for each in row] for name, row in found.items()}))
    print(f"report: {out / 'estimators.json'}")


def table(config, means: dict[str, list[Fidelity]]) -> str:
    """One line per estimator and horizon."""
    rows = [
        [
            name if i == 0 else "",
            str(horizon),
            number(each.cosine, 3),
            number(each.bias, 3),
            number(each.variance, 2),
            number(each.milliseconds, 1),
            number(each.megabytes, 1),
        ]
        for name, row in means.items()
        for i, (horizon, each) in enumerate(zip(config.horizons, row, strict=True))
    ]
    return format_table(["estimator", "K", "cosine", "bias", "variance", "ms", "MB"], rows)


def group_table(config, groups: dict[str, list[dict[str, float]]]) -> str:
    """One line per estimator and horizon."""
    columns = list(groups[EXACT][0])
    rows = [
        [name if i == 0 else "", str(horizon), *(number(each[column], 3) for column in columns)]
        for name, row in groups.items()
        for i, (horizon, each) in enumerate(zip(config.horizons, row, strict=True))
    ]
    return format_table(["estimator", "K", *columns], rows)


def plot(config, means: dict[str, list[Fidelity]]) -> bytes:
    """PNG of the cosine and of the time over the horizon."""
    x = np.array(config.horizons)

    def lines(field: str) -> tuple[Line, ...]:
        return tuple(Line(name, x, np.array([getattr(each, field) for each in row])) for name, row in means.items())

    panels = [
        Panel("cosine with the exact gradient", "inner steps", lines("cosine"), log2_x=True),
        Panel("milliseconds", "inner steps", lines("milliseconds"), log2_x=True),
    ]
    return draw_panels(config.description, panels)


def run(config: Estimators, weights: Path | None, out: Path) -> int:
    """Measures all images, prints the table, writes `estimators.json` and `.png`; the number of unreadable images.

    Raises:
      AirjaxError: no such weights, no image, or none that can be read.
    """
    model, paths = prepare(config, weights)
    images, names = [], []
    for path in paths:
        try:
            images.append(middle(read_image(path).pixels, config.crop))
        except AirjaxError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        names.append(path.name)
    if not images:
        raise AirjaxError(f"{config.images}: expected images that can be read, found none")
    states = [prepare_state(model, image, config) for image in images]
    options = {"capacity": shared_capacity(states, images), "rates": jax.tree.map(jnp.float32, model.rates)}
    cases = [
        Case((state.coordinates, state.active, image), jax.random.key(i))
        for i, (state, image) in enumerate(zip(states, images, strict=True), start=1)
    ]
    study(config, partial(make_gradient, **options), cases, names, out)
    return len(paths) - len(images)
