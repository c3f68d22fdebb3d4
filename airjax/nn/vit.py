"""Vision transformers, as DINOv2, DINOv3, VGGT and Pi3 are made of them: one block, its stacks, and image encoders.

Letters: v views, n tokens of a view, d width; h, w pixels; (r, c) the patch grid. Parameters are float32; what a block
computes may be bfloat16 but for norms, positions and the softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.nn.resize import bicubic
from airjax.nn.rope import Angles, axial_angles, axial_periods, rotate

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REGISTERS = 4
SPECIAL = 1 + REGISTERS  # tokens before the patches: that of the class, and registers

_QUERIES = 512  # of which the scores are held at a time,
_MANY = 2048  # where there are more tokens than this


@dataclass(frozen=True)
class BlockConfig:
    """One transformer block."""

    width: int
    heads: int
    epsilon: float = 1e-6  # of the layer norms
    qk_epsilon: float | None = None  # of layer norms of queries and keys; None for none
    layer_scale: float | None = None  # what the gains of both branches start from; None for no gains
    expansion: int = 4  # hidden width of the MLP, in widths
    dtype: str = "float32"  # of products: or "bfloat16"
    remat: bool = False  # whether a gradient computes the block again instead of storing it


def layer_norm(epsilon: float, name: str | None = None, **options: Any) -> nn.LayerNorm:
    """Layer norm over the last axis, in float32 and with an exact variance."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=jnp.float32, name=name, **options)


gelu = partial(nn.gelu, approximate=False)


def attend(
    q: Float[Array, "*b n h e"], k: Float[Array, "*b m h e"], v: Float[Array, "*b m h e"]
) -> Float[Array, "*b n h e"]:
    """Softmax attention of every head; of many tokens, some queries at a time, so that the scores fit memory."""
    if q.dtype == jnp.bfloat16 and jax.default_backend() == "gpu":
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    tokens = q.shape[-3]
    if tokens <= _MANY:
        return jax.nn.dot_product_attention(q, k, v)
    parts = jnp.pad(q, [(0, 0)] * (q.ndim - 3) + [(0, -tokens % _QUERIES), (0, 0), (0, 0)])
    parts = jnp.moveaxis(parts.reshape(*q.shape[:-3], -1, _QUERIES, *q.shape[-2:]), -4, 0)
    done = jax.lax.map(lambda part: jax.nn.dot_product_attention(part, k, v), parts)
    return jnp.moveaxis(done, 0, -4).reshape(*q.shape[:-3], -1, *q.shape[-2:])[..., :tokens, :, :]


class Attention(nn.Module):
    """Attention of tokens to one another."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*b n d"], angles: Angles | None):
        width, heads, epsilon, dtype = self.config.width, self.config.heads, self.config.qk_epsilon, self.config.dtype
        qkv = nn.Dense(3 * width, dtype=dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:-1], 3, heads, width // heads), -3, 0)
        if epsilon is not None:
            q, k = layer_norm(epsilon, "q_norm")(q), layer_norm(epsilon, "k_norm")(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        mixed = attend(q.astype(v.dtype), k.astype(v.dtype), v).reshape(x.shape)
        return nn.Dense(width, dtype=dtype, name="proj")(mixed)


class Mlp(nn.Module):
    """Two layers around a GELU."""

    hidden: int
    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        x = gelu(nn.Dense(self.hidden, dtype=self.dtype, name="fc1")(x))
        return nn.Dense(self.width, dtype=self.dtype, name="fc2")(x)


class Block(nn.Module):
    """x + Attention(norm(x)), then x + MLP(norm(x)), each branch with a gain for every channel if asked for."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*b n d"], angles: Angles | None = None) -> Float[Array, "*b n d"]:
        config = self.config

        def scaled(branch, name):
            branch = branch.astype(x.dtype)
            if config.layer_scale is None:
                return branch
            gains = self.param(name, nn.initializers.constant(config.layer_scale), (config.width,))
            return branch * gains.reshape((1,) * (x.ndim - 1) + (-1,))

        x = x + scaled(Attention(config, name="attn")(layer_norm(config.epsilon, "norm1")(x), angles), "ls1")
        mlp = Mlp(config.expansion * config.width, config.width, config.dtype, name="mlp")
        return x + scaled(mlp(layer_norm(config.epsilon, "norm2")(x)), "ls2")


