"""Photographs with poses to 3D Gaussians: hold out views, find depths, choose views, predict, refine, score.

`reconstruct` does all of it. Each stage is a function of its own: `split_views`, `airjax.scene.bounds.find_bounds`,
`prepare` (these two, and the choice of views), `begin`, `airjax.scene.judgement.judge`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D, join, only_active, pad, take
from airjax.inner.task import run_to
from airjax.progress import Progress
from airjax.scene import view_selection
from airjax.scene.bounds import Bounds, find_bounds
from airjax.scene.cameras import Camera
from airjax.scene.defaults import MAX_SIZE, PER_PIXEL_OF_SIDE, PREDICT_SIZE, REFINE_STEPS, STARTS, VIEWS
from airjax.scene.files.camera_file import Snapshot, origin_comment, to_comment
from airjax.scene.files.photographs import Scene, load, load_unposed
from airjax.scene.files.ply import write_ply
from airjax.scene.files.pose_formats import has_poses
from airjax.scene.floating import Lookouts, floating, lookouts
from airjax.scene.judgement import Judgement, Scores, judge
from airjax.scene.model import Model
from airjax.scene.model import load as load_model
from airjax.scene.pi3 import depths_of
from airjax.scene.points import at_points, points_of
from airjax.scene.surround import surround
from airjax.scene.task import FEW, MANY_VIEWS, POSE_RATE, RATES, Coordinates, MovingCoordinates, SceneTask
from airjax.scene.task import VIEWS as VIEWS_PER_STEP
from airjax.scene.thinning import thinned
from airjax.scene.unposed import Sight, UnposedModel
from airjax.scene.unposed import load as load_finder

_FITTING = 60  # steps for each two held-out views, of which only the cameras move
_BEYOND = 16  # one in so many Gaussians may lie beyond the prediction
SMALLEST = 128  # pixels; views are halved for the first steps of a refinement once, and again down to this


@dataclass(frozen=True)
class Prepared:
    """A scene ready for the predictor."""

    given: Scene  # the views that may be used, at full size
    held_out: Scene  # the views that are kept back to measure with; may be none
    small: Scene  # the given views as the predictor sees them
    bounds: Bounds  # near and far
    sets: Int[np.ndarray, "k m"]  # numbers of given views: those that get Gaussians, each with its source views
    notices: tuple[str, ...]  # lines for the user, beside those of the scene

    def refinement(self, rates: Coordinates, *, exposure: bool = False, moving: bool = False) -> SceneTask:
        """Refinement towards the given views, at these learning rates; `exposure` and `moving` as in `SceneTask`."""
        own = MovingCoordinates(*rates, POSE_RATE) if moving else rates
        height, width = self.given.images.shape[1:3]
        unit = self.bounds.near

        def task(scene: Scene) -> SceneTask:
            views = scene.images, scene.cameras, unit, scene.background
            options = {"masks": scene.masks, "pixels": height * width, "lookouts": self.lookouts}
            return SceneTask(*views, rates=own, exposure=exposure, moving=moving, **options)

        tasks, size = [task(self.given)], max(height, width) // 2
        while len(tasks) == 1 or size >= SMALLEST:
            tasks.append(task(self.given.shrunk(size)))
            size //= 2
        return reduce(lambda coarse, finer: replace(finer, coarse=coarse), reversed(tasks))

    @cached_property
    def lookouts(self) -> Lookouts:
        """From where the scene will be looked at, as far as is known."""
        return lookouts(self.given.cameras, self.bounds.views[:, 0], image_size=self.given.images.shape[1:3])

    @property
    def fitting(self) -> int:
        """A number of Gaussians that shows what views of this size can."""
        return PER_PIXEL_OF_SIDE * max(self.given.images.shape[1:3])


@dataclass(frozen=True)
class Reconstruction:
    """The Gaussians of a scene, and how well they show the views that were held out."""

    gaussians: Gaussians3D  # all of them active; numpy arrays
    names: tuple[str, ...]  # of the given views
    cameras: Camera  # a stack of them, counted from `origin` as the Gaussians are
    num_views: int  # how many of them were turned into Gaussians
    image_size: tuple[int, int]  # (h, w) of the views, pixels
    background: np.ndarray  # (3,) color behind everything
    near: float
    far: float  # near and far bound the depths of the scene, world units
    held_out: Scores  # scores of the views that were held out; empty without such views
    notices: tuple[str, ...]  # lines for the user
    seconds: dict[str, float]  # spent on "prepare", "predict", "refine" and "score", compilation included
    origin: np.ndarray = field(default_factory=lambda: np.zeros(3))  # (3,) float64, that of the scene
    # Share of the Gaussians that lie nearer to a camera than a scene can (`airjax.scene.floating`), in [0, 1].
    near_cameras: float = 0.0
    # (y, x, 3) uint8, a sheet of the held-out views (`airjax.scene.judgement.contact_sheet`); None without any.
    sheet: np.ndarray | None = None

    def __repr__(self) -> str:
        decibels, count = self.held_out.mean_psnr, len(self.held_out.names)
        score = "" if decibels is None else f", PSNR {decibels:.2f} dB of {count} held-out views"
        views = f"{self.num_views} of {len(self.names)} views"
        return f"Reconstruction({self.gaussians.num_slots} Gaussians from {views}{score})"

    @property
    def snapshot(self) -> Snapshot:
        """The view to look at first: that of the camera in the middle."""
        middle = self.cameras[int(view_selection.spread(self.cameras, 1)[0])]
        focus = 2 / (1 / self.near + 1 / self.far)
        return Snapshot(middle, self.image_size, focus, tuple(self.background.tolist()))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the Gaussians as a .ply file, whose header tells `airjax render` where to look from.

        An origin other than 0 is a comment there, too: float32 cannot hold sums with it.
        """
        origin = [origin_comment(self.origin)] if self.origin.any() else []
        write_ply(path, self.gaussians, comments=[to_comment(self.snapshot), *origin])


