"""Estimators of the outer gradient beside the exact one: cosine, bias, variance, time and memory, over the horizon.

The problem is the refinement of one crop from the networks' prediction, the outer loss minus its PSNR after K steps.
Gradients are taken in the coordinates of the Gaussians, in units of the inner learning rates, and with the rows of
chaotic Gaussians clipped, as training does (`train.meta.clipped_rows`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from airjax import metagrad
from airjax.errors import AirjaxError
from airjax.image.encoder import Model
from airjax.image.refinement import Coordinates, State, reconstruction_loss, refinement_adam, start_state
from airjax.io import atomic_write_bytes, read_image
from airjax.metagrad import Estimator, Problem, needs_second_order, outer_gradient
from airjax.refine import scaled
from airjax.render.lists import Capacity
from airjax.render.plan import capacity_of
from eval.images import prepare
from eval.plot import Line, Panel, draw_panels, png_bytes
from eval.refinement import PALETTE, budget_for, middle
from eval.results import environment, format_table, number, write_json
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
    return metagrad.estimator(name.split("_cg")[0].split("_neumann")[0], **options[name])


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
        for name in self.estimators:
            at_horizon(name, 4)
        if not self.horizons or min(self.horizons) < 1 or list(self.horizons) != sorted(set(self.horizons)):
            raise AirjaxError(f"horizons: expected increasing numbers of at least 1, got {self.horizons}")
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


def make_gradient(estimator: Estimator, capacity: Capacity, rates: Coordinates) -> Callable:
    """(key, start, active, image) -> the clipped estimate as one vector, jitted."""

    @jax.jit
    def gradient(key, start, active, image):
        loss_fn = reconstruction_loss(image, active, capacity=capacity, any_order=needs_second_order(estimator))
        problem = Problem(loss_fn, outer_loss_fn=decibels_of(loss_fn, image.size), make_tx=refinement_adam)
        found = outer_gradient(key, start, rates, problem, estimator=estimator).start
        clipped = scaled(rates, clipped_rows(found, rates, active, limit=Meta.row_clip))
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(clipped)])

    return gradient


def compare(estimates: np.ndarray, exact: np.ndarray) -> tuple[float, float, float]:
    """(cosine, bias, variance) of (draws, k) estimates; see `Fidelity`."""
    mean = estimates.mean(axis=0)
    cosine = float(mean @ exact / max(np.linalg.norm(mean) * np.linalg.norm(exact), 1e-30))
    variance = float(np.mean(np.sum(np.square(estimates - mean), axis=1)) / max(mean @ mean, 1e-30))
    return cosine, math.sqrt(max(0.0, 1 - cosine**2)), variance


class Case(NamedTuple):
    """One image and the start of its refinement."""

    image: np.ndarray
    state: State
    key: jax.Array


def prepare_case(model: Model, image: np.ndarray, config: Estimators, key: jax.Array) -> Case:
    """The networks' prediction for one image."""
    budget = budget_for(image, config.max_gaussians)
    return Case(image, start_state(model.encode(image, max_gaussians=budget, solve_steps=0).gaussians), key)


def shared_capacity(cases: list[Case]) -> Capacity:
    """Room for all of them, and for what refinement makes of them: programs are then compiled once."""
    size = [case.image.shape[:2] for case in cases]
    each = [capacity_of(c.state.gaussians, image_size=s, headroom=2.0) for c, s in zip(cases, size, strict=True)]
    return Capacity(max(c.pairs for c in each), max(c.chunks for c in each))


def measure(name: str, horizon: int, exact: list[np.ndarray] | None, cases: list[Case], config: Estimators, **options):
    """One estimator at one horizon: (mean `Fidelity`, the mean estimate of every case).

    Args:
      exact: the gradient that it is compared with, one per case; None for itself.
      options: of `make_gradient`.
    """
    gradient = make_gradient(at_horizon(name, horizon), **options)
    draws = config.draws if name in ("es", "pes", "multi_anchor") else 1
    found, estimates = [], []
    for i, case in enumerate(cases):
        arguments = (case.state.coordinates, case.state.active, case.image)
        keys = jax.random.split(case.key, draws)
        drawn = np.stack([np.asarray(gradient(key, *arguments), np.float64) for key in keys])
        estimates.append(drawn.mean(axis=0))
        timing, _ = time_warm(partial(gradient, keys[0], *arguments), 1)
        if not i:
            megabytes = gradient.lower(keys[0], *arguments).compile().memory_analysis().temp_size_in_bytes / 2**20
        angle = compare(drawn, estimates[-1] if exact is None else exact[i])
        found.append(Fidelity(*angle, 1e3 * timing.median, megabytes))
    return Fidelity(*np.mean(found, axis=0).tolist()), estimates


def table(config: Estimators, means: dict[str, list[Fidelity]]) -> str:
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


def plot(config: Estimators, means: dict[str, list[Fidelity]]) -> bytes:
    """PNG of the cosine and of the time over the horizon."""
    x = np.array(config.horizons)

    def lines(field: str) -> tuple[Line, ...]:
        return tuple(
            Line(name, x, np.array([getattr(each, field) for each in row]), PALETTE[i % len(PALETTE)])
            for i, (name, row) in enumerate(means.items())
        )

    panels = [
        Panel("cosine with the exact gradient", "inner steps", lines("cosine"), log2_x=True),
        Panel("milliseconds", "inner steps", lines("milliseconds"), log2_x=True),
    ]
    return png_bytes(draw_panels(config.description, panels))


def run(config: Estimators, weights: Path | None, out: Path) -> int:
    """Measures all images, prints the table, writes `estimators.json` and `.png`; the number of unreadable images.

    Raises:
      AirjaxError: no such weights, no image, or none that can be read.
    """
    model, paths = prepare(config, weights, out)
    cases, names = [], []
    for path in paths:
        try:
            image = middle(read_image(path).pixels, config.crop)
        except AirjaxError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        names.append(path.name)
        cases.append(prepare_case(model, image, config, jax.random.key(len(names))))
    if not cases:
        raise AirjaxError(f"{config.images}: expected images that can be read, found none")
    options = {"capacity": shared_capacity(cases), "rates": jax.tree.map(jnp.float32, model.rates)}
    means: dict[str, list[Fidelity]] = {name: [] for name in (EXACT, *config.estimators)}
    with tqdm(total=len(means) * len(config.horizons), unit="program", disable=None) as progress:
        for horizon in config.horizons:
            exact = None
            for name, row in means.items():
                fidelity, estimates = measure(name, horizon, exact, cases, config, **options)
                exact = exact or estimates
                row.append(fidelity)
                progress.update()
            report = {
                "description": config.description,
                "horizons": list(config.horizons[: len(means[EXACT])]),
                "means": {name: [each._asdict() for each in row] for name, row in means.items()},
                "images": names,
                "environment": environment(),
            }
            write_json(out / "estimators.json", report)
    atomic_write_bytes(out / "estimators.png", plot(config, means))
    print(table(config, means))
    print(f"report: {out / 'estimators.json'}")
    return len(paths) - len(cases)
