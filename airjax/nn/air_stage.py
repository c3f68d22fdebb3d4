"""The compact staged predictor: one small convolutional network per stage, on the patch grid.

Letters: r, c rows and columns of the patch grid; P patch size; F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
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

    def multiply_adds(self, patch_size: int) -> int:
        """Multiply-adds per patch and stage."""
        f = self.features
        block = 2 * f * f * self.expansion + 9 * f
        inputs = 3 * (self.enlargement * patch_size // self.reduction) ** 2 + 1 + (QUALITY if self.votes else 0)
        return inputs * f + self.blocks * block + f * (RAW_ROWS + self.votes)


class Predictor(NamedTuple):
    """The network of one stage as a pair of pure functions."""

    init: Callable[[jax.Array], Any]  # (key) -> params
    # (params, patches (r, c, 3 P^2), quality (2,), inside (r, c, 1)) -> raw, k = 8 + votes. `inside` is 1 for patches
    # of the image and 0 for others, which are 0 themselves and change no raw row of the image
    apply: Callable[..., Float[Array, "r c k"]]
    reach: int  # distance in patches, on each axis, at which a patch still changes a raw row


def patches_of(image: Float[Array, "h w 3"], patch_size: int) -> Float[Array, "r c p"]:
    """(r, c, 3 P^2) patches of an image whose sides are multiples of P."""
    rows, columns = image.shape[0] // patch_size, image.shape[1] // patch_size
    grid = image.reshape(rows, patch_size, columns, patch_size, image.shape[2])
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows, columns, -1)


def _reduce(patches: Float[Array, "r c p"], reduction: int) -> Float[Array, "r c q"]:
    """Patches of means over `reduction` x `reduction` pixels."""
    if reduction == 1:
        return patches
    rows, columns, numbers = patches.shape
    side = round((numbers / 3) ** 0.5) // reduction
    squares = patches.reshape(rows, columns, side, reduction, side, reduction, 3)
    return jnp.mean(squares, axis=(3, 5)).reshape(rows, columns, -1)


def _neighbors(x: Float[Array, "r c f"]) -> list[Float[Array, "r c f"]]:
    """The nine shifted copies of a grid, zero outside."""
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows, columns = x.shape[:2]
    return [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]


class _Norm(nn.Module):
    """LayerNorm over the features, with the parameters of flax's.

    The means are matrix products with a constant: XLA's CPU backend stores the input of a product. It would otherwise
    compute the depthwise filter before it three times, for the mean, the variance and the result.
    """

    @nn.compact
    def __call__(self, x):
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        averaging = jnp.full((features, 1), 1 / features, x.dtype)
        x = x - jnp.dot(x, averaging, precision="highest")
        variance = jnp.dot(jnp.square(x), averaging, precision="highest")
        return x * jax.lax.rsqrt(variance + 1e-6) * scale[None, None] + bias[None, None]


class _Block(nn.Module):
    """Depthwise 3x3, LayerNorm, MLP, residual (the shape of a ConvNeXt block)."""

    config: PredictorConfig

    @nn.compact
    def __call__(self, x, inside):
        features = self.config.features
        kernel = self.param("depthwise", nn.initializers.normal(1 / 3), (9, features))
        # Nine shifted products fuse into one loop; XLA's grouped convolution on the CPU is 30 times slower.
        y = sum(part * kernel[None, None, i] for i, part in enumerate(_neighbors(x * inside)))
        # As rows of a matrix: XLA's CPU backend then computes the activation in the place of its input.
        y = _Norm(name="norm")(y).reshape(-1, features)
        y = nn.Dense(features * self.config.expansion, name="up")(y)
        y = nn.gelu(y, approximate=True)
        return x + nn.Dense(features, name="down")(y).reshape(x.shape)


class _StageNetwork(nn.Module):
    """Residual patches to raw rows.

    The residual of a late stage is a hundred times smaller than that of the first, and smaller in the sky than in
    leaves. So each patch is divided by the local contrast (rms over the patch and its neighbours); the inputs are the
    normalised patch and the logarithm of the contrast, and the predicted colour is multiplied by the contrast. A colour
    starts as a share of the patch mean, so that training starts near 18 dB instead of 9.
    """

    config: PredictorConfig

    @nn.compact
    def __call__(self, patches, quality, inside):
        patches = _reduce(patches, self.config.reduction)
        energy = jnp.mean(jnp.square(patches), axis=-1, keepdims=True)
        contrast = jnp.sqrt(sum(_neighbors(energy)) / 9 + 1e-5)
        inputs = [patches / contrast, jnp.log(contrast)]
        if self.config.votes:
            inputs.append(jnp.broadcast_to(quality, (*patches.shape[:2], QUALITY)))
        x = jnp.concatenate(inputs, axis=-1)
        x = nn.Dense(self.config.features, name="embed")(x)
        for i in range(self.config.blocks):
            x = _Block(self.config, name=f"block{i}")(x, inside)
        x = _Norm(name="norm")(x)
        raw = nn.Dense(RAW_ROWS, name="head", kernel_init=nn.initializers.normal(0.02))(x)
        share = self.param("mean_share", nn.initializers.constant(0.7), ())
        mean = jnp.mean(patches.reshape(*patches.shape[:2], -1, 3), axis=2)
        colors = contrast * raw[..., 5:] + share * mean
        rows = [raw[..., :5], colors]
        if self.config.votes:
            rows.append(nn.Dense(self.config.votes, name="votes", kernel_init=nn.initializers.zeros)(x))
        return jnp.concatenate(rows, axis=-1)


def compact_predictor(config: PredictorConfig, patch_size: int) -> Predictor:
    """The predictor of one stage of a patch size, which the reduction must divide when it has been enlarged."""
    patch_size *= config.enlargement
    if patch_size % config.reduction:
        raise ValueError(f"reduction: expected a divisor of the patch size {patch_size}, got {config.reduction}")
    network = _StageNetwork(config)

    def init(key):
        patches, inside = jnp.zeros((2, 2, 3 * patch_size**2), jnp.float32), jnp.ones((2, 2, 1), jnp.float32)
        return network.init(key, patches, NO_QUALITY, inside)["params"]

    def apply(params, patches, quality=NO_QUALITY, inside=None):
        inside = jnp.ones((*patches.shape[:2], 1), patches.dtype) if inside is None else inside
        return network.apply({"params": params}, patches, quality, inside)

    return Predictor(init, apply, reach=config.blocks + 1)


def apply_in_bands(
    predictor: Predictor,
    params: Any,
    patches: Float[Array, "r c p"],
    quality: Float[AnyArray, " 2"],
    inside: Float[AnyArray, "r c 1"],
) -> Float[Array, "r c k"]:
    """`predictor.apply`; a large grid in windows of rows that overlap by its reach, with the same result."""
    rows, columns = patches.shape[:2]
    band = max(1, BAND_PATCHES // columns)
    size = band + 2 * predictor.reach
    if size >= rows:
        return predictor.apply(params, patches, quality, inside)
    # Where a window ends with the grid, its rows are its own up to there.
    count = -(-(rows - 2 * predictor.reach) // band)
    starts = np.minimum(band * np.arange(count), rows - size)

    def window(start):
        parts = (jax.lax.dynamic_slice_in_dim(a, start, size) for a in (patches, jnp.asarray(inside)))
        return predictor.apply(params, next(parts), quality, next(parts))

    windows = jax.lax.map(window, jnp.asarray(starts))
    row = np.arange(rows)
    own = np.clip((row - predictor.reach) // band, 0, count - 1)
    return windows[own, row - starts[own]]
