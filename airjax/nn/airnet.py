"""AIR's network of one stage: a residual image to eight numbers for every patch (AIR section 3.2 and its release).

Letters: h, w pixels; a, b the grid of tokens, of 16 x 16 pixels each; r, c the grid of patches; P patch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.arrays import size_of
from airjax.nn.air_stage import RAW_ROWS, AirnetConfig, Predictor
from airjax.nn.conv_stack import Double, Residual
from airjax.nn.resize import bilinear, uv
from airjax.nn.vit import SPECIAL, BlockConfig, Encoder, EncoderConfig, dino_v3_base, layer_norm

NECK = (0, 2, 2, 2, 0)  # residual blocks of each level: of what reads the tokens,
DECODER = (0, 1, 1, 1, 0)  # and of what reads that
_EPSILON = 1e-5  # of all layer norms


def encoder_of(config: AirnetConfig) -> EncoderConfig:
    """The encoder of a network: `dino_v3_base`, or one like it of other sizes."""
    base = dino_v3_base()
    block = BlockConfig(config.width, config.heads, _EPSILON, layer_scale=1e-5, dtype=config.dtype, remat=config.remat)
    return EncoderConfig(block, base.patch, config.blocks, positions=base.positions)


class Levels(nn.Module):
    """Five grids, each twice as fine as the one before: what comes from the coarser one, plus its own input.

    Level l is (1, 2^l a, 2^l b, widths[l]). The last doubling is bilinear, those before it are transposed convolutions.
    """

    widths: tuple[int, ...]
    counts: tuple[int, ...]  # of residual blocks

    @nn.compact
    def __call__(self, inputs: Sequence[Any]) -> list[Float[Array, "1 h w c"]]:
        outputs: list[Any] = []
        last = len(self.widths) - 1
        for i, (width, count) in enumerate(zip(self.widths, self.counts, strict=True)):
            x = nn.Dense(width, name=f"input{i}")(inputs[i])
            if outputs:
                x = x + Double(width, transposed=i < last, name=f"double{i - 1}")(outputs[-1])
            for k in range(count):
                x = Residual(width, name=f"residual{i}_{k}")(x)
            outputs.append(x)
        return outputs


def _resized(config: AirnetConfig, residual: Float[Array, "h w 3"]) -> Float[Array, "1 H W 3"]:
    """The image at the multiples of a token's side just below its own sides; at least one token."""
    side, size = encoder_of(config).patch, size_of(residual)
    whole = max(side, size[0] // side * side), max(side, size[1] // side * side)
    return residual[None] if whole == size else bilinear(residual[None], whole, antialias=True)


def _plane(size: tuple[int, int], aspect: float) -> Float[Array, "1 h w 2"]:
    """`airjax.nn.resize.uv`, spread out on the device: a program would else hold all of it."""
    plane = uv(size, aspect)
    u, v = jnp.asarray(plane[:1, :, 0]), jnp.asarray(plane[:, :1, 1])
    return jnp.stack([jnp.broadcast_to(u, size), jnp.broadcast_to(v, size)], axis=-1)[None]


class Airnet(nn.Module):
    """Raw rows of one residual; patches of the last row and column may hang over."""

    config: AirnetConfig
    patch_size: int

    @nn.compact
    def __call__(self, residual: Float[Array, "h w 3"]) -> Float[Array, "r c 8"]:
        config, (height, width), size = self.config, size_of(residual), self.patch_size
        widths, encoder, image = config.widths, encoder_of(config), _resized(config, residual)
        a, b = image.shape[1] // encoder.patch, image.shape[2] // encoder.patch
        taps = Encoder(encoder, name="encoder")(image)
        projected = [nn.Dense(widths[0], name=f"project{i}")(tap[:, SPECIAL:]) for i, tap in enumerate(taps)]
        planes = [_plane((a << i, b << i), b / a) for i in range(len(widths))]
        tokens = jnp.concatenate([sum(projected[1:], projected[0]).reshape(1, a, b, -1), planes[0]], axis=-1)
        levels = Levels(widths, NECK, name="neck")([tokens, *planes[1:]])
        x = nn.Dense(widths[-1], name="pixels")(Levels(widths, DECODER, name="decoder")(levels)[-1])
        hanging = [(0, 0), (0, -height % size), (0, -width % size), (0, 0)]
        x = jnp.pad(bilinear(x, (height, width)), hanging, mode="edge")
        x = nn.Conv(config.features, (size, size), (size, size), "VALID", use_bias=False, name="patches")(x)
        return nn.Dense(RAW_ROWS, name="head")(layer_norm(_EPSILON, "norm")(x))[0]


def airnet_predictor(config: AirnetConfig, patch_size: int) -> Predictor:
    """The predictor of one stage; what it is given is the whole image."""
    network = Airnet(config, patch_size)

    def init(key):
        return network.init(key, jnp.zeros((16, 16, 3), jnp.float32))["params"]

    def apply(params, image):
        rows: Any = network.apply({"params": params}, image)
        return rows

    return Predictor(init, apply, reach=None)


def class_token(params: Any, residual: Float[Array, "h w 3"], *, config: AirnetConfig) -> Float[Array, " d"]:
    """What the encoder of a stage says of the whole residual."""
    taps: Any = Encoder(encoder_of(config)).apply({"params": params["encoder"]}, _resized(config, residual))
    return taps[-1][0, 0]
