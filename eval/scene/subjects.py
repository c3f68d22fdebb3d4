"""Scenes, procedural and real, as subjects of refinement curves and of estimator studies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D
from airjax.metrics import Quality, quality
from airjax.raster.tiles import Capacity
from airjax.scene.cameras import Camera
from airjax.scene.cases import FIRST_SEED, views_of_test_scene
from airjax.scene.defaults import MAX_SIZE, PREDICT_SIZE, VIEWS
from airjax.scene.files.photographs import load as load_scene
from airjax.scene.judgement import judge
from airjax.scene.model import Model, load
from airjax.scene.points import at_points
from airjax.scene.reconstruct import Prepared, begin, prepare
from airjax.scene.render import render
from airjax.scene.task import MANY_VIEWS, RATES, SceneTask, ViewLoss, view_loss
from eval.scene.baseline import random_points
from train.scene.data import SceneData, texture_atlas
from train.settings import where


@dataclass(frozen=True, eq=False)
class SceneSubject:
    """One scene: what is given, and what is judged; see `eval.curves.Subject`."""

    name: str  # for the reports
    # images, cameras: (v, h, w, 3), a stack of v, given
    images: np.ndarray
    cameras: Camera
    # near, far: depths, world units
    near: float
    far: float
    # judged_images, judged_cameras: kept back
    judged_images: np.ndarray
    judged_cameras: Camera
    # points, colors: (p, 3) where a start from scratch begins
    points: np.ndarray
    colors: np.ndarray
    # of the renderer's lists to begin with, so that one program serves all scenes; None to plan it
    capacity: Capacity | None = None
    loss_fn: ViewLoss = view_loss  # the inner loss of a view
    rates = RATES

    @property
    def arrays(self) -> Any:
        """Given views, points and depths."""
        return self.images, self.cameras, self.points, np.array([self.near, self.far])

    def task(self, rates: Any) -> SceneTask:
        """Refinement towards the given views, judged by the others."""
        options = {"rates": rates, "loss_fn": self.loss_fn}
        task = SceneTask(self.images, self.cameras, self.near, np.zeros(3, np.float32), **options)
        return replace(task, target_images=self.judged_images, target_cameras=self.judged_cameras)

    def start(self, model: Model | None) -> Gaussians3D:
        """The prediction, or Gaussians at the points."""
        if model is None:
            return at_points(self.points, self.colors)
        return model.predict(self.images, self.cameras, self.near, self.far)

    def score(self, gaussians: Gaussians3D, capacity: Capacity | None) -> Quality:
        """Means over the views kept back."""
        size, scores = self.judged_images.shape[1:3], []
        for i, image in enumerate(self.judged_images):
            camera = self.judged_cameras[i]
            view = None if capacity is None else _draw(gaussians, camera, image_size=size, capacity=capacity)
            if view is None or view.overflow:
                view = render(gaussians, camera, image_size=size)
            scores.append(quality(image, view.image))
        return Quality(*np.mean(scores, axis=0).tolist())


@dataclass(frozen=True, eq=False)
class RealSubject:
    """A folder of posed photographs, as `airjax reconstruct` takes it apart; see `eval.curves.Subject`."""

    name: str  # for the reports
    prepared: Prepared
    loss_fn: ViewLoss = view_loss  # the inner loss of a view
    capacity = None  # of the renderer's lists: planned
    rates = MANY_VIEWS

    @property
    def arrays(self) -> Any:
        """Given views, as they are refined towards and as the predictor sees them, depths, comparisons, and points."""
        parts = self.prepared
        scenes = [(scene.images, scene.cameras, scene.masks) for scene in (parts.given, parts.small, parts.held_out)]
        return scenes, parts.given.points, parts.bounds.views, parts.sets

    def task(self, rates: Any) -> SceneTask:
        """Refinement towards the given views."""
        return replace(self.prepared.refinement(rates), loss_fn=self.loss_fn)

    def start(self, model: Model | None) -> Gaussians3D:
        """The prediction, or Gaussians at the points."""
        return begin(self.prepared, model)

    def score(self, gaussians: Gaussians3D, capacity: Capacity | None) -> Quality:
        """Means over the views kept back."""
        del capacity
        bounds = self.prepared.bounds
        scores = judge(gaussians, self.prepared.held_out, near=bounds.near, far=bounds.far).scores
        return Quality(scores.mean_psnr, scores.mean_ssim)


def held_out_textures(images: str, made_up: int) -> np.ndarray:
    """(T, s, s, 3) of procedural test scenes, in [0, 1], of photographs in a folder or of pictures that are made up.

    Raises AirjaxError: neither is given, or no photographs in the folder.
    """
    if not images and not made_up:
        raise AirjaxError("expected a folder of photographs for textures, got none; give it with --images FOLDER")
    data = SceneData(folders=(images,) if images else (), made_up=made_up)
    return texture_atlas(data, test=True).astype(np.float32) / 255


_draw = partial(jax.jit, static_argnames=("image_size", "capacity"))(render)


class _Scenes:
    """Of both kinds of scenes."""

    def load_model(self, file: str) -> Model:
        """A scene predictor."""
        return load(file or None)


@dataclass(frozen=True)
class ProceduralScenes(_Scenes):
    """Scenes that are made up, with textures that no training saw."""

    images: str = where("")  # folder of photographs, whose parts, one in ten, are textures
    made_up: int = 0  # number of pictures that are made up where no folder is given
    num_scenes: int = 64  # how many
    image_size: tuple[int, int] = (64, 64)  # (h, w) pixels of their views
    # context, targets: views that are given, and views that are judged
    context: int = 2
    targets: int = 2
    # (pairs, chunks) of the renderer's lists to begin with; None to plan those of each scene
    capacity: tuple[int, int] | None = None
    limit: int | None = None  # only the first scenes; None for all
    loss_fn: ViewLoss = view_loss  # the inner loss of a view, see `airjax.scene.task.SceneTask`

    def __post_init__(self):
        if self.num_scenes < 1:
            raise AirjaxError(f"num_scenes: expected at least 1, got {self.num_scenes}")

    def __len__(self) -> int:
        return len(range(self.num_scenes)[: self.limit])

    def __iter__(self) -> Iterator[Callable[[], SceneSubject]]:
        textures = held_out_textures(self.images, self.made_up)
        return (partial(self._open, i, textures) for i in range(len(self)))

    def _open(self, index: int, textures: np.ndarray) -> SceneSubject:
        num_views = self.context + self.targets
        views = views_of_test_scene(textures, index=index, image_size=self.image_size, num_views=num_views)
        given, judged = slice(None, self.context), slice(self.context, None)
        images, cameras, near, far = views.images[given], views.cameras[given], float(views.near), float(views.far)
        count = 2 * self.image_size[0] * self.image_size[1]
        points, colors = random_points(np.random.default_rng(index), images, cameras, near, far, count)
        capacity = Capacity(*self.capacity) if self.capacity else None
        views = images, cameras, near, far, views.images[judged], views.cameras[judged], points, colors
        return SceneSubject(f"{FIRST_SEED + index}", *views, capacity, self.loss_fn)


@dataclass(frozen=True)
class RealScenes(_Scenes):
    """Folders of posed photographs, taken apart as `airjax reconstruct` does; from scratch starts at triangulated
    points.
    """

    scenes: tuple[str, ...] = where(())  # folders
    expected: str = "folders of posed photographs, as `airjax reconstruct` reads them"  # which, in words
    # views, predict_size, max_size: as `airjax reconstruct` has them
    views: int = VIEWS
    predict_size: int = PREDICT_SIZE
    max_size: int = MAX_SIZE
    limit: int | None = None  # only the first scenes; None for all
    loss_fn: ViewLoss = view_loss  # the inner loss of a view, see `airjax.scene.task.SceneTask`

    def __len__(self) -> int:
        return len(self._chosen())

    def __iter__(self) -> Iterator[Callable[[], RealSubject]]:
        return (partial(self._open, folder) for folder in self._chosen())

    def _chosen(self) -> tuple[str, ...]:
        if not self.scenes:
            raise AirjaxError(f"expected {self.expected}, got none; give them with --scenes SCENE ...")
        return self.scenes[: self.limit]

    def _open(self, folder: str) -> RealSubject:
        jax.clear_caches()  # programs of other sizes: a process has room for so many
        scene = load_scene(folder, max_size=self.max_size)
        parts = prepare(scene, views=self.views, predict_size=self.predict_size)
        return RealSubject(Path(folder).name, parts, self.loss_fn)
