"""The staged prediction of AIR: each stage sees the residual and adds one Gaussian where a patch still needs one.

Letters: s stages, P patch size, (r, c) patch grid; an image is padded to whole patches, (H, W) = (r P, c P).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from airjax.arrays import AnyArray, size_of
from airjax.gaussians import Gaussians2D, join
from airjax.image.codec.lattice import Lattice, predicted_codes, straight_through
from airjax.image.codec.payload import PATCH_SIZES
from airjax.image.codec.quantise import NUM_CODES
from airjax.image.color_solve import solve_colors
from airjax.image.defaults import MSE_THRESHOLD, SSIM_THRESHOLD
from airjax.image.patches import PatchMap, to_physical
from airjax.metrics import patch_mse, patch_ssim
from airjax.nn.air_stage import (
    NO_QUALITY,
    RAW_ROWS,
    AirnetConfig,
    Network,
    Predictor,
    PredictorConfig,
    apply_in_bands,
    patches_of,
    predictor_of,
)
from airjax.programs import kept
from airjax.raster.additive import draw_patches, render_patches, slot_weights
from airjax.raster.tiles import patch_centers, patch_colors, patch_grid, patch_slots


@dataclass(frozen=True)
class Release:
    """What the released program of AIR does otherwise than its paper, or than airjax; nothing of it by default.

    Fields:
      tile_cap: most Gaussians of a tile of 16 x 16 pixels, the first ones: 256 in the release; None for all.
      tile_bound: whether a Gaussian is left out of tiles beyond 3 standard deviations. This and the cap count for what
        `predict_stages` shows to the next stage; `run_stages`, and pictures of a result, have all Gaussians.
      empty_means_all: whether all patches get a Gaussian where none asks for one.
      replicate_edges: whether a patch that hangs over is judged with the last pixels of the image repeated.
    """

    tile_cap: int | None = None
    tile_bound: bool = False
    empty_means_all: bool = False
    replicate_edges: bool = False

    @property
    def draws_all(self) -> bool:
        """Whether no Gaussian is left out anywhere."""
        return self.tile_cap is None and not self.tile_bound


EXACT = Release()
AS_RELEASED = Release(tile_cap=256, tile_bound=True, empty_means_all=True, replicate_edges=True)


@dataclass(frozen=True)
class StageConfig:
    """One stage: how its raw rows become Gaussians, and the size of its network.

    `least` is the share of its patches that must get a Gaussian: a prediction ends before a stage that would add fewer
    (`predict_stages`). It is 0 for the stages of a training.
    """

    patch_map: PatchMap
    network: Network = field(default_factory=PredictorConfig)
    least: float = 0.0
    release: Release = EXACT


# Of the stages beyond trained ones; below, what they add to an image is not worth the time of their networks.
_LEAST = 0.1


def with_finer(stages: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
    """Stages with others behind them, for images that these leave unfinished: the last once more, and two of half its
    patch size, which see the image enlarged twice. Their weights are those of the last stage.

    A patch size that cannot be halved into one that a file may have adds the first alone, and AIR's own network none.
    """
    last = stages[-1]
    if isinstance(last.network, AirnetConfig):
        return stages
    again = replace(last, least=_LEAST)
    size, patch_map = last.patch_map.patch_size, last.patch_map
    if size % 2 or size // 2 < PATCH_SIZES[0]:
        return (*stages, again)
    half = replace(
        patch_map, patch_size=size // 2, min_scale=patch_map.min_scale / 2, max_scale=patch_map.max_scale / 2
    )
    finer = replace(again, patch_map=half, network=replace(last.network, enlargement=2 * last.network.enlargement))
    return (*stages, again, finer, finer)


class StageControl(NamedTuple):
    """When a patch gets a Gaussian; traced values, so changing them compiles nothing.

    Fields:
      mse_threshold: a patch asks for a Gaussian where its mean squared error is above this,
      ssim_threshold: or where 1 - SSIM over the patch is above this.
      max_gaussians: most Gaussians of the whole image (float, may be inf). What is left is shared evenly among the
        stages to come, and within a stage the patches of largest squared error come first.
      color_step: bin width of the colours of a file (`airjax.image.codec.quantise`): each stage is drawn as the file
        would give it back, and the next one sees what rounding left over. 0 rounds nothing; None leaves the quantiser
        out of the program.
    """

    mse_threshold: Float[AnyArray, ""]
    ssim_threshold: Float[AnyArray, ""]
    max_gaussians: Float[AnyArray, ""]
    color_step: Float[AnyArray, ""] | None = None


def stage_control_of(
    mse_threshold: float = MSE_THRESHOLD, ssim_threshold: float = SSIM_THRESHOLD, max_gaussians: float = float("inf")
) -> StageControl:
    """Stage Control of three plain numbers, without a quantiser."""
    arrays = (np.asarray(number, np.float32) for number in (mse_threshold, ssim_threshold, max_gaussians))
    return StageControl(*arrays)


class Stage(NamedTuple):
    """What one stage added.

    Fields:
      gaussians: one slot per patch of the stage's grid.
      rendered: image after this stage.
      codes, lattice: bin widths given to the quantiser and the rows between their integers; None where it is left out.
    """

    gaussians: Gaussians2D
    rendered: Float[Array, "h w 3"]
    codes: Float[Array, " 6"] | None = None
    lattice: Lattice | None = None


def predictors(stages: tuple[StageConfig, ...]) -> tuple[Predictor, ...]:
    """The init/apply pair of every stage."""
    return tuple(predictor_of(stage.network, stage.patch_map.patch_size) for stage in stages)


def sees_all(stages: tuple[StageConfig, ...]) -> bool:
    """Whether a stage depends on the whole image or its size, so that it can have neither a canvas nor strips."""
    return any(
        stage.network.reach is None or stage.patch_map.stretched_grid or stage.release != EXACT for stage in stages
    )


def init_params(key: jax.Array, stages: tuple[StageConfig, ...]) -> dict[str, Any]:
    """Fresh weights, {"stage0": ..., "stage1": ...}."""
    keys = jax.random.split(key, len(stages))
    return {f"stage{i}": p.init(k) for i, (p, k) in enumerate(zip(predictors(stages), keys, strict=True))}


def pad_to_patches(
    image: Float[AnyArray, "h w c"], patch_size: int, *, mode: str = "constant"
) -> Float[Array, "H W c"]:
    """Zero rows and columns below and to the right, up to whole patches; or others, see `jnp.pad`."""
    rows, columns = patch_grid(size_of(image), patch_size)
    pad = ((0, rows * patch_size - image.shape[0]), (0, columns * patch_size - image.shape[1]), (0, 0))
    return jnp.pad(image, pad, mode=mode)


def predict_stage(
    stage: StageConfig,
    params: Any,
    residual: Float[AnyArray, "h w 3"],
    *,
    quality: Float[AnyArray, " 2"] = NO_QUALITY,
    extent: Int[AnyArray, " 2"] | None = None,
) -> Float[Array, "n k"]:
    """Rows (n, 8 + votes) of one stage for one residual, patches row by row.

    `extent` is the (h, w) of the image where the array is larger, and 0 beyond it: the rows of its patches are those of
    the image alone. A network without a reach has no such `extent`, and no quality.
    """
    size, times = stage.patch_map.patch_size, stage.network.enlargement
    predictor = predictor_of(stage.network, size)
    if predictor.reach is None:
        return predictor.apply(params, jnp.asarray(residual)).reshape(-1, RAW_ROWS)
    image = pad_to_patches(residual, size)
    patches = patches_of(_enlarged(image, times), times * size)
    grid = patch_grid(size_of(residual), size)
    inside = jnp.ones(grid, bool) if extent is None else _inside(grid, size, extent)
    inside = inside[..., None].astype(residual.dtype)
    raw = apply_in_bands(predictor, params, patches * inside, quality, inside)
    return raw.reshape(-1, raw.shape[-1])


def _enlarged(image: Float[Array, "h w c"], times: int) -> Float[Array, "H W c"]:
    """The image enlarged bilinearly; it is 0 beyond its edges."""
    return image if times == 1 else _stretched(_stretched(image, times, 1), times, 0)


def _stretched(image: Float[Array, "h w c"], times: int, axis: int) -> Float[Array, "H W c"]:
    """One axis enlarged. A new pixel lies between two old ones: `jax.image.resize` would multiply by all of a row."""
    side = image.shape[axis]
    padded = jnp.pad(image, [(int(k == axis),) * 2 for k in range(3)])
    parts = []
    for k in range(times):
        share, first = math.modf(1 + (k + 0.5) / times - 0.5)  # of the second pixel; the first, in the padded image
        near, far = (jax.lax.slice_in_dim(padded, int(first) + i, int(first) + i + side, axis=axis) for i in (0, 1))
        parts.append((1 - share) * near + share * far)
    height, width, channels = image.shape
    size = (times * height, width) if axis == 0 else (height, times * width)
    return jnp.stack(parts, axis=axis + 1).reshape(*size, channels)


def _pixels_inside(grid: tuple[int, int], patch_size: int, image_size: tuple[int, int]) -> np.ndarray:
    """(Q, T) 1 at the pixels of every patch that are the image's, else 0; float32."""
    rows, columns = ((np.arange(count * patch_size) < side) for count, side in zip(grid, image_size, strict=True))
    inside = (rows[:, None] & columns[None]).reshape(grid[0], patch_size, grid[1], patch_size)
    return inside.transpose(1, 3, 0, 2).reshape(patch_size**2, -1).astype(np.float32)


