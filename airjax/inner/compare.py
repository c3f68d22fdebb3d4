"""Estimators of the outer gradient beside the exact one: cosine, bias, variance, time and memory, over the horizon.

Letters: c cases, d draws. Gradients are taken in the coordinates of the Gaussians, in units of the inner
learning rates, and with the rows of chaotic Gaussians clipped, as training does (`airjax.inner.estimators.clip_rows`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from airjax.inner.estimators import Estimator, Unrolled, clip_rows, outer_gradient
from airjax.inner.optimizers import scaled
from airjax.inner.task import Case, shared_capacity, start_state

ROW_CLIP = 10.0  # as training has it


@dataclass(frozen=True)
class Fidelity:
    """One estimator at one horizon, a number for each case; g is an estimate, e the exact gradient.

    Fields:
      name: of the estimator.
      horizon: inner steps K.
      cosine: of the mean of g over the draws and e.
      bias: |mean of g, as long as suits e best, minus e| / |e|, which is the sine of that angle.
      variance: mean |g - mean of g|^2 / |mean of g|^2; 0 where nothing is drawn.
      milliseconds: of one estimate, warm.
      megabytes: of memory for its intermediate results, of the first case.
      groups: cosine by group of coordinates; groups without an element are left out.
    """

    name: str
    horizon: int
    cosine: tuple[float, ...]
    bias: tuple[float, ...]
    variance: tuple[float, ...]
    milliseconds: tuple[float, ...]
    megabytes: float
    groups: dict[str, tuple[float, ...]]


class Comparison(tuple[Fidelity, ...]):
    """The records of a comparison; printed, it is a table of their means."""

    def __str__(self) -> str:
        lines = [f"{'estimator':18}{'K':>5}{'cosine':>9}{'bias':>9}{'variance':>10}{'ms':>9}{'MB':>8}"]
        for record in self:
            cosine, bias, variance, milliseconds = (
                float(np.mean(values)) for values in (record.cosine, record.bias, record.variance, record.milliseconds)
            )
            lines.append(
                f"{record.name:18}{record.horizon:5}{cosine:9.3f}{bias:9.3f}{variance:10.2f}{milliseconds:9.1f}"
                f"{record.megabytes:8.1f}"
            )
        return "\n".join(lines)


def compare(
    estimators: Sequence[type[Estimator] | Estimator],
    cases: Sequence[Case],
    *,
    horizons: Sequence[int],
    draws: int = 4,
    seed: int = 0,
    progress: Callable[[Fidelity], None] | None = None,
) -> Comparison:
    """Every estimator at every horizon beside `Unrolled`, which is exact and comes first by itself.

    Args:
      estimators: each follows the horizon by its own `at`.
      cases: of one wing, of any sizes; those of equal shapes share compiled programs.
      horizons: numbers of inner steps K.
      draws: estimates of each case by estimators that draw.
      seed: of case 0; the next one has the next seed.
      progress: called with each record.
    """
    kinds = [kind for kind in estimators if kind.name != Unrolled.name]
    capacity, records = shared_capacity(cases), []
    for horizon in horizons:
        exact: list[np.ndarray] | None = None
        for kind in (Unrolled, *kinds):
            estimator = kind.at(horizon)
            gradients = _gradients(estimator, cases, capacity, draws=draws if kind.draws else 1, seed=seed)
            exact = exact or [_mean(draw for draw in found.estimates) for found in gradients]
            record = _fidelity(kind.name or type(estimator).__name__, horizon, gradients, exact)
            records.append(record)
            if progress is not None:
                progress(record)
    return Comparison(records)


def angle(estimates: np.ndarray, exact: np.ndarray) -> tuple[float, float, float]:
    """(cosine, bias, variance) of (d, k) estimates; see `Fidelity`."""
    mean = estimates.mean(axis=0)
    cosine = _cosine(mean, exact)
    variance = float(np.mean(np.sum(np.square(estimates - mean), axis=1)) / max(mean @ mean, 1e-30))
    return cosine, math.sqrt(max(0.0, 1 - cosine**2)), variance


def make_gradient(estimator: Estimator, capacity: Any) -> jax.stages.Wrapped:
    """(key, task, start, active) -> the clipped estimate in units of the rates, coordinates; jitted.

    Args:
      capacity: of the renderer.
    """

    @jax.jit
    def gradient(key, task, start, active):
        problem = task.problem(active, capacity=capacity, any_order=estimator.needs_second_order)
        found = outer_gradient(key, start, task.rates, problem, estimator=estimator).start
        return scaled(task.rates, clip_rows(found, task.rates, active, limit=ROW_CLIP))

    return gradient


@dataclass(frozen=True)
class _Gradients:
    """Estimates of one case, a pytree of coordinates for each draw, and what they cost."""

    estimates: list[Any]
    milliseconds: float
    megabytes: float


def _gradients(estimator, cases, capacity, *, draws: int, seed: int) -> list[_Gradients]:
    gradient, programs, found = make_gradient(estimator, capacity), {}, []
    for i, case in enumerate(cases):
        task = jax.tree.map(jax.numpy.asarray, case.task)
        state = start_state(task, case.gaussians)
        arguments = task, state.coordinates, state.active
        keys = jax.random.split(jax.random.key(seed + i), draws)
        shapes = str(jax.tree.map(np.shape, arguments))
        if shapes not in programs:
            programs[shapes] = gradient.lower(keys[0], *arguments).compile()
        program = programs[shapes]
        estimates = [jax.tree.map(np.asarray, program(key, *arguments)) for key in keys]
        begin = time.perf_counter()
        jax.block_until_ready(program(keys[0], *arguments))
        milliseconds = 1e3 * (time.perf_counter() - begin)
        memory = program.memory_analysis()
        megabytes = memory.temp_size_in_bytes / 2**20 if memory is not None else math.nan
        found.append(_Gradients(estimates, milliseconds, megabytes))
    return found


def _fidelity(name: str, horizon: int, gradients: list[_Gradients], exact: list[Any]) -> Fidelity:
    angles, groups = [], []
    for found, true in zip(gradients, exact, strict=True):
        angles.append(angle(np.stack([_vector(draw) for draw in found.estimates]), _vector(true)))
        pairs = zip(true._fields, _mean(found.estimates), true, strict=True)
        groups.append({group: _cosine(mean.ravel(), other.ravel()) for group, mean, other in pairs if other.size})
    cosine, bias, variance = zip(*angles, strict=True)
    return Fidelity(
        name,
        horizon,
        cosine,
        bias,
        variance,
        tuple(found.milliseconds for found in gradients),
        gradients[0].megabytes,
        {group: tuple(case[group] for case in groups) for group in groups[0]},
    )


def _mean(estimates) -> Any:
    return jax.tree.map(lambda *leaves: np.mean(np.stack(leaves).astype(np.float64), axis=0), *estimates)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))


def _vector(gradient: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(gradient)])
