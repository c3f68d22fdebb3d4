"""The network of one stage in flax: residual patches to raw rows.

Letters: r, c rows and columns of the patch grid; F features.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.nn.air_stage import QUALITY, RAW_ROWS, PredictorConfig


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


class StageNetwork(nn.Module):
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
