"""Photographs of many sizes on few canvases, so that they share programs."""

from __future__ import annotations

import math

import numpy as np


def canvas_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of at least an image's, of few kinds: 128, multiples of 256 up to 1,024, then four steps an octave."""
    height, width = (-(-side // step) * step for side, step in zip(image_size, map(_step, image_size), strict=True))
    return height, width


def _step(side: int) -> int:
    return 128 if side <= 128 else max(256, 2 ** (math.ceil(math.log2(side)) - 3))


def canvas_of(image: np.ndarray) -> np.ndarray:
    """The (h, w, 3) image in the upper left corner of a larger one of `canvas_size`, NaN where there is no image."""
    missing = [large - side for large, side in zip(canvas_size(image.shape[:2]), image.shape[:2], strict=True)]
    if not any(missing):
        return image
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), constant_values=np.nan)


def extent_of(image: np.ndarray) -> tuple[int, int]:
    """(h, w) in pixels of what is not NaN: of the image on a `canvas_of` it."""
    down, across = (int(np.count_nonzero(~np.isnan(edge))) for edge in (image[:, 0, 0], image[0, :, 0]))
    return down, across


def without_canvas(image: np.ndarray) -> np.ndarray:
    """The image alone, the inverse of `canvas_of`."""
    height, width = extent_of(image)
    return image[:height, :width]
