"""Refinement cases of photographs: the networks' prediction for each, and the task to refine it."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from airjax.files import find_images
from airjax.image.model import Model, load
from airjax.image.task import ImageTask
from airjax.inner.task import Case
from airjax.photographs import IMAGE_SUFFIXES, read_image


def image_cases(
    photographs: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    model: Model | None = None,
    crop: int | None = 64,
    max_gaussians: int = 14_000,
    limit: int | None = None,
) -> list[Case]:
    """A case for each photograph of a folder, a file, or several; an AirjaxError for one that cannot be read, or none.

    Args:
      model: whose prediction is the start, and whose rates are the task's; None for the shipped one.
      crop: the middle so many pixels squared; None for whole photographs.
      max_gaussians: budget of 768 x 512 pixels; smaller pictures get as many per pixel.
      limit: only the first so many; None for all.
    """
    model = load() if model is None else model
    sources = [photographs] if isinstance(photographs, (str, os.PathLike)) else photographs
    paths = find_images(sources, suffixes=IMAGE_SUFFIXES)[:limit]
    cases = []
    for path in paths:
        image = middle(read_image(path).pixels, crop)
        cases.append(Case(path.name, ImageTask(image, model.rates), predict(model, image, max_gaussians)))
    return cases


def predict(model: Model, image: np.ndarray, max_gaussians: int):
    """The networks' Gaussians for an (h, w, 3) image, for a budget of 768 x 512 pixels."""
    budget = round(max_gaussians * image.shape[0] * image.shape[1] / (768 * 512))
    return model.encode(image, max_gaussians=budget, solve_steps=0).gaussians


def middle(image: np.ndarray, crop: int | None) -> np.ndarray:
    """The middle `crop` pixels of each side, or less where there are less; None for the whole."""
    if crop is None:
        return image
    rows, columns = (slice(start := max(0, (side - crop) // 2), start + min(side, crop)) for side in image.shape[:2])
    return image[rows, columns]
