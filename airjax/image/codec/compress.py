"""A photograph to the integers of a compact file, for a quality or for a target.

Letters: n Gaussians, S stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from airjax.gaussians import Gaussians2D
from airjax.image.codec import air_file
from airjax.image.codec.payload import Quantised
from airjax.image.codec.quantise import CODE_RANGE, Rows, amplitudes_of, dequantise, quantise
from airjax.image.color_solve import solve
from airjax.image.model import SOLVE_STEPS, Model, checked_image, checked_stages
from airjax.image.stages import StageConfig, StageControl, run_stages, stage_control_of
from airjax.image.task import ImageTask
from airjax.inner.task import run
from airjax.metrics import psnr, to_8bit
from airjax.raster.draw import render
from airjax.raster.tiles import patch_grid

DEFAULT_QUALITY = 45.0
QUALITY_RANGE = (0.0, 100.0)
# Bin width of the luma at quality 0, and how many points of quality halve it.
_COARSEST_STEP, _HALVING = 0.36, 18.0
# A patch asks for a Gaussian above this mean squared error, in squared bin widths.
_MSE_PER_STEP = 0.06
_ROUNDS = 2  # of solving colours on the rounded geometry and rounding again
_SEARCH_STEPS = 9  # encodings of a search, which leave about a fifth of a point of quality


def color_step_of(quality: float) -> float:
    """Bin width of the luma for a quality of 0 to 100, in intensity times pixels."""
    if not QUALITY_RANGE[0] <= quality <= QUALITY_RANGE[1]:
        raise ValueError(f"quality: expected a number from 0 to 100, got {quality}")
    return _COARSEST_STEP * 2.0 ** (-quality / _HALVING)


def mse_threshold_of(quality: float) -> float:
    """Mean squared error above which a patch gets a Gaussian, for a quality of 0 to 100."""
    return _MSE_PER_STEP * color_step_of(quality) ** 2


def compress(
    model: Model,
    image: np.ndarray,
    *,
    quality: float = DEFAULT_QUALITY,
    num_stages: int | None = None,
    max_gaussians: int | None = None,
    mse_threshold: float | None = None,
    ssim_threshold: float = 2.0,
    solve_steps: int = SOLVE_STEPS,
    refine_steps: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Quantised:
    """One photograph to quantised rows: all stages, each seeing what rounding left over, then colours and rounding.

    With the geometry rounded, the colours are solved for it (`airjax.image.color_solve`) and rounded themselves; since
    what a row's colour is rounded to decides how finely its geometry is, the two are done twice.

    Args:
      model: weights; those without a quantiser use its default bin widths.
      image: (h, w, 3) in [0, 1], any size from 1 x 1.
      quality: 0 to 100; sets the bin widths and, with them, where a Gaussian is worth its bits.
      num_stages: run only the first ones; None for all.
      max_gaussians: most Gaussians of the result; None for no limit but one per patch and stage.
      mse_threshold: see `airjax.image.stages.StageControl`; None for what fits the quality.
      ssim_threshold: the same; above 1 it asks for nothing.
      solve_steps: conjugate-gradient steps on the colours in each round; 0 keeps the predicted ones.
      refine_steps: gradient steps on all of a Gaussian (`airjax.image.task`) before rounding; 0 for none.
      progress: told how many of them are done, now and then.

    Raises:
      ValueError: a wrong shape or an option outside its range.
      AirjaxError: the refinement did not stay finite.
    """
    options = (num_stages, max_gaussians, mse_threshold, ssim_threshold, solve_steps, refine_steps, progress)
    return _compress(model, image, quality, *options)[0]


def compress_and_source(
    model: Model,
    image: np.ndarray,
    *,
    quality: float = DEFAULT_QUALITY,
    mse_threshold: float | None = None,
    solve_steps: int = SOLVE_STEPS,
) -> tuple[Quantised, Gaussians2D]:
    """As `compress`, and the rows of the result before rounding, their colours solved as often."""
    quantised, sets = _compress(model, image, quality, None, None, mse_threshold, 2.0, solve_steps, 0, None)
    kept = [each.kept(rows).gaussians for each, rows in zip(sets, quantised.stages, strict=True)]
    source = jax.tree.map(lambda *leaves: np.concatenate(leaves), *kept)
    if not (solve_steps and source.num_slots):
        return quantised, source
    return quantised, solve(source, checked_image(image), num_steps=_ROUNDS * solve_steps)


def _compress(
    model,
    image,
    quality,
    num_stages,
    max_gaussians,
    mse_threshold,
    ssim_threshold,
    solve_steps,
    refine_steps,
    progress,
) -> tuple[Quantised, list[_Stage]]:
    """The result of `compress`, and the stages that were rounded last."""
    image = checked_image(image)
    stages = checked_stages(model, num_stages, max_gaussians, solve_steps, refine_steps)
    step = color_step_of(quality)
    control = stage_control_of(
        mse_threshold_of(quality) if mse_threshold is None else mse_threshold,
        ssim_threshold,
        math.inf if max_gaussians is None else max_gaussians,
    )._replace(color_step=jnp.float32(step))
    predicted = jax.device_get(_predict(model.params, image, control, stages=stages))
    sets = [_Stage.of(*each, stage, image.shape[:2]) for each, stage in zip(predicted, stages, strict=True)]
    rows = [each.rounded() for each in sets]
    if refine_steps:
        # Only what rounding keeps: the rows that it drops would otherwise be refined for nothing.
        sets = [each.kept(row) for each, row in zip(sets, rows, strict=True)]
        sets = _refine_stages(sets, ImageTask(image, model.rates), num_steps=refine_steps, progress=progress)
        rows = [each.rounded() for each in sets]
    for _ in range(_ROUNDS if solve_steps else 0):
        sets = [each.kept(row) for each, row in zip(sets, rows, strict=True)]
        stored = [dequantise(row, columns=each.columns) for each, row in zip(sets, rows, strict=True)]
        colors = _solved_colors(stored, image, solve_steps)
        sets = [each.colored(s.with_colors(c)) for each, s, c in zip(sets, stored, colors, strict=True)]
        rows = [each.rounded() for each in sets]
    return Quantised(tuple(rows), image.shape[:2]), sets


@partial(jax.jit, static_argnames=("stages",))
def _predict(params, image, control: StageControl, *, stages: tuple[StageConfig, ...]):
    """(Gaussians before rounding, codes) of every stage at full capacity."""
    return [(stage.gaussians, stage.codes) for stage in run_stages(stages, params, image, control, skip_idle=True)]


@dataclass(frozen=True)
class _Stage:
    """One stage on its way to integers: geometry as predicted, colours as last solved."""

    gaussians: Gaussians2D
    patches: np.ndarray
    amplitudes: np.ndarray
    codes: np.ndarray
    patch_size: int
    columns: int

    @classmethod
    def of(cls, gaussians: Gaussians2D, codes, config: StageConfig, image_size) -> _Stage:
        """The active slots of a stage."""
        patches = np.flatnonzero(gaussians.active)
        gaussians = jax.tree.map(lambda leaf: np.asarray(leaf)[patches], gaussians)
        size = config.patch_map.patch_size
        codes = np.clip(np.rint(codes), *CODE_RANGE).astype(np.int64)
        return cls(gaussians, patches, amplitudes_of(gaussians), codes, size, patch_grid(image_size, size)[1])

    def rounded(self) -> Rows:
        options = {"codes": self.codes, "patch_size": self.patch_size, "columns": self.columns}
        return quantise(self.gaussians, self.patches, self.amplitudes, **options)

    def kept(self, rows: Rows) -> _Stage:
        """Without the rows that rounding dropped."""
        index = np.searchsorted(self.patches, rows.patches)
        gaussians = jax.tree.map(lambda leaf: leaf[index], self.gaussians)
        return self._with(gaussians, rows.patches, self.amplitudes[index])

    def colored(self, stored: Gaussians2D) -> _Stage:
        """With the amplitudes of a rounded set with new colours."""
        return self._with(self.gaussians, self.patches, amplitudes_of(stored))

    def _with(self, gaussians, patches, amplitudes) -> _Stage:
        return _Stage(gaussians, patches, amplitudes, self.codes, self.patch_size, self.columns)


def _refine_stages(sets: list[_Stage], task: ImageTask, *, num_steps: int, progress) -> list[_Stage]:
    """All stages refined together; every Gaussian stays in its stage and with its patch."""
    ends = np.cumsum([part.gaussians.num_slots for part in sets])
    if ends[-1] == 0:
        return sets
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part.gaussians for part in sets))
    together = run(task, together, num_steps=num_steps, progress=progress)
    parts = [jax.tree.map(lambda leaf: leaf[a:b], together) for a, b in pairwise((0, *ends))]  # noqa: B023
    return [each._with(part, each.patches, amplitudes_of(part)) for each, part in zip(sets, parts, strict=True)]


def _solved_colors(stored: list[Gaussians2D], image: np.ndarray, num_steps: int) -> list[np.ndarray]:
    """The best colours of the geometry of all stages together, per stage."""
    ends = np.cumsum([part.num_slots for part in stored])
    if ends[-1] == 0:
        return [part.colors for part in stored]
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *stored)
    return np.split(np.asarray(solve(together, image, num_steps=num_steps).colors), ends[:-1])


# --- targets ---------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What a search came to.

    Fields:
      quantised, data: the set and its file.
      quality: that gave it.
      achieved: the value that was aimed at.
      reached: whether it is on the right side of the target.
    """

    quantised: Quantised
    data: bytes
    quality: float
    achieved: float
    reached: bool


