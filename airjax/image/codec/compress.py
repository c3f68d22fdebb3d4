"""A photograph to the integers of a compact file, for a quality or for a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from airjax.arrays import size_of
from airjax.errors import AirjaxError
from airjax.gaussians import CUTOFF_RADIUS, Gaussians2D, join, pad, take
from airjax.image.canvas import without_canvas
from airjax.image.codec.base import base_of
from airjax.image.codec.descent import descend
from airjax.image.codec.payload import MAX_PATCHES, Origin, Quantised
from airjax.image.codec.places import Layout, places_at
from airjax.image.codec.quantise import (
    CODE_RANGE,
    NUM_CODES,
    WIDTHS,
    Rows,
    amplitudes_of,
    dequantise,
    quantise,
)
from airjax.image.codec.rate_task import RateTask, slope_of
from airjax.image.color_solve import drawn, moved, solve
from airjax.image.defaults import EFFORT, EFFORT_RANGE, QUALITY, QUALITY_RANGE, SOLVE_STEPS
from airjax.image.model import Model, checked_image, checked_stages
from airjax.image.prediction import predict_stages
from airjax.image.stages import StageConfig, stage_control_of
from airjax.image.strips import Strip, by_strips, strips_of
from airjax.image.task import Coordinates
from airjax.inner.task import HEADROOMS, run
from airjax.progress import Count, Progress, Steps, counted, steps_of, unwatched
from airjax.raster.draw import TILE_SIZE, slots_for
from airjax.raster.tiles import patch_grid, tiled

# Bin width of the luma at quality 0, and how many points of quality halve it.
_COARSEST_STEP, _HALVING = 0.36, 18.0
# A patch asks for a Gaussian above this mean squared error, in squared bin widths.
_MSE_PER_STEP = 0.1
_FINER_ANGLES = 16  # codes, two octaves: refined Gaussians are longer, and where they point matters more
_ROUNDS = 2  # of solving colours on the rounded geometry and rounding again


def color_step_of(quality: float) -> float:
    """Bin width of the luma for a quality of 0 to 100, in intensity times pixels."""
    if not QUALITY_RANGE[0] <= quality <= QUALITY_RANGE[1]:
        raise ValueError(f"quality: expected a number from 0 to 100, got {quality}")
    return _COARSEST_STEP * 2.0 ** (-quality / _HALVING)


def mse_threshold_of(quality: float) -> float:
    """Mean squared error above which a patch gets a Gaussian, for a quality of 0 to 100."""
    return _MSE_PER_STEP * color_step_of(quality) ** 2


class Effort(NamedTuple):
    """What is done after a prediction, to make a smaller file or a better one."""

    steps: int  # of the refinement (`airjax.image.codec.rate_task`)
    sweeps: int  # of the descent on integers (`airjax.image.codec.descent`)


# By number, each up to twice the work of the one before. A step is worth more than a sweep until there are tens.
EFFORTS = (
    Effort(0, 0),
    Effort(5, 0),
    Effort(10, 0),
    Effort(20, 0),
    Effort(40, 4),
    Effort(80, 12),
    Effort(120, 30),
    Effort(240, 60),
    Effort(400, 100),
    Effort(600, 160),
)
assert len(EFFORTS) == EFFORT_RANGE[1] + 1


@dataclass(frozen=True)
class CompressOptions:
    """What a compact file is made for; what is not explained here is as in `airjax.image.model.Model.encode`.

    Fields:
      quality: 0 to 100; sets the bin widths and, with them, where a Gaussian is worth its bits.
      mse_threshold: see `airjax.image.stages.StageControl`; None for what fits the quality.
      ssim_threshold: the same; above 1 it asks for nothing.
      solve_steps: conjugate-gradient steps on the colours in each round; 0 keeps the predicted ones.
      effort: 0 to 9; 0 for one pass, else a refinement for few bits and a descent on integers.
      refine_steps: steps of that refinement; None for those of the effort.
    """

    quality: float = QUALITY
    num_stages: int | None = None
    max_gaussians: int | None = None
    mse_threshold: float | None = None
    ssim_threshold: float = 2.0
    solve_steps: int = SOLVE_STEPS
    effort: int = EFFORT
    refine_steps: int | None = None

    @property
    def work(self) -> Effort:
        """Steps and sweeps; steps asked for bring the sweeps of as great an effort. Raises ValueError: out of range."""
        if not EFFORT_RANGE[0] <= self.effort <= EFFORT_RANGE[1]:
            raise ValueError(f"effort: expected a number from 0 to 9, got {self.effort}")
        work = EFFORTS[self.effort]
        if self.refine_steps is None:
            return work
        sweeps = work.sweeps or next((e.sweeps for e in EFFORTS if e.steps >= self.refine_steps), EFFORTS[-1].sweeps)
        return Effort(self.refine_steps, sweeps if self.refine_steps else work.sweeps)


def compress(
    model: Model, image: np.ndarray, options: CompressOptions = CompressOptions(), *, progress: Progress = unwatched
) -> Quantised:
    """One photograph to quantised rows: all stages, each seeing what rounding left over, then colours and rounding.

    With the geometry rounded, the colours are solved for it (`airjax.image.color_solve`) and rounded themselves; since
    what a row's colour is rounded to decides how finely its geometry is, the two are done twice. A model without a
    quantiser gets the default bin widths. Image, `progress` and errors: see `airjax.image.model.Model.encode`.
    """
    return _compress(model, image, options, progress)[0]


def compress_and_source(
    model: Model, image: np.ndarray, options: CompressOptions = CompressOptions()
) -> tuple[Quantised, Gaussians2D]:
    """As `compress`, and the rows of the result before rounding, their colours solved as often."""
    quantised, sources = _compress(model, image, options, unwatched)
    source = join(sources)
    if not (options.solve_steps and source.num_slots):
        return quantised, source
    return quantised, solve(source, checked_image(image), num_steps=_ROUNDS * options.solve_steps)


def _compress(
    model: Model, image: np.ndarray, options: CompressOptions, progress: Progress
) -> tuple[Quantised, list[Gaussians2D]]:
    """The result of `compress`, and the rows of its stages before they were rounded last."""
    image, image_size = checked_image(image), size_of(image)
    base, below = _base(image, options)
    image = model.canvas_of(image - drawn(join(below), image_size) if below else image)
    stages = _predict(model, image, image_size, options, counted(progress, "predict"))
    rows = [stage.quantise() for stage in stages]
    slope, work = slope_of(color_step_of(options.quality)), options.work
    if work.steps:
        stages = _refine(
            stages, image, model.rates, slope=slope, num_steps=work.steps, progress=counted(progress, "refine")
        )
        rows = [stage.quantise() for stage in stages]
    num_slots = sum(len(kept.patches) for kept in rows)  # in all rounds: fewer would be other programs
    for _ in range(_ROUNDS if options.solve_steps else 0):
        stages = [stage.keep(kept) for stage, kept in zip(stages, rows, strict=True)]
        stored = [dequantise(kept, columns=stage.columns) for stage, kept in zip(stages, rows, strict=True)]
        watch = counted(progress, "colors")
        colors = _solve_colors(stored, image, num_slots=num_slots, num_steps=options.solve_steps, progress=watch)
        recolored = [amplitudes_of(s.with_colors(c)) for s, c in zip(stored, colors, strict=True)]
        stages = [replace(stage, amplitudes=a) for stage, a in zip(stages, recolored, strict=True)]
        rows = [stage.quantise() for stage in stages]
    if work.sweeps:
        rows = _descend(rows, image, slope=slope, num_sweeps=work.sweeps, progress=counted(progress, "round"))
    effort = next((number for number, one in enumerate(EFFORTS) if one == work), None)
    weights = model.name.replace(".safetensors", "")
    stages = [stage.keep(kept) for stage, kept in zip(stages, rows, strict=True)]
    rows = [_off_canvas(stage, image.shape[:2], image_size) for stage in rows]
    origin = Origin(options.quality, effort, weights)
    return Quantised((*base, *rows), image_size, origin), [*below, *(stage.gaussians for stage in stages)]


def _base(image: np.ndarray, options: CompressOptions) -> tuple[list[Rows], list[Gaussians2D]]:
    """The stage before all others and what it shows, both empty where it would not pay or may not be."""
    if options.num_stages is not None or options.max_gaussians is not None:
        return [], []
    rows = base_of(image, color_step=color_step_of(options.quality))
    if rows is None:
        return [], []
    return [rows], [dequantise(rows, columns=patch_grid(size_of(image), rows.patch_size)[1])]


def _threshold(options: CompressOptions) -> float:
    """Mean squared error above which a patch gets a Gaussian."""
    return mse_threshold_of(options.quality) if options.mse_threshold is None else options.mse_threshold


def _predict(
    model: Model, image: np.ndarray, image_size: tuple[int, int], options: CompressOptions, progress: Count
) -> list[_Stage]:
    """The active slots of every stage, before rounding."""
    limits = options.num_stages, options.max_gaussians, options.solve_steps, options.work.steps
    configs = _storable(checked_stages(model, *limits), image_size)
    limit = math.inf if options.max_gaussians is None else options.max_gaussians
    control = stage_control_of(_threshold(options), options.ssim_threshold, limit)
    control = control._replace(color_step=np.asarray(color_step_of(options.quality), np.float32))
    predicted = predict_stages(configs, model.params, image, control, progress)
    finer = np.zeros(NUM_CODES)
    finer[WIDTHS.index("angle")] = _FINER_ANGLES if options.work.steps else 0
    return [
        _Stage.of(gaussians, codes - finer, config, size_of(image))
        for (gaussians, codes), config in zip(predicted, configs, strict=False)
    ]


def _storable(configs: Sequence[StageConfig], image_size: tuple[int, int]) -> tuple[StageConfig, ...]:
    """The stages whose patches a file can number; an AirjaxError where one of the model's own has more."""
    held = []
    for config in configs:
        count = math.prod(patch_grid(image_size, config.patch_map.patch_size))
        if count <= MAX_PATCHES:
            held.append(config)
        elif not config.least:
            size = f"{image_size[1]}x{image_size[0]}"
            raise AirjaxError(f"image: expected at most {MAX_PATCHES} patches, got {count} in {size}; make it smaller")
    return tuple(held)


