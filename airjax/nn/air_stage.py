"""The networks of one stage as pairs of functions: small ones on the patch grid, and those of AIR on the whole image.

The code of the small ones is in `airjax.nn.stage_network`, of the large ones in `airjax.nn.airnet`.

Letters: r, c rows and columns of the patch grid; P patch size; F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.arrays import AnyArray

BAND_PATCHES = 2**14  # patches whose features are held at a time, about 300 MB
RAW_ROWS = 8  # mean 2, scales 2, angle 1, colour 3
QUALITY = 2  # inputs of a network with votes, for the requested quality; zeros where nothing is rounded
NO_QUALITY = np.zeros(QUALITY, np.float32)


@dataclass(frozen=True)
class PredictorConfig:
    """Network size of one stage."""

    features: int = 128  # width F of the patch features
    blocks: int = 3  # number of residual blocks
    expansion: int = 4  # hidden width of a block's MLP, in multiples of F
    reduction: int = 1  # side of the squares of pixels whose means are the input; it divides P
    enlargement: int = 1  # times that the image is enlarged, bilinearly, before it is cut into patches
    votes: int = 0  # further numbers per patch, for the quantiser; such a network also has the quality as an input

    @property
    def reach(self) -> int:
        """Distance in patches, on each axis, at which a patch still changes a raw row."""
        return self.blocks + 1

    def multiply_adds(self, patch_size: int) -> int:
        """Multiply-adds per patch and stage."""
        f = self.features
        block = 2 * f * f * self.expansion + 9 * f
        inputs = 3 * (self.enlargement * patch_size // self.reduction) ** 2 + 1 + (QUALITY if self.votes else 0)
        return inputs * f + self.blocks * block + f * (RAW_ROWS + self.votes)


@dataclass(frozen=True)
class AirnetConfig:
    """Network size of one stage of AIR (its section 3.2): DINOv3 ViT-B/16, then convolutions up to pixels.

    A patch depends on the whole image, so the image is neither padded nor cut. The defaults are those of the paper.
    """

    width: int = 768  # of the encoder's tokens
    heads: int = 12
    blocks: tuple[int, int] = (6, 6)  # of the encoder, up to each of its two outputs
    widths: tuple[int, ...] = (1024, 256, 128, 64, 32)  # channels from the token grid up to its 16-fold
    features: int = 64  # of a patch
    dtype: str = "float32"  # of the encoder's products: or "bfloat16"
    remat: bool = False  # whether a gradient computes the encoder's blocks again instead of storing them

    reach: ClassVar[None] = None  # without a bound; the other two as in `PredictorConfig`
    enlargement: ClassVar[int] = 1
    votes: ClassVar[int] = 0


AIRNET = AirnetConfig()
Network = PredictorConfig | AirnetConfig


class Predictor(NamedTuple):
    """The network of one stage as a pair of pure functions."""

    init: Callable[[jax.Array], Any]  # (key) -> params
    # (params, patches (r, c, 3 P^2), quality (2,), inside (r, c, 1)) -> raw, k = 8 + votes. `inside` is 1 for patches
    # of the image and 0 for others, which are 0 themselves and change no raw row of the image.
    # Where there is no reach: (params, image (h, w, 3)) -> raw
    apply: Callable[..., Float[Array, "r c k"]]
    reach: int | None  # see `PredictorConfig`; None for the whole image


def predictor_of(network: Network, patch_size: int) -> Predictor:
    """The predictor of one stage."""
    if isinstance(network, PredictorConfig):
        return compact_predictor(network, patch_size)
    from airjax.nn.airnet import airnet_predictor  # it needs flax, as the compact one

    return airnet_predictor(network, patch_size)


def patches_of(image: Float[Array, "h w 3"], patch_size: int) -> Float[Array, "r c p"]:
    """(r, c, 3 P^2) patches of an image whose sides are multiples of P."""
    rows, columns = image.shape[0] // patch_size, image.shape[1] // patch_size
    grid = image.reshape(rows, patch_size, columns, patch_size, image.shape[2])
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows, columns, -1)


def compact_predictor(config: PredictorConfig, patch_size: int) -> Predictor:
    """The predictor of one stage of a patch size, which the reduction must divide when it has been enlarged."""
    patch_size *= config.enlargement
    if patch_size % config.reduction:
        raise ValueError(f"reduction: expected a divisor of the patch size {patch_size}, got {config.reduction}")
    from airjax.nn.stage_network import StageNetwork  # flax takes half a second, and programs that are kept need none

    network = StageNetwork(config)

    def init(key):
        patches, inside = jnp.zeros((2, 2, 3 * patch_size**2), jnp.float32), jnp.ones((2, 2, 1), jnp.float32)
        return network.init(key, patches, NO_QUALITY, inside)["params"]

    def apply(params, patches, quality=NO_QUALITY, inside=None):
        inside = jnp.ones((*patches.shape[:2], 1), patches.dtype) if inside is None else inside
        return network.apply({"params": params}, patches, quality, inside)

    return Predictor(init, apply, reach=config.reach)


def apply_in_bands(
    predictor: Predictor,
    params: Any,
    patches: Float[Array, "r c p"],
    quality: Float[AnyArray, " 2"],
    inside: Float[AnyArray, "r c 1"],
) -> Float[Array, "r c k"]:
    """`predictor.apply`; a large grid in windows of rows that overlap by its reach, with the same result."""
    rows, columns = patches.shape[:2]
    band, reach = max(1, BAND_PATCHES // columns), predictor.reach
    assert reach is not None
    size = band + 2 * reach
    if size >= rows:
        return predictor.apply(params, patches, quality, inside)
    # Where a window ends with the grid, its rows are its own up to there.
    count = -(-(rows - 2 * reach) // band)
    starts = np.minimum(band * np.arange(count), rows - size)

    def window(start):
        parts = (jax.lax.dynamic_slice_in_dim(a, start, size) for a in (patches, jnp.asarray(inside)))
        return predictor.apply(params, next(parts), quality, next(parts))

    windows = jax.lax.map(window, jnp.asarray(starts))
    row = np.arange(rows)
    own = np.clip((row - reach) // band, 0, count - 1)
    return windows[own, row - starts[own]]