def _inside(grid: tuple[int, int], patch_size: int, extent: Int[AnyArray, " 2"]) -> Bool[Array, "r c"]:
    """Which patches hold a pixel of the image."""
    rows, columns = (
        patch_size * jnp.arange(count, dtype=jnp.int32) < side for count, side in zip(grid, extent, strict=True)
    )
    return rows[:, None] & columns[None]


def quality_inputs(color_step: Float[Array, ""] | None) -> Float[Array, " 2"]:
    """What a network with votes is told: whether anything is rounded, and how finely."""
    if color_step is None:
        return jnp.zeros(2)
    rounds = color_step > 0
    octaves = jnp.log2(jnp.where(rounds, color_step, 1.0)) + 5  # about 0 at a middling quality
    return jnp.where(rounds, jnp.stack([jnp.ones_like(octaves), octaves / 3]), 0.0)


def stage_control(
    image: Float[AnyArray, "h w 3"],
    rendered: Float[Array, "h w 3"],
    *,
    patch_size: int,
    control: StageControl,
    stages_left: Float[Array, ""] | int = 1,
    gaussians_left: Float[Array, ""] | None = None,
    extent: Int[AnyArray, " 2"] | None = None,
    release: Release = EXACT,
) -> Bool[Array, " n"]:
    """Which patches, row by row, get a Gaussian (AIR section 3.3): none where none asks. Nothing is differentiated.

    `stages_left` are this stage and those after it, `gaussians_left` what is left of control.max_gaussians (default:
    all); `extent` is that of `airjax.metrics.patch_mse`.
    """
    options: dict[str, Any] = {"patch_size": patch_size, "control": control, "extent": extent, "release": release}
    errors = asking_errors(image, rendered, **options)
    left = control.max_gaussians if gaussians_left is None else gaussians_left
    return worst_patches(errors, stages_left=stages_left, gaussians_left=left)


