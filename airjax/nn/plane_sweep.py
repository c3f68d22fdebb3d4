"""Plane-sweep networks: features of a view that are compared, and a decoder of the plane-sweep volume.

Letters: v views, h, w pixels, f features, d planes; a cell is a square of 2 x 2 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.nn.coarse_to_fine import CELL, MULTIPLE


@dataclass(frozen=True)
class PlaneSweepConfig:
    """Size of the networks."""

    planes: int = 32  # number d of inverse depths
    matching: int = 48  # width of the compared features
    groups: int = 2  # comparisons of a cell with each plane
    widths: tuple[int, int, int, int] = (64, 96, 128, 128)  # of the decoder, at a half, a quarter, .. of the image
    outputs: int = 12  # numbers per cell besides the scores of the planes


class PlaneSweepNetworks(NamedTuple):
    """The networks as pure functions."""

    init: Callable[[jax.Array], Any]  # key -> params of both
    features: Callable[..., Float[Array, "v a b f"]]  # (params, images (v, h, w, 3)) -> (v, h/2, w/2, f)
    # (params, images, matches (v, h/2, w/2, groups * d), features) -> (scores, outputs)
    decode: Callable[..., tuple[Float[Array, "v a b d"], Float[Array, "v a b k"]]]


def _conv(width: int, name: str, *, stride: int = 1, size: int = 3):
    return nn.Conv(width, (size, size), strides=(stride, stride), padding="SAME", name=name)


class _Norm(nn.Module):
    """Group normalisation, 16 channels a group, over the whole view."""

    @nn.compact
    def __call__(self, x):
        return nn.GroupNorm(num_groups=None, group_size=16, name="norm")(x)


class _Residual(nn.Module):
    """Two 3 x 3 convolutions around an identity."""

    width: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(_Norm(name="first")(x))
        y = _conv(self.width, "one")(y)
        y = nn.gelu(_Norm(name="second")(y))
        return x + _conv(self.width, "two")(y)


class _Features(nn.Module):
    """Features of every view at half its resolution, with context from an eighth."""

    config: PlaneSweepConfig

    @nn.compact
    def __call__(self, images):
        width = self.config.matching
        x = _conv(width, "stem", stride=CELL, size=5)(images - 0.5)
        x = _Residual(width, name="fine")(x)
        y = _conv(width, "down", stride=2)(x)
        y = _Residual(width, name="middle")(y)
        z = _conv(width, "further", stride=2)(y)
        z = _Residual(width, name="coarse")(z)
        y = y + _enlarge(_conv(width, "raise", size=1)(z))
        x = x + _enlarge(_conv(width, "merge", size=1)(y))
        return _conv(width, "out")(nn.gelu(_Norm(name="last")(x)))


class _Decoder(nn.Module):
    """U-Net from the plane-sweep volume, features and colours to scores and outputs."""

    config: PlaneSweepConfig

    @nn.compact
    def __call__(self, images, matches, features):
        config = self.config
        views, height, width, _ = images.shape
        pixels = images.reshape(views, height // CELL, CELL, width // CELL, CELL, 3)
        pixels = pixels.transpose(0, 1, 3, 2, 4, 5).reshape(views, height // CELL, width // CELL, -1)
        x = jnp.concatenate([matches, features, pixels - 0.5], axis=-1)
        x = _conv(config.widths[0], "stem")(x)
        skips = []
        for i, w in enumerate(config.widths):
            if i:
                skips.append(x)
                x = _conv(w, f"down{i}", stride=2)(x)
            x = _Residual(w, name=f"in{i}")(x)
        x = _Residual(config.widths[-1], name="bottom")(x)
        for i in reversed(range(len(skips))):
            w = config.widths[i]
            x = skips[i] + _enlarge(_conv(w, f"up{i}", size=1)(x))
            x = _Residual(w, name=f"out{i}")(x)
        x = nn.gelu(_Norm(name="last")(x))
        # The scores of an untrained network: the agreement of the views on each plane.
        agreement = jnp.mean(matches.reshape(*matches.shape[:3], config.groups, -1), axis=3)
        gain = self.param("gain", nn.initializers.constant(16.0), ())
        small = nn.initializers.normal(0.01)
        scores = nn.Conv(config.planes, (3, 3), name="scores", kernel_init=small)(x) + gain * agreement
        x = jnp.concatenate([x, jax.nn.softmax(scores, axis=-1)], axis=-1)
        x = nn.gelu(nn.Conv(2 * config.widths[0], (3, 3), name="hidden")(x))
        return scores, nn.Conv(config.outputs, (1, 1), name="head", kernel_init=small)(x)


def _enlarge(x: Float[Array, "v a b f"]) -> Float[Array, "v c d f"]:
    """Twice as high and wide, every cell repeated."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def plane_sweep_networks(config: PlaneSweepConfig) -> PlaneSweepNetworks:
    """The networks of a configuration."""
    encoder, decoder = _Features(config), _Decoder(config)

    def init(key):
        key_encoder, key_decoder = jax.random.split(key)
        images = jnp.zeros((1, MULTIPLE, MULTIPLE, 3))
        cells = (1, MULTIPLE // CELL, MULTIPLE // CELL)
        matches = jnp.zeros((*cells, config.groups * config.planes))
        features = jnp.zeros((*cells, config.matching))
        return {
            "features": encoder.init(key_encoder, images)["params"],
            "decoder": decoder.init(key_decoder, images, matches, features)["params"],
        }

    def features(params, images):
        return encoder.apply({"params": params["features"]}, images)

    def decode(params, images, matches, features):
        return decoder.apply({"params": params["decoder"]}, images, matches, features)

    return PlaneSweepNetworks(init, features, decode)
