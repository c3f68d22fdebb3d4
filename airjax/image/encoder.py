"""`Model`: trained weights with their configuration, and the whole encode of one photograph.

Letters: n Gaussians, s stages.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from airjax.checkpoint import load_weights, weights_hash
from airjax.config import stages_from_text
from airjax.errors import AirjaxError
from airjax.gaussians import CUTOFF_RADIUS, Gaussians2D, concatenate, patch_grid
from airjax.image.bitstream import Encoded, compact
from airjax.image.colours import solve_colors
from airjax.image.stages import StageConfig, StageControl, run_stages, stage_control_of
from airjax.render.additive import draw_slots, slot_weights
from airjax.render.lists import gather_slots, pair_counts, round_capacity, sorted_lists
from airjax.render.plan import STRIP_PIXELS, TILE_SIZE, pad_capacity, render

DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "compact.safetensors"
SOLVE_STEPS = 5


@dataclass(frozen=True)
class Model:
    """Weights of a staged predictor.

    Fields:
      stages: configuration, one entry per stage.
      params: {"stage0": ..., ...}.
      name: file name and the first digits of the SHA-256 of the weights.
    """

    stages: tuple[StageConfig, ...]
    params: dict[str, Any]
    name: str

    def encode(
        self,
        image: np.ndarray,
        *,
        num_stages: int | None = None,
        max_gaussians: int | None = None,
        mse_threshold: float = 10**-3.5,
        ssim_threshold: float = 0.05,
        solve_steps: int = SOLVE_STEPS,
    ) -> Encoded:
        """One photograph to Gaussians: all stages, then the colour solve.

        Args:
          image: (h, w, 3) in [0, 1], any size from 1 x 1.
          num_stages: run only the first ones; None for all.
          max_gaussians: most Gaussians of the result; None for no limit but one per patch and stage.
          mse_threshold, ssim_threshold: see `airjax.image.stages.StageControl`.
          solve_steps: conjugate-gradient steps on the colours; 0 keeps the predicted ones.

        Raises:
          ValueError: a wrong shape or an option outside its range.
        """
        image = np.asarray(image, np.float32)
        if image.ndim != 3 or image.shape[2] != 3 or min(image.shape) < 1:
            raise ValueError(f"image: expected (h, w, 3), got {image.shape}")
        if not np.all(np.isfinite(image)):
            raise ValueError("image: expected finite values in [0, 1]")
        num_stages = len(self.stages) if num_stages is None else num_stages
        if not 1 <= num_stages <= len(self.stages):
            raise ValueError(f"num_stages: expected 1 to {len(self.stages)}, got {num_stages}")
        if max_gaussians is not None and max_gaussians < 0:
            raise ValueError(f"max_gaussians: expected at least 0, got {max_gaussians}")
        if solve_steps < 0:
            raise ValueError(f"solve_steps: expected at least 0, got {solve_steps}")
        control = stage_control_of(
            mse_threshold, ssim_threshold, float("inf") if max_gaussians is None else max_gaussians
        )
        stages = self.stages[:num_stages]
        gaussians = predict(self.params, image, control, stages=stages)
        sizes = tuple(int(np.prod(patch_grid(image.shape[:2], s.patch_map.patch_size))) for s in stages)
        encoded = compact(gaussians, stage_sizes=sizes, image_size=image.shape[:2])
        if solve_steps and encoded.gaussians.capacity:
            encoded = Encoded(
                solve(encoded.gaussians, image, num_steps=solve_steps),
                encoded.stage_counts,
                encoded.image_size,
            )
        return encoded


def load(path: str | os.PathLike | None = None) -> Model:
    """The shipped model, or the one in a weights file (safetensors) written by `train`.

    Raises:
      AirjaxError: not a weights file, or one that does not say what it is.
    """
    path = Path(DEFAULT_WEIGHTS if path is None else path)
    params, metadata = load_weights(path)
    if "stages" not in metadata:
        raise AirjaxError(f"{path}: expected weights of a staged predictor (metadata 'stages'), found none")
    params = jax.tree.map(jnp.asarray, params)
    return Model(
        stages_from_text(metadata["stages"], source=str(path)),
        params,
        f"{path.name} {weights_hash(path)[:8]}",
    )


@partial(jax.jit, static_argnames=("stages",))
def predict(params, image, control: StageControl, *, stages: tuple[StageConfig, ...]) -> Gaussians2D:
    """The networks alone: the Gaussians of all stages at full capacity, stage after stage."""
    trace = run_stages(stages, params, image, control, skip_idle=True)
    return concatenate([stage.gaussians for stage in trace])


def solve(gaussians: Gaussians2D, image: np.ndarray, *, num_steps: int) -> Gaussians2D:
    """The colour solve of a whole image (all rows active).

    An image of more than about 2 Mpx is solved in strips: the Gaussians centred in a strip, against what all others
    leave over there and in a margin as wide as they reach. Each strip can only lower the error, and memory is bounded.
    """
    height, width = image.shape[:2]
    rows = max(1, STRIP_PIXELS // (width * TILE_SIZE)) * TILE_SIZE
    colors = np.array(gaussians.colors)
    strips = [(top, min(top + rows, height)) for top in range(0, height, rows)]
    reach = int(np.ceil(CUTOFF_RADIUS * float(np.max(gaussians.scales)))) + 1 if len(strips) > 1 else 0
    size = (min(rows + 2 * reach, height), width)
    rendered = np.array(render(gaussians, image_size=(height, width)).image) if len(strips) > 1 else None
    for top, bottom in strips:
        center = np.asarray(gaussians.means[:, 1])
        inside = (
            (center >= top) & ((center < bottom) | (bottom == height))
            if len(strips) > 1
            else center == center
        )
        if top == 0:
            inside |= center < 0
        if not inside.any():
            continue
        first = min(max(0, top - reach), height - size[0])
        part = jax.tree.map(lambda leaf, inside=inside: np.asarray(leaf)[inside], gaussians)
        part = Gaussians2D(
            part.means - np.float32([0, first]),
            part.scales,
            part.angles,
            np.asarray(colors[inside]),
            part.active,
        )
        part = pad_capacity(part, round_capacity(part.capacity))
        grid = patch_grid(size, TILE_SIZE)
        pairs = int(np.asarray(pair_counts(part, grid=grid, tile_size=TILE_SIZE)).sum(dtype=np.int64))
        window = slice(first, first + size[0])
        others = 0.0 if rendered is None else rendered[window] - _own(part, size, pairs)
        new = _solve(
            part, image[window] - others, image_size=size, capacity=round_capacity(pairs), num_steps=num_steps
        )
        colors[inside] = np.asarray(new)[: int(inside.sum())]
        if rendered is not None:
            rendered[window] = others + _own(part.with_colors(new), size, pairs)
    return gaussians.with_colors(colors)


def _own(part, size, pairs):
    return np.asarray(render(part, image_size=size, capacity=round_capacity(pairs)).image)


@partial(jax.jit, static_argnames=("image_size", "capacity", "num_steps"))
def _solve(gaussians, image, *, image_size, capacity, num_steps):
    """New colours of a set whose pairs fit `capacity`."""
    grid = patch_grid(image_size, TILE_SIZE)
    lists = sorted_lists(gaussians, grid=grid, tile_size=TILE_SIZE, capacity=capacity)
    weights = slot_weights(
        gather_slots(gaussians, lists, grid=grid, tile_size=TILE_SIZE), tile_size=TILE_SIZE
    )
    weights = jax.lax.optimization_barrier(weights)  # computed once, used in every step
    norms = jnp.zeros((gaussians.capacity,), weights.dtype)
    norms = norms.at[lists.ids].add(jnp.sum(jnp.square(weights), axis=1), mode="drop")
    draw = partial(draw_slots, weights, lists, image_size=image_size, tile_size=TILE_SIZE)
    return solve_colors(
        draw, gaussians.colors, image, active=gaussians.active, norms=norms, num_steps=num_steps
    )
