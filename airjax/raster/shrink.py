"""Pictures smaller than their plane: drawn finer than asked for and averaged, so that they do not alias.

At a scale s below 1 every pixel is the mean of k x k finer ones, k = ceil(1 / s): what a picture drawn at the scale
k s, from 1 to below 2, shows when it is averaged. At s = 1 / k that is the picture of scale 1.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.programs import kept
from airjax.raster.plan import scaled_size


def finer(image_size: tuple[int, int], scale: float) -> tuple[int, tuple[int, int]]:
    """(k, the (h, w) to draw at the scale k s): 1 and the usual size where nothing is averaged.

    Finer pixels beyond the plane are left out, as nothing is there.
    """
    times = max(1, math.ceil(1 / scale - 1e-9))  # 1 / 0.1 and the like are whole
    sizes = zip(image_size, scaled_size(image_size, scale), strict=True)
    if times == 1:
        return 1, scaled_size(image_size, scale)
    height, width = (max(1, min(small * times, round(side * scale * times))) for side, small in sizes)
    return times, (height, width)


@kept(static_argnames=("times", "size"))
def averaged(image: Float[Array, "H W c"], times: int, size: tuple[int, int]) -> Float[Array, "h w c"]:
    """Means over `times` x `times` pixels, of those that are there."""
    height, width, channels = image.shape
    missing = [(0, small * times - side) for small, side in zip(size, (height, width), strict=True)]
    parts = jnp.pad(image, (*missing, (0, 0))).reshape(size[0], times, size[1], times, channels)
    rows, columns = (
        np.minimum(times, side - times * np.arange(small)).astype(np.float32)
        for side, small in zip((height, width), size, strict=True)
    )
    return parts.sum(axis=(1, 3)) / (rows[:, None, None] * columns[None, :, None])
