"""Exposure: photographs of one scene may be lighter or darker than each other, channel by channel.

Letters: h, w pixels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_PULL = 0.01  # weight of (gain - 1)^2 + offset^2 beside the mean squared difference: keeps the scene's own exposure


def exposed(
    rendered: Float[Array, "h w 3"], image: Float[Array, "h w 3"], *, mask: Bool[Array, "h w"] | None = None
) -> Float[Array, "h w 3"]:
    """gain * rendered + offset, with the gain and the offset of each channel that bring it nearest to a photograph.

    Least squares with a slight pull towards 1 and 0, in closed form, so that refinement has nothing more to move.
    Differentiable in `rendered` with gain and offset held fixed.

    Args:
      mask: pixels that count; None for all.
    """
    weight = jnp.ones(image.shape[:2], image.dtype) if mask is None else mask.astype(image.dtype)
    weight = (weight / jnp.maximum(jnp.sum(weight), 1))[..., None]

    def mean(values):
        return jnp.sum(weight * values, axis=(0, 1))

    r, i = mean(rendered), mean(image)
    square, product = mean(rendered * rendered) + _PULL, mean(rendered * image) + _PULL
    determinant = square * (1 + _PULL) - r * r  # > 0, since the mean of squares is no less than the mean's square
    gain = (product * (1 + _PULL) - r * i) / determinant
    offset = (square * i - product * r) / determinant
    gain, offset = jax.lax.stop_gradient((gain, offset))
    return gain[None, None] * rendered + offset[None, None]
