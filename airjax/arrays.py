"""What annotations say of arrays: both libraries where both are taken, the size of an image as two numbers."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray  # containers and metrics take either: numpy on the host, in files and around them


def size_of(image: AnyArray) -> tuple[int, int]:
    """(h, w) of an image."""
    return image.shape[0], image.shape[1]


_BAND_PIXELS = 2**20


def bands_of(image: AnyArray, *, step: int = 1) -> Iterator[slice]:
    """Rows of an image, multiples of `step`, a few at a time: what is made of them on the way to a few numbers, or to
    one byte for each, is then small beside a large image.
    """
    height, width = size_of(image)
    rows = max(1, _BAND_PIXELS // (width * step)) * step
    return (slice(top, top + rows) for top in range(0, height, rows))