class _Step(nn.Module):
    """One block of a stack, in the form of a scan."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x, angles):
        return Block(self.config, name="block")(x, angles), None


def scanned(step: Any, config: BlockConfig, count: int, name: str) -> Any:
    """`count` steps, one after the other, as one loop; their parameters lie along a first axis."""
    step = nn.remat(step, prevent_cse=False) if config.remat else step
    many: Any = nn.scan(
        step, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=count
    )
    return many(config, name=name)


class Blocks(nn.Module):
    """Blocks of one configuration, one after the other."""

    config: BlockConfig
    count: int

    @nn.compact
    def __call__(self, x: Float[Array, "*b n d"], angles: Angles | None = None) -> Float[Array, "*b n d"]:
        return scanned(_Step, self.config, self.count, "stack")(x, angles)[0]


class _Pair(nn.Module):
    """A block inside every view, then one over all of them; what both said, and the tokens after each."""

    config: BlockConfig

    @nn.compact
    def __call__(self, carry, angles):
        tokens, _ = carry
        views, count, width = tokens.shape
        own = Block(self.config, name="frame")(tokens, angles)
        everywhere = None if angles is None else jnp.tile(angles, (views, 1, 1))
        joint = Block(self.config, name="global_")(own.reshape(1, views * count, width), everywhere)
        return (joint.reshape(tokens.shape), own), None


class Alternating(nn.Module):
    """Pairs of blocks, of which the first looks inside each view and the second at all views (VGGT, Pi3).

    Gives, after each of the counts, the tokens after the last pair's first block and those after its second, joined.
    """

    config: BlockConfig
    counts: tuple[int, ...]  # of pairs, in turn

    @nn.compact
    def __call__(self, tokens: Float[Array, "v n d"], angles: Angles | None) -> list[Float[Array, "v n e"]]:
        carry, taps = (tokens, tokens), []
        for i, count in enumerate(self.counts):
            carry, _ = scanned(_Pair, self.config, count, f"pairs{i}")(carry, angles)
            taps.append(jnp.concatenate(carry[::-1], axis=-1))
        return taps


@dataclass(frozen=True)
class EncoderConfig:
    """An image encoder: DINOv2 with registers, or DINOv3."""

    block: BlockConfig
    patch: int  # side of a patch, pixels
    counts: tuple[int, ...]  # of blocks, in turn; the tokens after each are given
    positions: int | None = 37  # side of the grid of learned positions (DINOv2); None for rotary ones (DINOv3)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD  # mean, std: what images are normalised by


def dino_v2_large(dtype: str = "float32", remat: bool = False, **options: Any) -> EncoderConfig:
    """DINOv2 ViT-L/14 with registers."""
    return EncoderConfig(BlockConfig(1024, 16, layer_scale=1.0, dtype=dtype, remat=remat), 14, (24,), **options)


def dino_v2_base(dtype: str = "float32", remat: bool = False, **options: Any) -> EncoderConfig:
    """DINOv2 ViT-B/14 with registers."""
    return EncoderConfig(BlockConfig(768, 12, layer_scale=1.0, dtype=dtype, remat=remat), 14, (12,), **options)


def dino_v3_base(dtype: str = "float32", remat: bool = False) -> EncoderConfig:
    """DINOv3 ViT-B/16, seen after its sixth and its last block."""
    block = BlockConfig(768, 12, epsilon=1e-5, layer_scale=1e-5, dtype=dtype, remat=remat)
    return EncoderConfig(block, 16, (6, 6), positions=None)


class Encoder(nn.Module):
    """Images to normalised tokens [class, 4 registers, patches row by row], after each of the counts of blocks."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, images: Float[Array, "v h w 3"]) -> list[Float[Array, "v n d"]]:
        config, block = self.config, self.config.block
        width, normal = block.width, nn.initializers.normal(0.02)
        mean, std = (np.array(numbers, np.float32)[None, None, None] for numbers in (config.mean, config.std))
        images = (images - mean) / std
        patches = patch_embed(width, config.patch, block.dtype)(images).astype(jnp.float32)
        grid = patches.shape[1], patches.shape[2]
        patches = patches.reshape(len(images), -1, width)
        first = self.param("cls_token", normal, (1, width))
        registers = self.param("registers", normal, (REGISTERS, width))
        angles = None
        if config.positions is None:
            periods = self.param("periods", lambda _: jnp.asarray(axial_periods(width // block.heads)))
            angles = axial_angles(grid, jax.lax.stop_gradient(periods), special=SPECIAL)
        else:
            learned = self.param("positions", normal, (1 + config.positions**2, width))
            first = first + learned[:1]
            patches = patches + _positions(learned[1:], config.positions, grid)[None]
        start = jnp.broadcast_to(jnp.concatenate([first, registers]), (len(images), SPECIAL, width))
        x, norm, outputs = jnp.concatenate([start, patches], axis=1), layer_norm(block.epsilon, "norm"), []
        for i, count in enumerate(config.counts):
            x = Blocks(block, count, name=f"blocks{i}")(x, angles)
            outputs.append(norm(x))
        return outputs


def patch_embed(width: int, patch: int, dtype: str, name: str = "patch_embed") -> nn.Conv:
    """A linear layer of every square of pixels."""
    return nn.Conv(width, (patch, patch), strides=(patch, patch), padding="VALID", dtype=dtype, name=name)


def _positions(learned: Float[Array, "p d"], side: int, grid: tuple[int, int]) -> Float[Array, "n d"]:
    """Learned positions of a square grid, at another size."""
    if grid != (side, side):
        learned = bicubic(learned.reshape(side, side, -1), grid)
    return learned.reshape(grid[0] * grid[1], -1)


def count_parameters(init: Callable[[jax.Array], Any]) -> int:
    """Number of weights that `init` would make, without making any."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