def asking_errors(
    image: Float[AnyArray, "h w 3"],
    rendered: Float[AnyArray, "h w 3"],
    *,
    patch_size: int,
    control: StageControl,
    extent: Int[AnyArray, " 2"] | None = None,
    release: Release = EXACT,
) -> Float[Array, " n"]:
    """Mean squared error of every patch that asks for a Gaussian, -inf of the others. Nothing is differentiated."""
    image, rendered = jax.lax.stop_gradient((image, rendered))
    if release.replicate_edges:
        image, rendered = (pad_to_patches(x, patch_size, mode="edge") for x in (image, rendered))
        extent = None  # whatever it is: such a stage has the image alone
    errors = patch_mse(image, rendered, patch_size=patch_size, extent=extent)
    mse, ssim = errors.ravel(), patch_ssim(image, rendered, patch_size=patch_size, extent=extent).ravel()
    asks = (mse > control.mse_threshold) | (1 - ssim > control.ssim_threshold)
    if extent is not None:
        asks = asks & _inside(patch_grid(size_of(image), patch_size), patch_size, extent).ravel()
    if release.empty_means_all:
        asks = asks | ~jnp.any(asks)
    return jnp.where(asks, mse, -jnp.inf)


def worst_patches(
    errors: Float[Array, " n"], *, stages_left: Float[AnyArray, ""] | int, gaussians_left: Float[AnyArray, ""]
) -> Bool[Array, " n"]:
    """Which patches of these `asking_errors` get a Gaussian of a stage's share of what is left."""
    share = jnp.minimum(jnp.ceil(gaussians_left / stages_left), jnp.floor(gaussians_left))
    order = jnp.argsort(-errors)
    rank = jnp.zeros(errors.shape, jnp.float32).at[order].set(jnp.arange(errors.size, dtype=jnp.float32))
    return (errors > -jnp.inf) & (rank < share)


