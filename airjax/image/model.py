"""`Model`: trained weights with their configuration, and the whole encode of one photograph."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians2D, join
from airjax.image import air_quantiser
from airjax.image.canvas import canvas_of
from airjax.image.codec.air_file import Encoded, compact, dequantised
from airjax.image.codec.chunks import size_problem
from airjax.image.color_solve import solve
from airjax.image.defaults import EFFORT, MSE_THRESHOLD, QUALITY, REFINE_STEPS, SOLVE_STEPS, SSIM_THRESHOLD
from airjax.image.free_task import FreeTask
from airjax.image.prediction import predict_stages
from airjax.image.presets import stages_from_text
from airjax.image.stages import StageConfig, StageControl, init_params, sees_all, stage_control_of, with_finer
from airjax.image.task import RATES, Coordinates
from airjax.inner.optimizers import rates_from_text
from airjax.inner.task import run
from airjax.progress import Progress, counted, steps_of, unwatched
from airjax.weights_file import load_weights, weights_hash

_RANGE = (-1.0, 2.0)  # of pixels: room for what filters and renderers overshoot, none for 0 to 255
DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "compact.safetensors"


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """Weights of a staged predictor.

    Stages have one configuration each, and their weights the names "stage0", "stage1", ..; the model's name is that of
    its file and the first digits of the SHA-256 of the weights. `rates`, of a refinement of its predictions, are
    learned with the weights if they were.
    """

    stages: tuple[StageConfig, ...]
    params: dict[str, Any]
    name: str
    rates: Coordinates = RATES

    def __repr__(self) -> str:
        weights = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        return f"Model({self.name}, {len(self.stages)} stages, {weights:,} weights)"

    def canvas_of(self, image: np.ndarray) -> np.ndarray:
        """What the stages are given of a (h, w, 3) image: `airjax.image.canvas.canvas_of` it, or it alone."""
        return image if sees_all(self.stages) else canvas_of(image)

    def encode(
        self,
        image: np.ndarray,
        *,
        num_stages: int | None = None,
        max_gaussians: int | None = None,
        mse_threshold: float = MSE_THRESHOLD,
        ssim_threshold: float = SSIM_THRESHOLD,
        solve_steps: int = SOLVE_STEPS,
        refine_steps: int = REFINE_STEPS,
        progress: Progress = unwatched,
    ) -> Encoded:
        """One photograph to Gaussians: all stages, refinement if asked for, then the colour solve.

        Args:
          image: (h, w, 3) in [0, 1], any size from 1 x 1.
          num_stages: run only the first ones; None for all, and finer ones where they leave much
            (`airjax.image.stages.with_finer`).
          max_gaussians: most Gaussians of the result; None for no limit but one per patch and stage.
          mse_threshold: see `airjax.image.stages.StageControl`.
          ssim_threshold: see there.
          solve_steps: conjugate-gradient steps on the colours; 0 keeps the predicted ones.
          refine_steps: gradient steps on all of a Gaussian (`airjax.image.task`); 0 for none.
          progress: told what is done ("predict", "refine", "colors"), how much of it and of how much, now and then.

        Raises:
          ValueError: a wrong shape or an option outside its range.
          AirjaxError: an image that no .air file holds, or a refinement that did not stay finite.
        """
        image = checked_image(image)
        stages = checked_stages(self, num_stages, max_gaussians, solve_steps, refine_steps)
        limit = float("inf") if max_gaussians is None else max_gaussians
        control = stage_control_of(mse_threshold, ssim_threshold, limit)
        canvas = self.canvas_of(image)
        watch = counted(progress, "predict")
        predicted = [gaussians for gaussians, _ in predict_stages(stages, self.params, canvas, control, watch)]
        sizes = tuple(gaussians.num_slots for gaussians in predicted)
        encoded = compact(join(predicted), stage_sizes=sizes, image_size=image.shape[:2])
        gaussians = encoded.gaussians
        if refine_steps and gaussians.num_slots:
            steps = steps_of(counted(progress, "refine"), refine_steps)
            gaussians = run(FreeTask(canvas, self.rates), gaussians, num_steps=refine_steps, progress=steps)
        if solve_steps and gaussians.num_slots:
            gaussians = solve(gaussians, canvas, num_steps=solve_steps, progress=counted(progress, "colors"))
        return Encoded(gaussians, encoded.stage_counts, encoded.image_size)

    def compress(
        self,
        image: np.ndarray,
        *,
        quality: float = QUALITY,
        num_stages: int | None = None,
        max_gaussians: int | None = None,
        effort: int = EFFORT,
        refine_steps: int | None = None,
        progress: Progress = unwatched,
    ) -> Encoded:
        """One photograph to quantised Gaussians, as a compact .air file of a quality from 0 to 100 holds them.

        Args:
          quality: what size and error of the file are weighed by.
          effort: 0 (one pass) to 9, see `airjax.image.codec.compress.EFFORTS`.
          refine_steps: steps of the refinement; None for those of the effort.

        Other arguments and errors are those of `encode`.
        """
        from airjax.image.codec.compress import CompressOptions, compress  # it knows models

        options = CompressOptions(quality, num_stages, max_gaussians, effort=effort, refine_steps=refine_steps)
        return dequantised(compress(self, image, options, progress=progress))


def checked_image(image: np.ndarray) -> np.ndarray:
    """The image as float32; a ValueError unless it is (h, w, 3) finite floating-point values, about in [0, 1].

    An AirjaxError for a size that no .air file holds.
    """
    image = np.asarray(image)
    if image.dtype.kind in "biu":
        raise ValueError(f"image: expected floating-point values in [0, 1], got {image.dtype}")
    image = image.astype(np.float32, copy=False)
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape) < 1:
        raise ValueError(f"image: expected (h, w, 3), got {image.shape}")
    low, high = float(image.min()), float(image.max())
    if not math.isfinite(low + high):
        raise ValueError("image: expected finite values in [0, 1]")
    if not _RANGE[0] <= low <= high <= _RANGE[1]:
        raise ValueError(f"image: expected values in [0, 1], got {low:g} to {high:g}; divide pixels of 8 bits by 255")
    if problem := size_problem(image.shape[0], image.shape[1], 3):
        raise AirjaxError(problem)
    return image


def checked_stages(
    model: Model, num_stages: int | None, max_gaussians: int | None, solve_steps: int, refine_steps: int
) -> tuple[StageConfig, ...]:
    """The first `num_stages` stages of a model, or all and finer ones; a ValueError for an option outside its range."""
    if num_stages is not None and not 1 <= num_stages <= len(model.stages):
        raise ValueError(f"num_stages: expected 1 to {len(model.stages)}, got {num_stages}")
    for name, value in (("max_gaussians", max_gaussians), ("solve_steps", solve_steps), ("refine_steps", refine_steps)):
        if value is not None and value < 0:
            raise ValueError(f"{name}: expected at least 0, got {value}")
    return with_finer(model.stages) if num_stages is None else model.stages[:num_stages]


def load(path: str | os.PathLike | None = None) -> Model:
    """The shipped model, or the one in a weights file (safetensors) written by `train`.

    An AirjaxError for a file that holds no weights, or does not say of what, or weights that do not fit their stages.
    """
    path = DEFAULT_WEIGHTS if path is None else Path(path)
    params, metadata = load_weights(path)
    if "stages" not in metadata:
        raise AirjaxError(f"{path}: expected weights of a staged predictor (metadata 'stages'), found none")
    stages = stages_from_text(metadata["stages"], source=str(path))
    if path != DEFAULT_WEIGHTS:  # the tests check the shipped ones: it takes as long as half an encode
        _check_params(params, stages, path)
    rates = RATES
    if "rates" in metadata:
        rates = rates_from_text(metadata["rates"], kind=Coordinates, source=str(path))
    # One transfer; jnp.asarray compiles a copy for every shape.
    return Model(stages, jax.device_put(params), f"{path.name} {weights_hash(path)[:8]}", rates)


def _check_params(params: dict[str, Any], stages: tuple[StageConfig, ...], path: Path) -> None:
    """Raises AirjaxError for stages that cannot be built, or weights of other names or shapes than theirs."""
    try:
        expected = _shapes({f"stage{i}": _fresh_params(stage) for i, stage in enumerate(stages)})
        if "quantiser" in params and stages:
            expected |= _shapes({"quantiser": air_quantiser.init_params(stages[-1].network)})
    except (TypeError, ValueError) as error:
        raise AirjaxError(f"{path}: expected stages that can be built, got others ({error})") from error
    given = _shapes(params)
    wrong = [name for name in {**expected, **given} if expected.get(name) != given.get(name)]
    if wrong or not stages:
        where = f", first at {wrong[0]}" if wrong else ""
        raise AirjaxError(f"{path}: expected weights that fit their stage configuration, got others{where}")


@cache
def _fresh_params(stage: StageConfig) -> Any:
    """Shapes of the weights of one stage; cached, since stages are mostly alike and tracing one takes a while."""
    return jax.eval_shape(lambda: init_params(jax.random.key(0), (stage,)))["stage0"]


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}


def predict(params, image, control: StageControl, *, stages: tuple[StageConfig, ...]) -> Gaussians2D:
    """The networks alone: all slots of all stages, stage after stage, numpy arrays."""
    return join([gaussians for gaussians, _ in predict_stages(stages, params, image, control)])
