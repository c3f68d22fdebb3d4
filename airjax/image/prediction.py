"""The staged prediction of one concrete image, a large one strip by strip.

A stage sees an image in windows as it sees it whole: they hold all that a network reaches and a Gaussian is drawn from
(`airjax.image.strips`). Three things are of the whole image, and gathered in between: which patches have the largest
errors, whether they are enough, and the mean votes for the bin widths. So memory holds two images, what a window needs,
what one stage says of its patches, and the Gaussians of all stages.

Letters: n patches of a stage, m patches of a window, k numbers of a raw row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from airjax.arrays import size_of
from airjax.gaussians import Gaussians2D, join, only_active, take
from airjax.image import air_drawing
from airjax.image.canvas import extent_of
from airjax.image.stages import (
    StageConfig,
    StageControl,
    Turn,
    asking_errors,
    chosen_patches,
    codes_of,
    predict_stage,
    quality_inputs,
    rounded,
    run_stage,
    sees_all,
    turns_of,
)
from airjax.image.strips import Strip, strips_of
from airjax.nn.air_stage import RAW_ROWS
from airjax.programs import kept
from airjax.progress import Count, Steps
from airjax.raster.draw import render
from airjax.raster.tiles import patch_centers, patch_grid

Predicted = list[tuple[Gaussians2D, Any]]


def predict_stages(
    stages: tuple[StageConfig, ...],
    params: dict[str, Any],
    image: np.ndarray,
    control: StageControl,
    progress: Count | None = None,
) -> Predicted:
    """(Gaussians at full capacity, codes) of every stage of `run_stages` on a concrete image, numpy arrays.

    The image may lie on a canvas (`airjax.image.canvas`), unless they see all of it (`sees_all`): the result is that of
    the image alone, on the canvas' grid.
    Without a quantiser in `control` the codes are None. The result is shorter than `stages` where one would add too
    few (`StageConfig.least`). Weights are those of the stage's number, or the last ones. `progress` is told of the
    stages, or of the strips of all of them.

    Not for `jit`: here each kind of stage is one program, or a few for windows, compiled and loaded once however many
    stages are of it, and what it adds is drawn through sorted lists of what is active.
    """
    if sees_all(stages):
        return _in_one_piece(stages, params, image, control, progress)
    step = math.lcm(*(stage.patch_map.patch_size for stage in stages))
    cuts = [strips_of(size_of(image), reach=_reach(stage), step=step) for stage in stages]
    if len(cuts[0]) == 1:
        return _in_one_piece(stages, params, image, control, progress)
    return _in_strips(stages, params, image, control, progress, cuts)


def _reach(stage: StageConfig) -> int:
    """How many pixels beyond its own rows a strip must see."""
    size, times = stage.patch_map.patch_size, stage.network.enlargement
    assert stage.network.reach is not None
    network = stage.network.reach + (times > 1)  # an enlarged patch looks beyond its edges
    return size * max(network, stage.patch_map.rings)


def _in_one_piece(stages, params, image, control, progress) -> Predicted:
    predicted: Predicted = []
    extent = extent_of(image)
    image, rendered, left = jax.device_put(np.nan_to_num(image)), np.zeros_like(image), control.max_gaussians
    shown: list[Gaussians2D] = []
    for turn in turns_of(stages, params, control):
        done = run_stage(*turn, image, rendered, left, np.array(extent, np.int32), skip_idle=True)
        gaussians, drawn, quantised, left = jax.device_get(done)
        if turn.least and not gaussians.active.any():
            break
        predicted.append((gaussians, quantised.get("codes")))
        if len(predicted) < len(stages):
            if turn.stage.release.draws_all:
                rendered[: extent[0], : extent[1]] += _shown(drawn, extent)
            else:
                shown.append(drawn)
                rendered = air_drawing.draw(join(shown), extent, turn.stage.release)
        if progress is not None:
            progress(len(predicted), len(stages))
    return predicted


def _shown(gaussians: Gaussians2D, image_size: Sequence[int] | Int[np.ndarray, " 2"]) -> Float[np.ndarray, "h w 3"]:
    """What a stage adds. Mostly few of its patches have a Gaussian, and sorted lists of these are the faster ones."""
    height, width = (int(side) for side in image_size)
    if not np.asarray(gaussians.active).any():
        return np.zeros((height, width, 3), np.float32)
    return np.asarray(render(only_active(gaussians), image_size=(height, width)).image)


def _in_strips(stages, params, image, control, progress, cuts: Sequence[Sequence[Strip]]) -> Predicted:
    predicted: Predicted = []
    rendered, extent, left = np.zeros_like(image), extent_of(image), control.max_gaussians
    for turn, strips in zip(turns_of(stages, params, control), cuts, strict=True):
        size = turn.stage.patch_map.patch_size
        windows = _windows(strips, size, size_of(image), extent)
        errors = _gathered(windows, partial(_errors_in, turn, image, rendered))
        least = turn.least * np.float32(math.prod(patch_grid(extent, size)))
        active, left = jax.device_get(_chosen(errors, turn.stages_left, left, least))
        if turn.least and not active.any():
            break
        tell = _part(progress, len(predicted) * len(strips), len(stages) * len(strips))
        if active.any():
            raw = _gathered(windows, partial(_raw_in, turn, image, rendered), tell)
        else:
            raw = np.zeros((len(active), RAW_ROWS + turn.stage.network.votes), np.float32)
            tell(len(strips))
        votes = _mean_votes(raw, patch_grid(size_of(image), size), patch_grid(extent, size))
        codes = jax.device_get(_codes(turn.stage, votes, turn.control.color_step))
        parts = []
        for window in windows:
            gaussians, drawn = _placed_in(turn, raw, active, codes, window)
            parts.append(jax.device_get(take(gaussians, window.own_patches)))
            if len(predicted) + 1 < len(stages):
                window.own_of(rendered)[:] += _shown(drawn, window.extent)[window.own_rows]
        predicted.append((join(parts), codes))
    return predicted


def _part(progress: Count | None, begun: int, total: int) -> Steps:
    """A `progress` of `total` steps that goes on where so many are done."""
    return lambda done: progress(begun + done, total) if progress is not None else None


class _Window(NamedTuple):
    """A strip in whole patches of one stage; all windows of a stage have one size.

    Fields:
      top: row of pixels of the image at which it begins.
      size: (h, w) pixels.
      extent: (h, w) of the image in it.
      own: rows of pixels of the image that are its own, [first, past the last).
      patch_size: pixels.
    """

    top: int
    size: tuple[int, int]
    extent: Int[np.ndarray, " 2"]
    own: tuple[int, int]
    patch_size: int

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of its patches."""
        return patch_grid(self.size, self.patch_size)

    @property
    def own_rows(self) -> slice:
        """Its own rows of pixels in it."""
        return slice(self.own[0] - self.top, self.own[1] - self.top)

    @property
    def own_patches(self) -> slice:
        """Those of its own rows in its grid."""
        rows, columns = self.own_rows, self.grid[1]
        return slice(rows.start // self.patch_size * columns, -(-rows.stop // self.patch_size) * columns)

    def of(self, image: Float[np.ndarray, "H W c"]) -> Float[np.ndarray, "h w c"]:
        """What it sees of an image; 0 where there is none."""
        return _filled(np.nan_to_num(image[self.top : self.top + self.size[0]]), self.size[0])

    def own_of(self, image: Float[np.ndarray, "H W c"]) -> Float[np.ndarray, "h w c"]:
        """Its own rows of an image, as far as that is there; a view."""
        return image[self.own[0] : min(self.own[1], self.top + self.extent[0]), : self.extent[1]]

    def of_patches(self, values: Shaped[np.ndarray, "n ..."]) -> Shaped[np.ndarray, "m ..."]:
        """What it sees of numbers of all patches; 0 where there is none."""
        first, count = self.top // self.patch_size * self.grid[1], math.prod(self.grid)
        return _filled(values[first : first + count], count)


def _filled(values: np.ndarray, count: int) -> np.ndarray:
    """`count` values, zeros behind the given ones."""
    return np.concatenate([values, np.zeros((count - len(values), *values.shape[1:]), values.dtype)])


def _windows(
    strips: Sequence[Strip], patch_size: int, image_size: tuple[int, int], extent: tuple[int, int]
) -> list[_Window]:
    """The windows of strips that begin at whole patches, in an image of which only an extent is there."""
    rows = max(patch_grid((bottom - top, 1), patch_size)[0] for _, (top, bottom) in strips)
    size = (rows * patch_size, image_size[1])
    there = [np.array([np.clip(extent[0] - top, 0, size[0]), extent[1]], np.int32) for _, (top, _) in strips]
    return [_Window(top, size, inside, own, patch_size) for (own, (top, _)), inside in zip(strips, there, strict=True)]


def _gathered(
    windows: Sequence[_Window], look: Callable[[_Window], jax.Array], tell: Steps = lambda done: None
) -> Shaped[np.ndarray, "n ..."]:
    """What `look` says of the patches of all windows, each of its own."""
    parts = []
    for i, window in enumerate(windows):
        parts.append(np.asarray(look(window))[window.own_patches])
        tell(i + 1)
    return np.concatenate(parts)


def _errors_in(turn: Turn, image: np.ndarray, rendered: np.ndarray, window: _Window) -> Float[jax.Array, " m"]:
    patch_size, control = window.patch_size, turn.control
    return _errors(window.of(image), window.of(rendered), control, window.extent, patch_size=patch_size)


def _raw_in(turn: Turn, image: np.ndarray, rendered: np.ndarray, window: _Window) -> Float[jax.Array, "m k"]:
    residual, step = window.of(image) - window.of(rendered), turn.control.color_step
    return _raw(turn.stage, turn.params, residual, step, window.extent)


def _placed_in(
    turn: Turn, raw: np.ndarray, active: np.ndarray, codes: Any, window: _Window
) -> tuple[Gaussians2D, Gaussians2D]:
    """The Gaussians that a window sees, and those to draw there."""
    raw, active = window.of_patches(raw), window.of_patches(active)
    return _placed(turn.stage, raw, active, codes, turn.control.color_step, np.float32(window.top), grid=window.grid)


def _mean_votes(
    raw: Float[np.ndarray, "n k"], grid: tuple[int, int], inside: tuple[int, int]
) -> Float[np.ndarray, " v"]:
    """Mean over the patches of the image, (rows, columns) of a grid."""
    votes = raw.reshape(*grid, -1)[: inside[0], : inside[1], RAW_ROWS:]
    return votes.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)


_chosen = kept()(chosen_patches)
_codes = kept(static_argnames="stage")(codes_of)


@kept(static_argnames="patch_size")
def _errors(image, rendered, control, extent, *, patch_size):
    return asking_errors(image, rendered, patch_size=patch_size, control=control, extent=extent)


@kept(static_argnames="stage")
def _raw(stage, params, residual, color_step, extent):
    return predict_stage(stage, params, residual, quality=quality_inputs(color_step), extent=extent)


@kept(static_argnames=("stage", "grid"))
def _placed(stage, raw, active, codes, color_step, top, *, grid):
    """Gaussians in the coordinates of the image, and those to draw in those of a window."""
    size, shift = stage.patch_map.patch_size, jnp.stack([jnp.zeros_like(top), top])[None]
    centers = patch_centers(grid, size, raw.dtype) + shift
    gaussians, drawn, _ = rounded(stage, raw, centers, active, codes, color_step)
    return gaussians, replace(drawn, means=drawn.means - shift)