def run_stages(
    stages: tuple[StageConfig, ...],
    params: dict[str, Any],
    image: Float[AnyArray, "h w 3"],
    control: StageControl,
    *,
    skip_idle: bool = False,
) -> tuple[Stage, ...]:
    """All stages on one image; the last `rendered` is the reconstruction.

    They end before one that would add too few Gaussians (`StageConfig.least`): such stages need a concrete image.
    Gradients flow through the residuals into earlier stages. With `skip_idle` a stage in which no patch is active does
    not run its network (a branch at run time: use it outside `vmap` and `grad`; under `vmap` both branches would run).
    """
    rendered, left = jnp.zeros_like(image), control.max_gaussians
    done = []
    for turn in turns_of(stages, params, control):
        gaussians, drawn, quantised, left = run_stage(*turn, image, rendered, left, skip_idle=skip_idle)
        if turn.least and not np.asarray(gaussians.active).any():
            break
        rendered = _draw_stage(turn.stage, drawn, rendered, skip_idle=skip_idle)
        done.append(Stage(gaussians, rendered, **quantised))
    return tuple(done)


class Turn(NamedTuple):
    """What one stage is run with.

    Fields:
      stage: without its least share, so that it shares programs with others of its kind.
      params: its weights; those of its number, or the last ones.
      control: its own.
      stages_left: it and the trained ones after it. The first stage lays the base of every later one, so it may take
        all that the budget holds.
      least: share of its patches below which it adds none, and the prediction ends.
    """

    stage: StageConfig
    params: Any
    control: StageControl
    stages_left: np.float32
    least: np.float32


def turns_of(stages: tuple[StageConfig, ...], params: dict[str, Any], control: StageControl) -> Iterator[Turn]:
    """What every stage is run with, one after the other."""
    trained = sum(not stage.least for stage in stages)
    last = sum(name.startswith("stage") for name in params) - 1
    for i, stage in enumerate(stages):
        stages_left = np.float32(max(trained - i, 1) if i else 1)
        weights, own = params[f"stage{min(i, last)}"], _for_stage(control, stage)
        yield Turn(replace(stage, least=0.0), weights, own, stages_left, np.float32(stage.least))


def _for_stage(control: StageControl, stage: StageConfig) -> StageControl:
    """A row of a file costs as many bits in a patch of a quarter of the pixels, so the error there must be fourfold."""
    if control.color_step is None:
        return control
    return control._replace(mse_threshold=control.mse_threshold * np.float32(stage.network.enlargement**2))


# Jitted although they may not be the outermost call: stages of the same kind are then traced once, not six times.
@kept(static_argnames=("stage", "skip_idle"))
def run_stage(stage, params, control, stages_left, least, image, rendered, left, extent=None, *, skip_idle):
    """The Gaussians of one stage, those to draw, the quantiser's part of a `Stage`, and what is left of the budget.

    The first arguments are those of a `Turn`. `rendered` is the image after the stage before, `left` what the budget
    holds; `extent` as in `predict_stage`. None is active where only a share of the patches below `least` would be.
    """
    size, image_size = stage.patch_map.patch_size, size_of(image)
    errors = asking_errors(image, rendered, patch_size=size, control=control, extent=extent, release=stage.release)
    rows, columns = (jnp.ceil(side / size) for side in (image_size if extent is None else extent))
    active, left = chosen_patches(errors, stages_left, left, least * rows * columns)

    def network(residual):
        return predict_stage(stage, params, residual, quality=quality_inputs(control.color_step), extent=extent)

    def idle(residual):
        return jnp.zeros((active.size, RAW_ROWS + stage.network.votes), residual.dtype)

    residual = image - rendered
    raw = jax.lax.cond(jnp.any(active), network, idle, residual) if skip_idle else network(residual)
    centers = patch_centers(patch_grid(image_size, size), size, image.dtype)
    votes = _mean_votes(raw[:, RAW_ROWS:], size, image_size, extent)
    codes = codes_of(stage, votes, control.color_step)
    gaussians, drawn, lattice = rounded(stage, raw, centers, active, codes, control.color_step, image_size=image_size)
    return gaussians, drawn, {"codes": codes, "lattice": lattice}, left


def chosen_patches(
    errors: Float[Array, " n"],
    stages_left: Float[AnyArray, ""],
    gaussians_left: Float[Array, ""],
    least: Float[AnyArray, ""],
) -> tuple[Bool[Array, " n"], Float[Array, ""]]:
    """`worst_patches`, or none where they are fewer than `least`, and how many Gaussians are left after them."""
    active = worst_patches(errors, stages_left=stages_left, gaussians_left=gaussians_left)
    active = active & (jnp.sum(active, dtype=jnp.float32) >= least)
    return active, gaussians_left - jnp.sum(active, dtype=jnp.float32)


