"""Convolutions over grids of tokens up to pixels: the pieces of AIR's neck and of Pi3X's heads (those of MoGe).

Letters: v views, h, w rows and columns, c channels.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.nn.resize import bilinear, uv

Grids = Float[Array, "v h w c"]


def conv_at_edges(x: Grids, width: int, name: str) -> Float[Array, "v h w k"]:
    """A 3 x 3 convolution; beyond its edges a grid goes on as it ends. Called within a compact module."""
    x = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    return nn.Conv(width, (3, 3), padding="VALID", name=name)(x)


class Enlarge(nn.Module):
    """A transposed convolution whose stride is its size: every cell becomes a square of cells of its own."""

    width: int
    times: int

    @nn.compact
    def __call__(self, x: Grids) -> Float[Array, "v a b k"]:
        views, rows, columns, channels = x.shape
        times, width = self.times, self.width
        # The first two axes are the input and the output, as torch has them.
        fan = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=1)
        weight = self.param("weight", fan, (channels, width, times, times))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        y = jnp.einsum("vhwc,coij->vhiwjo", x, weight) + bias.reshape(1, 1, 1, 1, 1, -1)
        return y.reshape(views, times * rows, times * columns, width)


class Residual(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), convolutions of 3 x 3."""

    hidden: int
    groups: tuple[int, int] | None = None  # of the group norms before each convolution; None for no norms

    @nn.compact
    def __call__(self, x: Grids) -> Grids:
        def normal(y: Any, name: str) -> Any:
            if self.groups is None:
                return y
            groups = self.groups[0 if name == "norm1" else 1]
            return nn.GroupNorm(num_groups=groups, epsilon=1e-5, use_fast_variance=False, name=name)(y)

        y = conv_at_edges(nn.relu(normal(x, "norm1")), self.hidden, "conv1")
        return x + conv_at_edges(nn.relu(normal(y, "norm2")), x.shape[-1], "conv2")


class Double(nn.Module):
    """Twice as high and wide: a transposed convolution, or bilinear, then a convolution of 3 x 3."""

    width: int
    transposed: bool = True

    @nn.compact
    def __call__(self, x: Grids) -> Float[Array, "v a b k"]:
        size = (2 * x.shape[1], 2 * x.shape[2])
        x = Enlarge(self.width, 2, name="up")(x) if self.transposed else bilinear(x, size)
        return conv_at_edges(x, self.width, "conv")


def places(x: Grids, aspect: float) -> Float[Array, "v h w 2"]:
    """`airjax.nn.resize.uv` of a grid, for every view."""
    grid = uv((x.shape[1], x.shape[2]), aspect)
    return jnp.broadcast_to(jnp.asarray(grid, x.dtype)[None], (x.shape[0], *grid.shape))
