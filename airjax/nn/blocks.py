"""Blocks of the scene predictors' networks: convolutions, residual blocks, and the features of views.

Letters: v views, h, w pixels, f features, a, b rows and columns.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

CELL, COARSE = 2, 4  # pixels; sides of the fine cells, and of the coarse ones
MULTIPLE = 16  # pixels; divides the sides of an image


def conv(width: int, name: str, *, stride: int = 1, size: int = 3) -> nn.Conv:
    """A convolution of size x size cells, padded."""
    return nn.Conv(width, (size, size), strides=(stride, stride), padding="SAME", name=name)


class Norm(nn.Module):
    """Group normalization, 16 channels a group, over the whole view."""

    @nn.compact
    def __call__(self, x):
        return nn.GroupNorm(num_groups=None, group_size=16, name="norm")(x)


class Residual(nn.Module):
    """Two 3 x 3 convolutions around an identity."""

    width: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(Norm(name="first")(x))
        y = conv(self.width, "one")(y)
        y = nn.gelu(Norm(name="second")(y))
        return x + conv(self.width, "two")(y)


def enlarge(x: Float[Array, "v a b f"]) -> Float[Array, "v c d f"]:
    """Twice as high and wide, every cell repeated."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def pyramid(images: Float[Array, "v h w 3"], width: int) -> tuple[Float[Array, "v a b f"], Float[Array, "v c d f"]]:
    """(features at half the resolution, at a quarter), with context from an eighth; called within a compact module."""
    x = conv(width, "stem", stride=CELL, size=5)(images - 0.5)
    x = Residual(width, name="fine")(x)
    y = conv(width, "down", stride=2)(x)
    y = Residual(width, name="middle")(y)
    z = conv(width, "further", stride=2)(y)
    z = Residual(width, name="coarse")(z)
    y = y + enlarge(conv(width, "raise", size=1)(z))
    return x + enlarge(conv(width, "merge", size=1)(y)), y
