"""Photographs as subjects of refinement curves and of estimator studies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians2D
from airjax.image.cases import middle, predict
from airjax.image.model import Model, load
from airjax.image.task import RATES, ImageLoss, ImageTask, squared_error
from airjax.metrics import Quality, quality
from airjax.photographs import read_image
from airjax.raster.draw import render
from eval.image.sets import find_set
from train.settings import where


@dataclass(frozen=True, eq=False)
class ImageSubject:
    """One photograph; see `eval.curves.Subject`."""

    name: str  # of the file
    image: np.ndarray  # (h, w, 3) in [0, 1]
    max_gaussians: int  # budget of 768 x 512 pixels; smaller pictures get as many per pixel
    loss_fn: ImageLoss = squared_error  # the inner loss
    capacity = None
    rates = RATES

    @property
    def arrays(self) -> Any:
        """The pixels and the budget."""
        return self.image, np.int64(self.max_gaussians)

    def task(self, rates: Any) -> ImageTask:
        """Refinement towards the photograph."""
        return ImageTask(self.image, rates, self.loss_fn)

    def start(self, model: Model | None) -> Gaussians2D:
        """The networks' prediction."""
        if model is None:
            raise AirjaxError(f"{self.name}: expected weights to start from; images from scratch are `airjax fit`")
        return predict(model, self.image, self.max_gaussians)

    def score(self, gaussians: Gaussians2D, capacity: Any) -> Quality:
        """Of the 8-bit image."""
        return quality(self.image, render(gaussians, image_size=self.image.shape[:2]).image)


@dataclass(frozen=True)
class Images:
    """Photographs of an evaluation."""

    images: str = where("")  # a folder of images, or one image
    image_set: str = ""  # the one of `eval.image.sets` that the evaluation's description speaks of, or none
    max_gaussians: int = 14_000  # budget of 768 x 512 pixels; smaller pictures get as many per pixel
    crop: int | None = None  # the middle so many pixels squared only; None for whole images
    limit: int | None = None  # only the first images; None for all
    loss_fn: ImageLoss = squared_error  # the inner loss, see `airjax.image.task.ImageTask`

    def __post_init__(self):
        if self.max_gaussians < 1:
            raise AirjaxError(f"max_gaussians: expected at least 1, got {self.max_gaussians}")
        if self.crop is not None and self.crop < 16:
            raise AirjaxError(f"crop: expected at least 16 pixels, got {self.crop}")

    def __iter__(self) -> Iterator[Callable[[], ImageSubject]]:
        return (partial(self._open, path) for path in self._paths())

    def __len__(self) -> int:
        return len(self._paths())

    def load_model(self, file: str) -> Model:
        """A staged predictor."""
        return load(file or None)

    def _open(self, path: Path) -> ImageSubject:
        image = middle(read_image(path).pixels, self.crop)
        return ImageSubject(path.name, image, self.max_gaussians, self.loss_fn)

    def _paths(self) -> list[Path]:
        return find_set(self.images, self.image_set, limit=self.limit)