def reconstruct(
    scene: Scene | str | os.PathLike,
    *,
    model: Model | UnposedModel | None = None,
    start: str = STARTS[0],
    views: int = VIEWS,
    predict_size: int = PREDICT_SIZE,
    most: int | None = None,
    refine_steps: int | None = REFINE_STEPS,
    refine_seconds: float | None = None,
    near: float | None = None,
    far: float | None = None,
    hold_out: int | None = None,
    max_size: int = MAX_SIZE,
    rates: Coordinates | None = None,
    exposure: bool = False,
    score: bool = True,
    progress: Progress = lambda stage, done, total: None,
) -> Reconstruction:
    """Photographs to 3D Gaussians, with poses, or with a model that finds them.

    Args:
      scene: a folder of photographs, or a scene with poses (`photographs.scene_of` makes one of arrays).
      model: the predictor; None for the shipped one, and where the folder has no poses also the shipped one that finds
        them. Of one that needs no poses, those of the scene are not looked at:
        the cameras that it finds move with the refinement, and those of held-out views are moved to fit its result
        before they are compared. If it has no head for Gaussians, the shipped predictor makes them.
      start: "prediction", or "points" to begin with a Gaussian at each point of the scene's files, or at triangulated
        ones, and to refine from there without a model.
      views: photographs that are turned into Gaussians, spread over the scene, >= 1.
      predict_size: longest side of the photographs as the predictor sees them, pixels.
      most: number of Gaussians. A prediction has no more: where the picture is smooth, several become one. Refinement
        may fill it up. None for what shows as much as the photographs do (`Prepared.fitting`).
      refine_steps: gradient steps, each towards two of the given views; None for as many as there is time for.
      refine_seconds: how long refinement may take, seconds; None for no limit.
      near: least depth of the scene, world units; None for that of `find_bounds`.
      far: largest depth, likewise.
      hold_out: every N-th view is held out, 0 for none; None for the marked test views, or every 8th
        (`airjax.scene.view_selection.held_out`).
      max_size: longest side of the photographs, pixels; larger ones are downscaled.
      rates: learning rates of the refinement; None for `airjax.scene.task.MANY_VIEWS`, or for fewer than `FEW` given
        views those of the model.
      exposure: whether refinement compares each photograph at a gain and an offset of its own.
      score: whether the held-out views are rendered and compared.
      progress: called with "search" and how many views were searched for points, of how many; later with "refine" and
        how many steps were done, of how many, or whole seconds where a time is given.

    Raises:
      AirjaxError: no such scene (`airjax.scene.files.photographs.load`), no depths (`find_bounds`), no Gaussians that
        two views agree on, or a refinement that does not stay finite.
      ValueError: `start`, `views`, `most` or `hold_out` out of range; no number of steps and no time.
    """
    if start not in STARTS:
        raise ValueError(f"start: expected one of {', '.join(STARTS)}, got {start!r}")
    if most is not None and most < 1:
        raise ValueError(f"most: expected at least 1, got {most}")
    if not isinstance(scene, Scene):
        scene, model = _opened(Path(scene), model, start, max_size)
    scene = scene.shrunk(max_size)
    seconds: dict[str, float] = {}
    sight = None
    if isinstance(model, UnposedModel):
        with _timed(seconds, "look"):
            sight = model.look(scene)
        scene = sight.scene
    with _timed(seconds, "prepare"):
        task = prepare(
            scene, views=views, predict_size=predict_size, near=near, far=far, hold_out=hold_out, progress=progress
        )
    source = maker(model, sight) if start == STARTS[0] else None
    with _timed(seconds, "predict"):
        gaussians = begin(task, source, most=most, progress=progress)
    if refine_seconds is not None or refine_steps != 0:
        with _timed(seconds, "refine"):
            few = source.rates if isinstance(source, Model) else RATES
            known = MANY_VIEWS if source is None or len(task.given.names) >= FEW else few
            refinement = task.refinement(known if rates is None else rates, exposure=exposure, moving=sight is not None)
            whole = int(refine_seconds) if refine_seconds is not None else refine_steps or 0
            state = run_to(
                refinement,
                gaussians,
                num_steps=refine_steps,
                seconds=refine_seconds,
                progress=lambda done: progress("refine", done, whole),
            )
            gaussians = jax.tree.map(np.asarray, refinement.gaussians(state.coordinates, state.active))
            moved = jax.tree.map(np.asarray, refinement.moved_cameras(state.coordinates))
            task = replace(task, given=replace(task.given, cameras=moved))
    gaussians = only_active(gaussians)
    bounds, judgement = task.bounds, Judgement(Scores(), None)
    with _timed(seconds, "score"):
        if score:
            held_out = task.held_out if sight is None else fitted_cameras(gaussians, task)
            judgement = judge(gaussians, held_out, near=bounds.near, far=bounds.far)
        everywhere = lookouts(scene.cameras, np.full(len(scene.names), bounds.near), image_size=scene.images.shape[1:3])
        fog = floating(gaussians.means, gaussians.scales, everywhere)
    return Reconstruction(
        gaussians,
        task.given.names,
        task.given.cameras,
        len(task.sets),
        task.given.images.shape[1:3],
        task.given.background,
        bounds.near,
        bounds.far,
        judgement.scores,
        (*scene.notices, *task.notices),
        seconds,
        scene.origin,
        float(np.mean(fog)),
        judgement.sheet,
    )


