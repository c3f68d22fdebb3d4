"""Photographs of many sizes on few canvases, so that they share programs."""

from __future__ import annotations

import numpy as np

from airjax.raster.plan import canvas_size


def canvas_of(image: np.ndarray) -> np.ndarray:
    """The (h, w, 3) image in the upper left corner of a larger one of `canvas_size`, NaN where there is no image."""
    missing = [large - side for large, side in zip(canvas_size(image.shape[:2]), image.shape[:2], strict=True)]
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), constant_values=np.nan)


def extent_of(image: np.ndarray) -> tuple[int, int]:
    """(h, w) in pixels of what is not NaN: of the image on a `canvas_of` it."""
    there = ~np.isnan(image[..., 0])
    return int(np.count_nonzero(there[:, 0])), int(np.count_nonzero(there[0]))
