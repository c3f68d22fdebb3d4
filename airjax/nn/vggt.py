"""VGGT, with a head for Gaussians as AnySplat has it: photographs without poses to cameras and depths in one pass.

Patches of all views, from DINOv2, go through pairs of blocks: one inside every view, one over all of them. The first
view is the reference. Heads read the tokens after four of the pairs (taps).

Letters: v views, n tokens of a view (5 special ones first), d width of a tap (twice that of a block); h, w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.nn.dpt import Head, HeadConfig, TrunkConfig, one_by_one
from airjax.nn.rope import grid_angles
from airjax.nn.vit import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    REGISTERS,
    SPECIAL,
    Alternating,
    BlockConfig,
    Blocks,
    Encoder,
    EncoderConfig,
    Mlp,
    layer_norm,
)

POSE = 9  # numbers: translation 3, quaternion x y z w, fields of view of height and width in radians
_ROUNDS = 4  # in which the cameras are found


@dataclass(frozen=True)
class VggtConfig:
    """Sizes; those of VGGT-1B with the Gaussian head of AnySplat."""

    width: int = 1024  # of the blocks and of the encoder
    heads: int = 16
    counts: tuple[int, ...] = (5, 7, 6, 6)  # of pairs of blocks, with a tap after each
    encoder_heads: int = 16
    encoder_blocks: int = 24
    camera_heads: int = 16
    camera_blocks: int = 4
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)  # of the grids of the heads (`TrunkConfig`)
    depth_features: int = 256
    gaussian_features: int = 256
    gaussian_hidden: int = 128
    gaussian_numbers: int = 84  # of a pixel
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD  # mean, std: what images are normalised by
    dtype: str = "float32"  # of products in the blocks: or "bfloat16"; heads are in float32
    remat: bool = False  # whether a gradient computes blocks again

    @property
    def patch(self) -> int:
        """Side of a patch, pixels."""
        return 14

    @property
    def encoder(self) -> EncoderConfig:
        """DINOv2 with registers."""
        block = BlockConfig(self.width, self.encoder_heads, layer_scale=1.0, dtype=self.dtype, remat=self.remat)
        return EncoderConfig(block, self.patch, (self.encoder_blocks,), mean=self.mean, std=self.std)

    @property
    def block(self) -> BlockConfig:
        """Of the pairs."""
        return BlockConfig(self.width, self.heads, 1e-5, 1e-5, 0.01, dtype=self.dtype, remat=self.remat)

    @property
    def camera(self) -> BlockConfig:
        """Of the camera head."""
        return BlockConfig(2 * self.width, self.camera_heads, epsilon=1e-5, layer_scale=0.01, remat=self.remat)

    @property
    def depth(self) -> HeadConfig:
        """Logarithms of the depth, and of the confidence above 1."""
        return HeadConfig(2, trunk=TrunkConfig(self.channels, self.depth_features))

    @property
    def gaussians(self) -> HeadConfig:
        """Numbers of a Gaussian, not activated, and its confidence."""
        trunk = TrunkConfig(self.channels, self.gaussian_features)
        return HeadConfig(self.gaussian_numbers, self.gaussian_hidden, image=True, trunk=trunk)


class Aggregator(nn.Module):
    """Views to taps."""

    config: VggtConfig

    @nn.compact
    def __call__(self, images: Float[Array, "v h w 3"]) -> list[Float[Array, "v n d"]]:
        config, (views, height, width, _) = self.config, images.shape
        patches = Encoder(config.encoder, name="encoder")(images)[-1][:, SPECIAL:]
        first = np.minimum(np.arange(views), 1)  # the reference has tokens of its own

        def special(name, count):
            return self.param(name, nn.initializers.normal(0.02), (2, count, config.width))[first]

        tokens = jnp.concatenate([special("camera_token", 1), special("register_token", REGISTERS), patches], axis=1)
        grid = (height // config.patch, width // config.patch)
        angles = grid_angles(grid, config.width // config.heads, special=SPECIAL)
        return Alternating(config.block, config.counts, name="pairs")(tokens, angles)


class CameraHead(nn.Module):
    """Camera tokens of the last tap to poses, in rounds that each add to what the last one found."""

    config: VggtConfig

    @nn.compact
    def __call__(self, tokens: Float[Array, "v d"]) -> Float[Array, "v 9"]:
        width = tokens.shape[-1]
        tokens = layer_norm(1e-5, "token_norm")(tokens)
        plain = layer_norm(1e-6, use_scale=False, use_bias=False)(tokens)
        embed, modulate = nn.Dense(width, name="embed"), nn.Dense(3 * width, name="modulate")
        trunk, norm = Blocks(self.config.camera, self.config.camera_blocks, name="trunk"), layer_norm(1e-5, "norm")
        mlp = Mlp(width // 2, POSE, name="mlp")
        nothing = self.param("nothing", nn.initializers.zeros, (1, POSE))
        pose: Any = None
        for _ in range(_ROUNDS):
            known = jnp.broadcast_to(nothing, (len(tokens), POSE)) if pose is None else jax.lax.stop_gradient(pose)
            shift, scale, gate = jnp.split(modulate(nn.silu(embed(known))), 3, axis=-1)
            change = mlp(norm(trunk(tokens + gate * (plain * (1 + scale) + shift))))
            pose = change if pose is None else pose + change
        return pose


class VggtNetworks(NamedTuple):
    """The networks as pure functions. Images are (v, h, w, 3) in [0, 1], sides multiples of 14 pixels."""

    init: Callable[[jax.Array], Any]  # key -> params of all
    taps: Callable[..., list[jax.Array]]  # (params, images) -> four of (v, n, d)
    poses: Callable[..., jax.Array]  # (params, taps) -> (v, 9): see `POSE`; raw fields of view, which may be below 0
    depth: Callable[..., jax.Array]  # (params, taps, images) -> (v, h, w, 2)
    gaussians: Callable[..., jax.Array]  # (params, taps, images) -> (v, h, w, k)


def vggt_networks(config: VggtConfig) -> VggtNetworks:
    """The networks of a configuration; params are a dict by part: aggregator, camera, depth, gaussians."""
    heads: dict[str, Any] = {"depth": Head(config.depth), "gaussians": Head(config.gaussians)}
    parts: dict[str, Any] = {"aggregator": Aggregator(config), "camera": CameraHead(config), **heads}

    def init(key):
        images = jax.ShapeDtypeStruct((2, 2 * config.patch, 2 * config.patch, 3), jnp.float32)
        taps = [jax.ShapeDtypeStruct((2, 4, 2 * config.width), jnp.float32)] * 4
        inputs = {"aggregator": (images,), "camera": (jax.ShapeDtypeStruct((2, 2 * config.width), jnp.float32),)}
        keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
        return {
            name: part.lazy_init(keys[name], *inputs.get(name, (taps, images)))["params"]
            for name, part in parts.items()
        }

    def per_pixel(name):
        def run(params, taps: Sequence[jax.Array], images):
            patches = [tap[:, SPECIAL:] for tap in taps]
            return one_by_one(lambda *view: heads[name].apply({"params": params[name]}, *view), patches, images)

        return run

    return VggtNetworks(
        init,
        lambda params, images: parts["aggregator"].apply({"params": params["aggregator"]}, images),
        lambda params, taps: parts["camera"].apply({"params": params["camera"]}, taps[-1][:, 0]),
        per_pixel("depth"),
        per_pixel("gaussians"),
    )