def _opened(
    folder: Path, model: Model | UnposedModel | None, start: str, max_size: int
) -> tuple[Scene, Model | UnposedModel | None]:
    """The photographs of a folder, and the model; one that needs no poses where there are none."""
    if isinstance(model, Model) or start != STARTS[0] or not folder.is_dir() or has_poses(folder):
        return load(folder, max_size=max_size), model
    return load_unposed(folder, max_size=max_size), load_finder() if model is None else model


def maker(model: Model | UnposedModel | None, sight: Sight | None) -> Model | Sight:
    """What makes Gaussians: the head of the model that found the cameras if it has one, else a predictor."""
    if sight is not None and sight.model.head is not None:
        return sight
    return model if isinstance(model, Model) else load_model()


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start


# --- stages ----------------------------------------------------------------------------------------------------------


def prepare(
    scene: Scene,
    *,
    views: int = VIEWS,
    predict_size: int = PREDICT_SIZE,
    near: float | None = None,
    far: float | None = None,
    hold_out: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Prepared:
    """Everything before the prediction; arguments and errors are those of `reconstruct`."""
    if views < 1:
        raise ValueError(f"views: expected at least 1, got {views}")
    given, held_out, notices = split_views(scene, hold_out=hold_out)
    bounds = find_bounds(given, near=near, far=far, progress=partial(progress, "search"))
    chosen = view_selection.spread(given.cameras, views)
    sets = view_selection.comparisons(given.cameras, chosen.tolist(), depths=2 / (1 / bounds.views).sum(axis=1))
    return Prepared(given, held_out, given.shrunk(predict_size), bounds, sets, (*notices, *bounds.notices))


def split_views(scene: Scene, *, hold_out: int | None = None) -> tuple[Scene, Scene, tuple[str, ...]]:
    """(given views, held-out views, lines for the user); see `airjax.scene.view_selection.held_out`."""
    if hold_out is not None and hold_out < 0:
        raise ValueError(f"hold_out: expected 0 or more, got {hold_out}")
    given, held = view_selection.held_out(scene.splits, every=hold_out)
    marked, notices = scene.splits.count("test"), []
    if left_out := len(scene.splits) - len(given) - len(held):
        notices.append(f"{left_out} validation views are neither used nor measured")
    if hold_out is not None and marked:
        instead = f"every view whose number is a multiple of {hold_out}" if hold_out else "no view"
        notices.append(f"{instead} is held out, not the {marked} that the pose file marks as test")
    return scene.take(given), scene.take(held), tuple(notices)


def begin(
    task: Prepared,
    source: Model | Sight | None,
    *,
    most: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Gaussians3D:
    """Where a refinement begins: at what a model predicts, or saw, or at points (`airjax.scene.points`) for None.

    With slots that are not used up to `most`, `Prepared.fitting` for None, which relocations may fill.
    `progress` is that of `reconstruct`.
    """
    most = task.fitting if most is None else most
    if isinstance(source, Sight):
        gaussians = _seen(task, source, most=most)
    elif source is not None:
        room = most // _BEYOND if task.given.alphas is None else 0
        gaussians = predict(source, task, most=most - room)
        gaussians = join([gaussians, _beyond(gaussians, task, most=room)]) if room else gaussians
    else:
        found = points_of(task.given, task.bounds.triangulated, progress=partial(progress, "search"))
        gaussians = at_points(found.points, found.colors)
    return pad(gaussians, max(most, gaussians.num_slots))


def _seen(task: Prepared, sight: Sight, *, most: int) -> Gaussians3D:
    """Gaussians of what was seen in the given views; held-out ones show nothing."""
    seen = sight.seen[np.array([sight.scene.names.index(name) for name in task.given.names])]
    gaussians = sight.model.splats(seen)
    if gaussians.num_slots > most and gaussians.num_slots == math.prod(seen.points.shape[:3]):
        gaussians = only_active(thinned(gaussians, np.asarray(depths_of(seen)), most=most))
    gaussians = take(gaussians, ~np.asarray(floating(gaussians.means, gaussians.scales, task.lookouts)))
    if not gaussians.num_slots:
        raise AirjaxError(f"{task.given.source}: expected photographs of one scene, found nothing that they share")
    return gaussians


def fitted_cameras(gaussians: Gaussians3D, task: Prepared) -> Scene:
    """The held-out views with cameras moved to where they fit the Gaussians best, which stay as they are.

    A refinement that moves cameras moves the world with them: those of other views are off by as much.
    """
    views = task.held_out
    if not views.names:
        return views
    still = MovingCoordinates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, POSE_RATE)
    fit = SceneTask(
        views.images, views.cameras, task.bounds.near, views.background, masks=views.masks, rates=still, moving=True
    )
    state = run_to(fit, gaussians, num_steps=_FITTING * -(-len(views.names) // VIEWS_PER_STEP))
    return replace(views, cameras=jax.tree.map(np.asarray, fit.moved_cameras(state.coordinates)))


def _beyond(gaussians: Gaussians3D, task: Prepared, *, most: int) -> Gaussians3D:
    """What `airjax.scene.surround` adds, at most so many."""
    found = surround(gaussians, task.small, task.bounds.views[:, 1], chosen=task.sets[:, 0])
    found = take(found, ~np.asarray(floating(found.means, found.scales, task.lookouts)))
    if found.num_slots > most:
        found = take(found, np.linspace(0, found.num_slots - 1, most).round().astype(int))
    return found


def predict(model: Model, task: Prepared, *, most: int | None = None) -> Gaussians3D:
    """The Gaussians that a model makes of a prepared scene, at least one; numpy arrays, all of them active.

    At most about `most`, see `airjax.scene.thinning`; None for all.
    """
    small = task.small
    views = small.images, small.cameras, *task.bounds.views.T
    gaussians = model.predict(*views, sets=task.sets, empty=small.empty, masks=small.masks, most=most)
    gaussians = take(gaussians, ~np.asarray(floating(gaussians.means, gaussians.scales, task.lookouts)))
    if not gaussians.num_slots:
        raise AirjaxError(
            f"{small.source}: no Gaussian survived the check of the other views, expected photographs of something "
            f"that two of them share; try more views, or give near and far"
        )
    return gaussians
