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

from airjax.nn.blocks import CELL, MULTIPLE, Norm, Residual, conv, enlarge, pyramid


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


class _Features(nn.Module):
    """Features of every view at half its resolution, with context from an eighth."""

    config: PlaneSweepConfig

    @nn.compact
    def __call__(self, images):
        x, _ = pyramid(images, self.config.matching)
        return conv(self.config.matching, "out")(nn.gelu(Norm(name="last")(x)))


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
        x = conv(config.widths[0], "stem")(x)
        skips = []
        for i, w in enumerate(config.widths):
            if i:
                skips.append(x)
                x = conv(w, f"down{i}", stride=2)(x)
            x = Residual(w, name=f"in{i}")(x)
        x = Residual(config.widths[-1], name="bottom")(x)
        for i in reversed(range(len(skips))):
            w = config.widths[i]
            x = skips[i] + enlarge(conv(w, f"up{i}", size=1)(x))
            x = Residual(w, name=f"out{i}")(x)
        x = nn.gelu(Norm(name="last")(x))
        # The scores of an untrained network: the agreement of the views on each plane.
        agreement = jnp.mean(matches.reshape(*matches.shape[:3], config.groups, -1), axis=3)
        gain = self.param("gain", nn.initializers.constant(16.0), ())
        small = nn.initializers.normal(0.01)
        scores = nn.Conv(config.planes, (3, 3), name="scores", kernel_init=small)(x) + gain * agreement
        x = jnp.concatenate([x, jax.nn.softmax(scores, axis=-1)], axis=-1)
        x = nn.gelu(nn.Conv(2 * config.widths[0], (3, 3), name="hidden")(x))
        return scores, nn.Conv(config.outputs, (1, 1), name="head", kernel_init=small)(x)


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