def measured_psnr(quantised: Quantised, image: np.ndarray) -> float:
    """PSNR in dB of the 8-bit image that a decoder draws."""
    encoded = air_file.dequantised(quantised)
    return float(_psnr(image, render(encoded.gaussians, image_size=encoded.image_size).image))


@jax.jit
def _psnr(image, rendered):
    return psnr(image, to_8bit(rendered))


def search(
    model: Model, image: np.ndarray, *, target_psnr: float | None = None, target_bpp: float | None = None, **options
) -> Found:
    """The smallest file of at least `target_psnr` dB, or the best of at most `target_bpp` bits per pixel.

    Bisects the quality; both grow with it but for small ripples, so the result is within about a fifth of a point of
    the best. A target out of reach gives the nearest end of the range, with `reached` false.

    Args:
      model, image, options: of `compress`, without `quality`.
      target_psnr, target_bpp: exactly one of them.

    Raises:
      ValueError: none or both targets, or as `compress`.
    """
    if (target_psnr is None) == (target_bpp is None):
        raise ValueError("expected either target_psnr or target_bpp")
    image = checked_image(image)

    def attempt(quality: float) -> Found:
        quantised = compress(model, image, quality=quality, **options)
        data = air_file.encode(quantised)
        if target_psnr is not None:
            achieved = measured_psnr(quantised, image)
            return Found(quantised, data, quality, achieved, achieved >= target_psnr)
        achieved = 8 * len(data) / (image.shape[0] * image.shape[1])
        return Found(quantised, data, quality, achieved, achieved <= target_bpp)

    return _bisect(attempt, upwards=target_psnr is not None)


def _bisect(attempt: Callable[[float], Found], *, upwards: bool) -> Found:
    """The lowest quality that reaches its target (`upwards`: quality helps to reach it), else the highest."""
    low, high = QUALITY_RANGE
    easy, hard = (high, low) if upwards else (low, high)
    best = attempt(easy)
    if not best.reached:
        return best
    extreme = attempt(hard)
    if extreme.reached:
        return extreme
    for _ in range(_SEARCH_STEPS - 2):
        middle = attempt(0.5 * (easy + hard))
        if middle.reached:
            best, easy = middle, middle.quality
        else:
            hard = middle.quality
    return best
