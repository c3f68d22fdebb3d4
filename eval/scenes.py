"""Refinement curves of scenes: PSNR and SSIM of views that nobody has seen, over steps and over seconds.

From the predictions of several sets of weights, and from scratch. All of them see the same views of the same scenes
and are refined by the same optimiser. Differences are paired scene by scene.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes
from airjax.gaussians import Gaussians3D
from airjax.metrics import psnr, ssim, to_8bit
from airjax.raster.tiles import Capacity
from airjax.scene.cameras import Camera
from airjax.scene.files.photographs import load as load_scene
from airjax.scene.model import Model
from airjax.scene.model import load as load_model
from airjax.scene.procedural import random_views
from airjax.scene.reconstruct import prepare
from airjax.scene.render import render
from airjax.scene.task import RATES, Coordinates, State, advance, start_state
from airjax.scene.triangulate import triangulate
from eval.refinement import plot
from eval.report import environment, format_table, number, remembered, write_json
from eval.scene.baseline import at_points, random_points
from train.scene.experiment import SceneData, texture_atlas

SCRATCH = "scratch"  # instead of a weights file
FIRST_SEED = 1_000_000  # of the procedural test scenes; their textures are of photographs kept out of training


class SceneStart(NamedTuple):
    """Where a refinement begins, and how fast it goes.

    Fields:
      name: for the reports.
      files: weights files, one per training seed; "" is the shipped model, `SCRATCH` a start without one.
      rates: of `airjax.scene.task`; None for those of each file.
    """

    name: str
    files: tuple[str, ...]
    rates: Coordinates | None = None


@dataclass(frozen=True)
class SceneRefinement:
    """What to measure.

    Fields:
      name, description: of the evaluation, for the reports.
      starts: the first is what the others are compared with.
      folders: of real scenes; empty for procedural ones.
      photographs: whose textures procedural scenes have; None for coloured noise.
      num_scenes: of procedural scenes.
      image_size: (h, w) pixels of procedural views.
      context, targets: views that are given, and views that are judged, of a procedural scene.
      views, predict_size, max_size: as `airjax reconstruct` has them, of a real scene.
      capacity: (pairs, chunks) of the renderer's lists to begin with, so that one program serves all scenes; None to
        plan those of each scene.
      steps: numbers of refinement steps, increasing, the first is 0.
      seconds: of refinement on this machine, increasing; may be empty.
      compared: of the steps, where differences are printed.
      limit: only the first scenes; None for all.
    """

    name: str
    description: str
    starts: tuple[SceneStart, ...]
    folders: tuple[str, ...] = ()
    photographs: str | None = "../shared/data/photos_train"
    num_scenes: int = 64
    image_size: tuple[int, int] = (64, 64)
    context: int = 2
    targets: int = 2
    views: int = 8
    predict_size: int = 128
    max_size: int = 256
    capacity: tuple[int, int] | None = None
    steps: tuple[int, ...] = (0, 5, 10, 20, 50, 100, 128, 200)
    seconds: tuple[float, ...] = ()
    compared: tuple[int, ...] = (0, 50, 200)
    limit: int | None = None

    def __post_init__(self):
        for name, values in (("steps", self.steps), ("seconds", (0, *self.seconds))):
            if not values or values[0] != 0 or list(values) != sorted(set(values)):
                raise AirjaxError(f"{name}: expected increasing numbers, steps from 0 on, got {values}")
        if not set(self.compared) <= set(self.steps):
            raise AirjaxError(f"compared: expected some of {self.steps}, got {self.compared}")
        if not self.starts or len({len(start.files) for start in self.starts}) > 1 or not self.starts[0].files:
            raise AirjaxError("starts: expected some with the same number of files each, at least one")


class Task(NamedTuple):
    """One scene: what is given, and what is judged.

    Fields:
      name: for the reports.
      images, cameras: (v, h, w, 3), a stack of v, given.
      small: the same as the predictor sees them, perhaps of fewer pixels: (images, cameras).
      near, far: depths, world units.
      sets: see `airjax.scene.predictor.predict`.
      background: (3,).
      empty: pixels of `small` where it is known to be seen; None where that is not known.
      judged_images, judged_cameras: kept back.
      points, colors: (p, 3) where a start from scratch begins.
    """

    name: str
    images: np.ndarray
    cameras: Camera
    small: tuple[np.ndarray, Camera]
    near: float
    far: float
    sets: np.ndarray | None
    background: np.ndarray
    empty: np.ndarray | None
    judged_images: np.ndarray
    judged_cameras: Camera
    points: np.ndarray
    colors: np.ndarray


class Curve(NamedTuple):
    """One scene from one start: the number of Gaussians, and PSNR in dB and SSIM of 8-bit images, means over views."""

    num_gaussians: int
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    psnr_by_seconds: tuple[float, ...]


# --- scenes ----------------------------------------------------------------------------------------------------------


def tasks(config: SceneRefinement) -> Iterator[Task]:
    """The scenes of an evaluation, one after the other; always the same."""
    if config.folders:
        yield from (_real(folder, config) for folder in config.folders[: config.limit])
        return
    atlas = texture_atlas(SceneData(photographs=config.photographs), test=True)
    atlas = jnp.asarray(atlas, jnp.float32) / 255
    options = {"image_size": config.image_size, "num_views": config.context + config.targets}
    for i in range(config.num_scenes)[: config.limit]:
        made = jax.tree.map(np.asarray, _random_views(jax.random.key(FIRST_SEED + i), atlas, **options))
        given, judged = slice(None, config.context), slice(config.context, None)
        images, cameras, bounds = made.images[given], made.cameras[given], (float(made.near), float(made.far))
        count = 2 * config.image_size[0] * config.image_size[1]
        scattered = random_points(np.random.default_rng(i), images, cameras, *bounds, count)
        black = np.zeros(3, np.float32)
        parts = made.images[judged], made.cameras[judged], *scattered
        yield Task(f"{FIRST_SEED + i}", images, cameras, (images, cameras), *bounds, None, black, None, *parts)


_random_views = partial(jax.jit, static_argnames=("image_size", "num_views"))(random_views)


def _real(folder: str, config: SceneRefinement) -> Task:
    """As `airjax reconstruct` prepares a scene; a start from scratch has triangulated points."""
    task = prepare(load_scene(folder, max_size=config.max_size), views=config.views, predict_size=config.predict_size)
    given, small, (near, far, found, _) = task.given, task.small, task.bounds
    found = found or triangulate(given.images, given.cameras, source=folder)
    views = given.images, given.cameras, (small.images, small.cameras)
    parts = task.held_out.images, task.held_out.cameras, found.points, found.colors
    return Task(Path(folder).name, *views, near, far, task.sets, given.background, small.empty, *parts)


# --- curves ----------------------------------------------------------------------------------------------------------


def measure(model: Model | None, rates: Coordinates, task: Task, config: SceneRefinement) -> Curve:
    """Refines a prediction, or a start from scratch for `model` None, and looks at it on the way."""

    def begin() -> Gaussians3D:
        if model is None:
            return at_points(task.points, task.colors)
        return model.predict(*task.small, task.near, task.far, sets=task.sets, empty=task.empty)

    images, cameras = jnp.asarray(task.images), jax.tree.map(jnp.asarray, task.cameras)
    capacity = Capacity(*config.capacity) if config.capacity else None

    def first_state(start: Gaussians3D) -> State:
        return start_state(start, unit=task.near)._replace(capacity=capacity)

    def go_on(state: State, num_steps: int) -> State:
        options = {"background": task.background, "rates": rates}
        return jax.block_until_ready(advance(state, images, cameras, num_steps=num_steps, **options))

    start = begin()
    state, scores, timed = first_state(start), [], []
    for step in config.steps:
        while state.step < step:
            state = go_on(state, min(10, step - state.step))
        scores.append(_score(state, task))
    for _ in range(2 if config.seconds else 0):  # the first time compiles what the second one measures
        timed, (start, spent) = [], _timed(begin)
        state = first_state(start)
        for mark in config.seconds:
            while spent < mark:
                state, taken = _timed(lambda state=state: go_on(state, 10))
                spent += taken
            timed.append(_score(state, task)[0])  # the clock stands still for it
    return Curve(len(start.means), *map(tuple, zip(*scores, strict=True)), tuple(timed))


def _timed(work):
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin


def _score(state: State, task: Task) -> tuple[float, float]:
    """Means over the views kept back."""
    size, gaussians = task.judged_images.shape[1:3], state.gaussians
    options = {"image_size": size, "background": task.background}
    found = []
    for i, image in enumerate(task.judged_images):
        camera = task.judged_cameras[i]
        view = None if state.capacity is None else _draw(gaussians, camera, capacity=state.capacity, **options)
        if view is None or view.overflow:
            view = render(gaussians, camera, **options)
        found.append(_similarity(image, view.image))
    return tuple(np.mean(found, axis=0).tolist())


_draw = jax.jit(render, static_argnames=("image_size", "capacity"))


@jax.jit
def _similarity(image, drawn):
    drawn = to_8bit(drawn)
    return psnr(image, drawn), ssim(image, drawn)


# --- report ----------------------------------------------------------------------------------------------------------


def summary(config: SceneRefinement, curves: np.ndarray) -> dict:
    """Means over seeds and scenes; differences paired by scene, with their standard error over the scenes.

    Args:
      curves: (starts, seeds, scenes, steps) PSNR.
    """
    by_scene = curves.mean(axis=1)
    difference = by_scene - by_scene[:1]
    count = curves.shape[2]
    error = difference.std(axis=1, ddof=1) / math.sqrt(count) if count > 1 else np.full_like(difference[:, 0], np.nan)
    mean = by_scene.mean(axis=1)
    reach = [_reach(config.steps, row, mean[0, -1]) for row in mean]

    def named(rows) -> dict:
        return {start.name: row for start, row in zip(config.starts, rows, strict=True)}

    return {
        "steps": list(config.steps),
        "psnr": named(mean.tolist()),
        "difference": named(difference.mean(axis=1).tolist()),
        "difference_error": named(error.tolist()),
        "per_seed": named(curves.mean(axis=2).tolist()),
        "steps_to_reach": named(reach),
    }


def _reach(steps, mean, level: float) -> float | None:
    """The step at which a curve first reaches a level, linear between two points; None for never."""
    later = np.flatnonzero(mean >= level)
    if not len(later):
        return None
    i = later[0]
    if i == 0:
        return 0.0
    return float(np.interp(level, [mean[i - 1], mean[i]], [steps[i - 1], steps[i]]))


def table(config: SceneRefinement, report: dict) -> str:
    """PSNR after so many steps and seconds, and differences from the first start."""
    rows = [[name, *(number(value, 2) for value in row)] for name, row in report["psnr"].items()]
    parts = ["PSNR of held-out views, dB, after so many steps"]
    parts += [format_table(["start", *map(str, config.steps)], rows), ""]
    rows = [[name, *(number(value, 4) for value in row)] for name, row in report["ssim"].items()]
    parts += ["SSIM", format_table(["start", *map(str, config.steps)], rows), ""]
    if config.seconds:
        rows = [[name, *(number(value, 2) for value in row)] for name, row in report["psnr_by_seconds"].items()]
        head = ["start", *(f"{mark:g} s" for mark in config.seconds)]
        parts += ["PSNR, dB, after so many seconds, the prediction counted", format_table(head, rows), ""]
    first, places, rows = config.starts[0].name, [config.steps.index(step) for step in config.compared], []
    for name in list(report["psnr"])[1:]:
        gain, error, reach = (report[key][name] for key in ("difference", "difference_error", "steps_to_reach"))
        cells = [f"{gain[i]:+.3f} +- {error[i]:.3f}" for i in places]
        rows.append([name, *cells, "-" if reach is None else f"{reach:.0f}"])
    if rows:
        head = ["start", *(f"at {step}" for step in config.compared), f"steps to {first}@{config.steps[-1]}"]
        parts += [f"minus {first}, dB, mean and standard error over the scenes", format_table(head, rows)]
    return "\n".join(parts)


def run(config: SceneRefinement, weights: Path | None, out: Path) -> int:
    """Measures all starts on all scenes, prints tables, writes `scenes.json` and `scenes.png`.

    What was measured before is kept in `out/curves` and not measured again: an interrupted run goes on.

    Returns:
      0: every scene must be there.

    Raises:
      AirjaxError: no such weights, or a scene that cannot be loaded; `weights` given, since the configuration says
        which.
    """
    if weights is not None:
        raise AirjaxError("--weights: not an option of scene refinement, whose configuration names the weights")
    models = [[None if f == SCRATCH else load_model(f or None) for f in start.files] for start in config.starts]
    total = len(config.folders) or config.num_scenes
    total = min(total, config.limit or total)
    count = sum(map(len, models))
    print(f"{config.description}: {total} scenes, {count} starts, {config.steps[-1]} steps")
    names, curves = [], []
    with tqdm(total=total * count, unit="curve", disable=None) as progress:
        for task in tasks(config):
            names.append(task.name)
            curves.append([])
            for start, row in zip(config.starts, models, strict=True):
                curves[-1].append([])
                for model in row:
                    curves[-1][-1].append(_remembered(model, _rates(start, model), task, config, out))
                    progress.update()

    def values(field: str) -> np.ndarray:
        return np.moveaxis(np.array([[[getattr(c, field) for c in row] for row in rows] for rows in curves]), 0, 2)

    def means(field: str) -> dict:
        return {s.name: row for s, row in zip(config.starts, values(field).mean(axis=(1, 2)).tolist(), strict=True)}

    report = {
        "description": config.description,
        "weights": {
            s.name: [SCRATCH if m is None else m.name for m in row]
            for s, row in zip(config.starts, models, strict=True)
        },
        "rates": {
            s.name: [_rates(s, model)._asdict() for model in row] for s, row in zip(config.starts, models, strict=True)
        },
        **summary(config, values("psnr")),
        "ssim": means("ssim"),
        "seconds": list(config.seconds),
        "psnr_by_seconds": means("psnr_by_seconds") if config.seconds else {},
        "num_gaussians": means("num_gaussians"),
        "per_scene": {s.name: values("psnr")[i].mean(axis=0).tolist() for i, s in enumerate(config.starts)},
        "per_scene_by_seconds": {
            s.name: values("psnr_by_seconds")[i].mean(axis=0).tolist() for i, s in enumerate(config.starts)
        },
        "scenes": names,
        "environment": environment(),
    }
    write_json(out / "scenes.json", report)
    atomic_write_bytes(out / "scenes.png", plot(config, report))
    print(table(config, report))
    print(f"report: {out / 'scenes.json'}")
    return 0


def _rates(start: SceneStart, model: Model | None) -> Coordinates:
    """Those of the start, of the weights, or of 3DGS."""
    return start.rates or (RATES if model is None else model.rates)


def _remembered(model: Model | None, rates: Coordinates, task: Task, config: SceneRefinement, out: Path) -> Curve:
    """`measure`, or what it gave before for the same scene, weights and settings."""
    arrays = task.images, task.cameras, task.small, task.points, None if model is None else model.params
    settings = config.steps, config.seconds, rates, task.near, task.far, task.sets
    work = partial(measure, model, rates, task, config)
    return remembered(work, Curve, out / "curves", arrays=arrays, settings=settings)