def codes_of(
    stage: StageConfig, votes: Float[AnyArray, " v"], color_step: Float[AnyArray, ""] | None
) -> Float[Array, " 6"] | None:
    """Bin widths of a stage from the mean votes of its patches; None without a quantiser."""
    if color_step is None:
        return None
    votes = jnp.asarray(votes) if stage.network.votes else jnp.zeros(NUM_CODES)
    return predicted_codes(votes, jnp.where(color_step > 0, color_step, 1.0), patch_size=stage.patch_map.patch_size)


def rounded(
    stage: StageConfig,
    raw: Float[Array, "n k"],
    centers: Float[Array, "n 2"],
    active: Bool[AnyArray, " n"],
    codes: Float[AnyArray, " 6"] | None,
    color_step: Float[AnyArray, ""] | None,
    *,
    image_size: tuple[int, int] | None = None,
) -> tuple[Gaussians2D, Gaussians2D, Lattice | None]:
    """The Gaussians of raw rows, those that a file would give back, and where they lie between its integers."""
    gaussians = to_physical(raw[:, :RAW_ROWS], centers, active, stage.patch_map, image_size=image_size)
    if codes is None or color_step is None:
        return gaussians, gaussians, None
    drawn, lattice = straight_through(gaussians, centers, jnp.broadcast_to(codes, (len(centers), NUM_CODES)))
    drawn = jax.tree.map(lambda new, old: jnp.where(color_step > 0, new, old), drawn, gaussians)
    return gaussians, drawn, lattice


def _mean_votes(votes, patch_size, image_size, extent):
    """Mean over the patches of the image."""
    if extent is None:
        return jnp.mean(votes, axis=0)
    inside = _inside(patch_grid(image_size, patch_size), patch_size, extent).reshape(-1, 1)
    return jnp.sum(jnp.where(inside, votes, 0), axis=0) / jnp.sum(inside, dtype=votes.dtype)


@kept(static_argnames=("stage", "skip_idle"))
def _draw_stage(stage, gaussians, rendered, *, skip_idle):
    """`rendered` with the Gaussians of one stage added, by static lists."""
    height, width, _ = rendered.shape
    grid = patch_grid((height, width), stage.patch_map.patch_size)

    def draw(rendered):
        return rendered + render_patches(gaussians, patches=stage.patch_map.layout(grid))[:height, :width]

    if skip_idle:
        return jax.lax.cond(jnp.any(gaussians.active), draw, lambda rendered: rendered, rendered)
    return draw(rendered)


def solve_stages(
    stages: tuple[StageConfig, ...], trace: tuple[Stage, ...], image: Float[Array, "h w 3"], *, num_steps: int
) -> tuple[Stage, ...]:
    """The trace with the colours of all its stages solved together (`airjax.image.color_solve`), through static lists.

    For training: pure, of static shape, differentiable in the geometry, the colours and the image. It stores every
    weight, 4 * (2 rings + 1)^2 bytes per pixel and stage; whole photographs are solved by
    `airjax.image.color_solve.solve`.
    """
    size = size_of(image)
    layouts, weights, norms = [], [], []
    for stage, added in zip(stages, trace, strict=True):
        layout = stage.patch_map.layout(patch_grid(size, stage.patch_map.patch_size))
        weight = slot_weights(patch_slots(added.gaussians, patches=layout), tile_size=layout.size)
        weight = weight * _pixels_inside(layout.shape, layout.size, size)[None]
        # The transpose of handing out the colours adds up what every slot of a Gaussian holds.
        zeros = jnp.zeros((added.gaussians.num_slots, 1), image.dtype)
        _, collect = jax.vjp(partial(patch_colors, patches=layout), zeros)
        norms.append(collect(jnp.sum(jnp.square(weight), axis=1)[:, None])[0][:, 0])
        layouts.append(layout)
        weights.append(weight)
    ends = np.cumsum([0, *(added.gaussians.num_slots for added in trace)])

    def draw_each(colors):
        for a, b, weight, layout in zip(ends[:-1], ends[1:], weights, layouts, strict=True):
            yield draw_patches(weight, colors[a:b], patches=layout)[: size[0], : size[1]]

    def draw(colors):
        return sum(draw_each(colors))

    gaussians = join([added.gaussians for added in trace])
    active, norm = gaussians.active, jnp.concatenate(norms)
    colors = solve_colors(draw, gaussians.colors, image, active=active, norms=norm, num_steps=num_steps)
    rendered, solved = jnp.zeros_like(image), []
    shown = jnp.where(active[:, None], colors, 0.0)
    for a, b, added, drawn in zip(ends[:-1], ends[1:], trace, draw_each(shown), strict=True):
        rendered = rendered + drawn
        solved.append(Stage(added.gaussians.with_colors(colors[a:b]), rendered))
    return tuple(solved)
