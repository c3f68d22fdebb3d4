"""The Gaussian head of ForeSplat (supplement, sections 8 and 9): numbers of a Gaussian for every pixel.

The paper names taps, widths and sizes of kernels; that taps have neither norms nor positions, that all residual units
are used, the coarsest grid passing two of them, and where activations stand are choices. They give its 14.6 M weights.

Letters: v views, h, w pixels, r, c the patch grid, e width of a tap, k numbers of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.nn.dpt import Trunk, TrunkConfig, conv
from airjax.nn.resize import bilinear_by_corners

GEOMETRY = 8  # numbers of a pixel before its harmonics: opacity, 3 of the scales, 4 of the rotation (w x y z)


@dataclass(frozen=True)
class GaussianHeadConfig:
    """Sizes of a head."""

    features: int = 256  # of what is fused
    image: int = 256  # channels between the two layers that the image passes
    hidden: int = 128  # before the last layer
    degree: int = 4  # of the harmonics

    @property
    def outputs(self) -> int:
        """Numbers k of a pixel."""
        return GEOMETRY + 3 * (self.degree + 1) ** 2

    @property
    def trunk(self) -> TrunkConfig:
        """What fuses the taps."""
        width = self.features
        return TrunkConfig((width,) * 4, width, norm=False, waves=False, adapters=False, all_units=True)


# Of the edge student: with 606.15 M weights before it, 612.80 M in all, as the paper counts. The widths are a choice.
EDGE_HEAD = GaussianHeadConfig(160, hidden=256)


def _start(key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """No opacity before its sigmoid, no scale before its softplus, no rotation, no harmonics."""
    return jnp.zeros(shape, dtype).at[4].set(1)


class GaussianHead(nn.Module):
    """Four taps and the images that they are of: opacity, 3 scales, 4 of a rotation and harmonics, all raw.

    Fresh weights say the same of every pixel.
    """

    config: GaussianHeadConfig

    @nn.compact
    def __call__(
        self, taps: Sequence[Float[Array, "v r c e"]], images: Float[Array, "v h w 3"]
    ) -> Float[Array, "v h w k"]:
        config, (views, rows, columns, width) = self.config, taps[0].shape
        tokens = [tap.astype(jnp.float32).reshape(views, rows * columns, width) for tap in taps]
        x = Trunk(config.trunk, name="trunk")(tokens, (rows, columns))
        x = bilinear_by_corners(x, (images.shape[1], images.shape[2]))
        shown = nn.relu(conv(config.image, "image1", size=7)(images))
        x = nn.relu(x + conv(config.features, "image2")(shown))
        x = nn.relu(conv(config.hidden, "hidden")(x))
        return nn.Dense(config.outputs, kernel_init=nn.initializers.zeros, bias_init=_start, name="last")(x)


def init_head(key: jax.Array, config: GaussianHeadConfig, width: int) -> dict:
    """Fresh weights, for taps of a width."""
    taps = [jnp.zeros((1, 2, 2, width))] * 4
    return GaussianHead(config).init(key, taps, jnp.zeros((1, 16, 16, 3)))["params"]


def apply_head(
    params: dict,
    taps: Sequence[Float[Array, "v r c e"]],
    images: Float[Array, "v h w 3"],
    config: GaussianHeadConfig,
) -> Float[Array, "v h w k"]:
    """`GaussianHead` of weights."""
    head: Any = GaussianHead(config)
    return head.apply({"params": params}, taps, images)