def _off_canvas(rows: Rows, canvas: tuple[int, int], image_size: tuple[int, int]) -> Rows:
    """Rows whose patches are numbered in the grid of the image, not of its canvas."""
    (_, across), (_, columns) = (patch_grid(size, rows.patch_size) for size in (canvas, image_size))
    return replace(rows, patches=rows.patches // across * columns + rows.patches % across)


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
    def of(cls, gaussians: Gaussians2D, codes: np.ndarray, config: StageConfig, image_size: tuple[int, int]) -> _Stage:
        """The active slots of a stage."""
        patches = np.flatnonzero(gaussians.active)
        gaussians = take(gaussians, patches)
        size = config.patch_map.patch_size
        codes = np.clip(np.rint(codes), *CODE_RANGE).astype(np.int64)
        return cls(gaussians, patches, amplitudes_of(gaussians), codes, size, patch_grid(image_size, size)[1])

    def quantise(self) -> Rows:
        """Its integers, without the rows that rounding drops."""
        size, columns = self.patch_size, self.columns
        return quantise(
            self.gaussians, self.patches, self.amplitudes, codes=self.codes, patch_size=size, columns=columns
        )

    def within(self, strip: Strip) -> _Stage:
        """Its part in a strip, in the coordinates of the strip's window."""
        part, patches = strip.within(self.patches, self.patch_size, self.columns)
        gaussians = moved(take(self.gaussians, part), -strip.window[0])
        return replace(self, gaussians=gaussians, patches=patches, amplitudes=self.amplitudes[part])

    @classmethod
    def joined(cls, parts: Sequence[_Stage], strips: Sequence[Strip]) -> _Stage:
        """What `within` took apart."""
        pairs = list(zip(parts, strips, strict=True))
        gaussians = join([moved(part.gaussians, strip.window[0]) for part, strip in pairs])
        patches = np.concatenate([strip.beyond(part.patches, part.patch_size, part.columns) for part, strip in pairs])
        amplitudes = np.concatenate([part.amplitudes for part in parts])
        return replace(parts[0], gaussians=gaussians, patches=patches, amplitudes=amplitudes)

    def keep(self, rows: Rows) -> _Stage:
        """Without the rows that rounding dropped."""
        index = np.searchsorted(self.patches, rows.patches)
        gaussians, amplitudes = take(self.gaussians, index), self.amplitudes[index]
        return replace(self, gaussians=gaussians, patches=rows.patches, amplitudes=amplitudes)


def _refine(
    stages: list[_Stage],
    image: np.ndarray,
    rates: Coordinates,
    *,
    slope: float,
    num_steps: int,
    progress: Count,
) -> list[_Stage]:
    """All stages refined together for few bits; every Gaussian stays in its stage and with its patch."""
    strips = _strips(image, [stage.patch_size for stage in stages], [stage.gaussians for stage in stages])
    parts = [[stage.within(strip) for stage in stages] for strip in strips]

    def work(part: list[_Stage], target: np.ndarray) -> list[_Stage]:
        return _refine_window(part, target, rates, slope=slope, num_steps=num_steps, progress=told())

    told = _in_turns(progress, len(strips), num_steps)
    refined = by_strips(image, strips, parts, lambda part, size: drawn(join([s.gaussians for s in part]), size), work)
    return [_Stage.joined([*each], strips) for each in zip(*refined, strict=True)]


def _strips(image: np.ndarray, patch_sizes: list[int], sets: list[Gaussians2D]) -> tuple[Strip, ...]:
    """Strips of whole patches of every size."""
    reach = CUTOFF_RADIUS * max((float(np.max(part.scales, initial=0)) for part in sets), default=0.0) + 1
    return strips_of(size_of(image), reach=reach, step=math.lcm(TILE_SIZE, *patch_sizes))


def _in_turns(progress: Count, turns: int, each: int) -> Callable[[], Steps]:
    """For every turn, one after the other, a `progress` that goes on where the last one ended: shares of `each`."""
    begun, tell = iter(range(turns)), steps_of(progress, each)

    def next_turn() -> Steps:
        turn = next(begun)
        return lambda done: tell((turn * each + done) // turns)

    return next_turn


def _refine_window(
    stages: list[_Stage],
    image: np.ndarray,
    rates: Coordinates,
    *,
    slope: float,
    num_steps: int,
    progress: Steps,
) -> list[_Stage]:
    ends = np.cumsum([0, *(stage.gaussians.num_slots for stage in stages)])
    if ends[-1] == 0:
        return stages
    layout = Layout(size_of(image), tuple(stage.patch_size for stage in stages))
    union, image = join([stage.gaussians for stage in stages]), without_canvas(image)
    count = slots_for(union, image_size=size_of(image), headroom=HEADROOMS[0])
    places = places_at([stage.patches for stage in stages], [stage.codes for stage in stages], layout, count=count)
    task = RateTask(tiled(image, TILE_SIZE), rates, places=places, slope=np.asarray(slope, np.float32))
    union = run(task, pad(union, count), num_steps=num_steps, progress=progress)
    assert isinstance(union, Gaussians2D)
    parts = [take(union, slice(a, b)) for a, b in pairwise(ends)]
    pairs = zip(stages, parts, strict=True)
    return [replace(stage, gaussians=part, amplitudes=amplitudes_of(part)) for stage, part in pairs]


def _descend(rows: list[Rows], image: np.ndarray, *, slope: float, num_sweeps: int, progress: Count) -> list[Rows]:
    """`descend`, a large image in strips."""
    columns = [patch_grid(size_of(image), stage.patch_size)[1] for stage in rows]

    def stored(part: list[Rows]) -> list[Gaussians2D]:
        return [dequantise(stage, columns=count) for stage, count in zip(part, columns, strict=True)]

    def within(stage: Rows, count: int, strip: Strip) -> Rows:
        part, patches = strip.within(stage.patches, stage.patch_size, count)
        return replace(stage, patches=patches, symbols=stage.symbols[part])

    def joined(parts: Sequence[Rows], count: int) -> Rows:
        pairs = zip(parts, strips, strict=True)
        patches = np.concatenate([strip.beyond(part.patches, part.patch_size, count) for part, strip in pairs])
        return replace(parts[0], patches=patches, symbols=np.concatenate([part.symbols for part in parts]))

    def work(part: list[Rows], target: np.ndarray) -> list[Rows]:
        tell = told()
        if not any(len(stage.patches) for stage in part):
            return part
        return list(descend(part, target, slope=slope, num_sweeps=num_sweeps, progress=tell))

    strips = _strips(image, [stage.patch_size for stage in rows], stored(rows))
    parts = [[within(stage, count, strip) for stage, count in zip(rows, columns, strict=True)] for strip in strips]
    told = _in_turns(progress, len(strips), num_sweeps)
    swept = by_strips(image, strips, parts, lambda part, size: drawn(join(stored(part)), size), work)
    return [joined(each, count) for each, count in zip(zip(*swept, strict=True), columns, strict=True)]


def _solve_colors(
    stored: list[Gaussians2D], image: np.ndarray, *, num_slots: int, num_steps: int, progress: Count
) -> list[np.ndarray]:
    """The best colours of the geometry of all stages together, per stage; solved as a set of `num_slots`."""
    ends = np.cumsum([part.num_slots for part in stored])
    if ends[-1] == 0:
        return [np.asarray(part.colors) for part in stored]
    solved = solve(pad(join(stored), num_slots), image, num_steps=num_steps, progress=progress)
    return np.split(np.asarray(solved.colors)[: ends[-1]], ends[:-1])
