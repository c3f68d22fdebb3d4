"""One wide Gaussian below all others, for images most of which have one colour: pages, screens, plain backgrounds."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from airjax.arrays import bands_of, size_of
from airjax.gaussians import Gaussians2D
from airjax.image.codec.lattice import predicted_codes
from airjax.image.codec.quantise import NUM_CODES, Rows, amplitudes_of, quantise
from airjax.programs import kept
from airjax.raster.tiles import patch_grid

_PATCH_SIZE = 64  # of the stage that it has to itself
_SCALE = 2.0**11.9  # pixels, about the widest that a file can hold
_SQUARE = 16  # pixels
_SHARE = 0.75  # of the squares of an image that it must finish
_DONE = (2 / 255) ** 2  # mean squared error of a square that is
_MOST = 2.0**15  # bin widths of a colour: half of what a file can hold

_default_codes = kept(static_argnames="patch_size")(predicted_codes)


def base_of(image: Float[np.ndarray, "h w 3"], *, color_step: float) -> Rows | None:
    """The stage of a single row that leaves nothing to see in most squares of an image; None where there is none.

    `color_step` is the bin width of the luma, which is coarser here where the colour would not fit into a file.
    """
    color = np.array([np.median(channel) for channel in np.moveaxis(image, 2, 0)])
    done = [_errors(image, shown) <= _DONE for shown in (color, np.zeros_like(color))]
    if np.mean(done[0]) - np.mean(done[1]) < _SHARE:
        return None
    height, width = size_of(image)
    # Half of what the corners lose is added everywhere.
    corner = math.exp(-(height**2 + width**2) / 4 / (2 * _SCALE**2))
    gaussian = Gaussians2D(
        np.array([[width / 2, height / 2]], np.float32),
        np.full((1, 2), _SCALE, np.float32),
        np.zeros(1, np.float32),
        (color[None] * 2 / (1 + corner)).astype(np.float32),
        np.ones(1, bool),
    )
    amplitudes = amplitudes_of(gaussian)
    step = max(color_step, float(np.max(np.abs(amplitudes))) / _MOST)
    codes = _default_codes(np.zeros(NUM_CODES, np.float32), np.float32(step), patch_size=_PATCH_SIZE)
    codes = np.rint(codes).astype(np.int64)
    rows, columns = patch_grid((height, width), _PATCH_SIZE)
    patch = np.array([rows // 2 * columns + columns // 2])
    stored = quantise(gaussian, patch, amplitudes, codes=codes, patch_size=_PATCH_SIZE, columns=columns)
    return stored if len(stored.patches) else None


def _errors(image: Float[np.ndarray, "h w 3"], color: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "r c"]:
    """Mean squared error of one colour in squares of _SQUARE pixels, or in what of them is there.

    `airjax.metrics.patch_mse` in numpy: that would be compiled for every size of image.
    """
    rows, columns = (np.arange(0, side, _SQUARE) for side in size_of(image))
    sums = []
    for band in bands_of(image, step=_SQUARE):
        errors = np.square(image[band] - color).sum(axis=2)
        down = np.arange(0, len(errors), _SQUARE)
        sums.append(np.add.reduceat(np.add.reduceat(errors, down, axis=0), columns, axis=1))
    heights, widths = (np.diff(np.append(at, side)) for at, side in zip((rows, columns), size_of(image), strict=True))
    return np.concatenate(sums) / (3 * heights[:, None] * widths[None])
