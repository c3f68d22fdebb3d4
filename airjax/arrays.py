"""What annotations say of arrays: both libraries where both are taken, the size of an image as two numbers."""

from __future__ import annotations

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray  # containers and metrics take either: numpy on the host, in files and around them


def size_of(image: AnyArray) -> tuple[int, int]:
    """(h, w) of an image."""
    return image.shape[0], image.shape[1]
