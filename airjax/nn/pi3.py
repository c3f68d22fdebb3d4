"""Pi3X: views without cameras to points, confidences and cameras, no view of which is the reference.

Images pass DINOv2; a decoder of pairs of blocks looks inside each view and over all of them; three small decoders and
their heads make a point for every pixel, its confidence, and the pose of every view; a fourth one the unit of length.
After Pi3 (Wang et al. 2025) and its successor Pi3X. Its optional inputs (known depths, rays and poses) are not built:
weights of that branch are left out.

Letters: v views, h, w pixels, r, c the patch grid, n tokens of a view, d width, e = 2 d.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.nn.conv_stack import Double, Residual, conv_at_edges, places
from airjax.nn.resize import bilinear
from airjax.nn.rope import Angles, grid_angles, rotate
from airjax.nn.vit import (
    SPECIAL,
    Alternating,
    BlockConfig,
    Blocks,
    Encoder,
    EncoderConfig,
    Mlp,
    attend,
    dino_v2_base,
    dino_v2_large,
    layer_norm,
    scanned,
)

REGISTERS = 5  # tokens before the patches of a view in the decoder
QUARTERS = 2  # parts of a patch along each side that have features

_LARGEST = 15.0  # logarithm of a depth
_GROUP = 32  # channels of a group norm inside a residual block


@dataclass(frozen=True)
class Pi3Config:
    """Sizes of a network."""

    encoder: EncoderConfig
    decoder: BlockConfig  # of both blocks of a pair
    pairs: tuple[int, ...]  # of blocks, in turn; the tokens after each are a tap
    head: BlockConfig  # of the decoders of points, confidences and poses
    head_blocks: int = 5
    # widths of maps, each twice as large as the last; none for one linear layer up to pixels, as Pi3 has it
    widths: tuple[int, ...] = (256, 128, 64)
    residuals: int = 2  # blocks at every size
    hidden: int = 32  # channels before the last layer
    camera: int = 512  # width of the pose head
    metric: BlockConfig | None = None  # of the decoder of the unit of length; None for none
    metric_blocks: int = 5
    adapted: bool = False  # whether a layer and a norm lie between encoder and decoder, as where widths differ
    matching: int = 0  # channels by which quarters of patches are found in other views; published ones have none


def pi3x(dtype: str = "float32", remat: bool = False) -> Pi3Config:
    """Pi3X as published, 992 M weights; the taps are those of ForeSplat: blocks {8, 18, 26, 34}, each with the next."""
    head, metric = (BlockConfig(width, width // 64, dtype=dtype, remat=remat) for width in (1024, 512))
    decoder = replace(head, qk_epsilon=1e-5, layer_scale=0.01)
    return Pi3Config(dino_v2_large(dtype, remat), decoder, (5, 5, 4, 4), head, metric=metric)


def edge(dtype: str = "float32", remat: bool = False) -> Pi3Config:
    """The student of ForeSplat, 606 M weights: a smaller encoder, 24 blocks, no unit of length.

    That the taps are evenly spaced is a choice.
    """
    head = BlockConfig(1024, 16, dtype=dtype, remat=remat)
    decoder = replace(head, qk_epsilon=1e-5, layer_scale=0.01)
    return Pi3Config(dino_v2_base(dtype, remat), decoder, (3, 3, 3, 3), head, adapted=True)


def small(
    width: int = 160,
    heads: int = 4,
    *,
    patch: int = 8,
    blocks: int = 2,
    pairs: tuple[int, ...] = (1, 1, 1, 1),
    matching: int = 0,
) -> Pi3Config:
    """A narrow network to be trained from fresh weights: rotary positions in its encoder too."""
    head = BlockConfig(width, heads)
    decoder = replace(head, qk_epsilon=1e-5)
    encoder = EncoderConfig(head, patch, (blocks,), positions=None)
    return Pi3Config(encoder, decoder, pairs, head, 1, (), hidden=16, camera=width, matching=matching)


class Pi3Output(NamedTuple):
    """What a network says of views; lengths are meters if it has a decoder of the unit, else of a unit of the scene."""

    points: Float[Array, "v h w 3"]  # in the camera of their own view: x right, y down, z ahead
    confidence: Float[Array, "v h w"]  # logit
    rotations: Float[Array, "v 3 3"]  # camera to world
    translations: Float[Array, "v 3"]  # places of the cameras in the world
    metric: Float[Array, ""] | None  # by which points and translations have been multiplied
    taps: list[Float[Array, "v r c e"]]  # patch tokens inside the decoder; the last one is its output
    # of quarters of patches, unit vectors times a gain: the product of two is the logit of their being the same place
    features: Float[Array, "v a b m"] | None = None


class ConvHead(nn.Module):
    """Token maps to maps of pixels: grids grow by transposed convolutions and know where they are (MoGe)."""

    widths: tuple[int, ...]
    residuals: int
    hidden: int
    outputs: tuple[int, ...]  # channels of each of the maps
    patch: int

    @nn.compact
    def __call__(self, x: Float[Array, "v r c d"]) -> list[Float[Array, "v h w _"]]:
        if not self.widths:
            flat = nn.Dense(sum(self.outputs) * self.patch**2, kernel_init=nn.initializers.normal(0.01), name="pixels")
            return jnp.split(squares(flat(x), self.patch), np.cumsum(self.outputs[:-1]), axis=-1)
        size = self.patch * x.shape[1], self.patch * x.shape[2]
        aspect = size[1] / size[0]
        for i, width in enumerate(self.widths):
            x = Double(width, name=f"up{i}")(jnp.concatenate([x, places(x, aspect)], axis=-1))
            groups = 1, next(n for n in range(max(1, 2 * width // _GROUP), 0, -1) if 2 * width % n == 0)
            for j in range(self.residuals):
                x = Residual(2 * width, groups, name=f"residual{i}_{j}")(x)
        x = bilinear(x, size)
        x = jnp.concatenate([x, places(x, aspect)], axis=-1)
        hidden = [nn.relu(conv_at_edges(x, self.hidden, f"hidden{k}")) for k in range(len(self.outputs))]
        start = nn.initializers.normal(0.01)  # fresh weights say that all is one unit away
        return [nn.Dense(n, kernel_init=start, name=f"out{k}")(hidden[k]) for k, n in enumerate(self.outputs)]


def squares(x: Float[Array, "v r c d"], side: int) -> Float[Array, "v a b k"]:
    """Every cell as a square of side x side cells, k = d / side^2."""
    views, rows, columns, _ = x.shape
    x = x.reshape(views, rows, columns, side, side, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(views, rows * side, columns * side, -1)


class Matching(nn.Module):
    """Tokens to features of their quarters; see `Pi3Output.features`."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "v r c e"]) -> Float[Array, "v a b m"]:
        x = Mlp(x.shape[-1], QUARTERS**2 * self.width, name="mlp")(layer_norm(1e-6, "norm")(x))
        x = squares(x, QUARTERS)
        gain = self.param("log_gain", nn.initializers.constant(1.0), ())
        return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-6) * jnp.exp(gain)


class TokenDecoder(nn.Module):
    """Blocks inside each view, between two linear layers."""

    config: BlockConfig
    count: int
    outputs: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "v n e"], angles: Angles) -> Float[Array, "v n _"]:
        dtype = self.config.dtype
        x = nn.Dense(self.config.width, dtype=dtype, name="projects")(tokens).astype(jnp.float32)
        x = Blocks(self.config, self.count, name="blocks")(x, angles)
        return nn.Dense(self.outputs, dtype=dtype, name="linear_out")(x).astype(jnp.float32)


class CameraHead(nn.Module):
    """Tokens of views to their poses."""

    @nn.compact
    def __call__(self, x: Float[Array, "v n d"]) -> tuple[Float[Array, "v 3 3"], Float[Array, "v 3"]]:
        width = x.shape[-1]
        for i in range(2):
            y = x
            for j in range(3):
                y = nn.relu(nn.Dense(width, name=f"residual{i}_{j}")(y))
            x = x + y
        x = jnp.mean(x, axis=1)
        for i in range(2):
            x = nn.relu(nn.Dense(width, name=f"dense{i}")(x))
        # Fresh weights start near the identity.
        upright = nn.Dense(9, bias_init=lambda *_: jnp.eye(3).ravel(), name="rotation")(x)
        return nearest_rotation(upright.reshape(-1, 3, 3)), nn.Dense(3, name="translation")(x)


def nearest_rotation(matrices: Float[Array, "v 3 3"]) -> Float[Array, "v 3 3"]:
    """Rotations next to matrices whose rows are made unit vectors first; their gradients are finite everywhere."""
    lengths = jnp.sqrt(jnp.sum(jnp.square(matrices), axis=-1, keepdims=True) + 1e-24)
    return _procrustes(matrices / lengths)


def _parts(m):
    """(U, s, V^T) of m = U diag(s) V^T with U V^T a rotation; the last of s may be negative."""
    u, s, vt = jnp.linalg.svd(m)
    sign = jnp.sign(jnp.linalg.det(u) * jnp.linalg.det(vt))
    flip = jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign], axis=-1)
    return u * flip[:, None], s * flip, vt


_product = partial(jnp.matmul, precision="highest")


@jax.custom_jvp
def _procrustes(m: Float[Array, "v 3 3"]) -> Float[Array, "v 3 3"]:
    u, _, vt = _parts(m)
    return _product(u, vt)


@_procrustes.defjvp
def _turned(primals, tangents):
    """R^T m stays symmetric, so that in the frames of U and V a change of R is (x - x^T)_ij / (s_i + s_j).

    The derivative of the SVD itself is infinite at a rotation, where all s are 1.
    """
    (m,), (change,) = primals, tangents
    u, s, vt = _parts(m)
    x = _product(_product(jnp.swapaxes(u, 1, 2), change), jnp.swapaxes(vt, 1, 2))
    sums = jnp.maximum(s[:, :, None] + s[:, None, :], 1e-4)
    return _product(u, vt), _product(_product(u, (x - jnp.swapaxes(x, 1, 2)) / sums), vt)


class _CrossStep(nn.Module):
    """One token that looks at all the others, in the form of a scan."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x, others):
        tokens, angles = others
        config = self.config
        heads = config.heads, config.width // config.heads

        def split(name, y):
            return nn.Dense(config.width, dtype=config.dtype, name=name)(y).reshape(*y.shape[:-1], *heads)

        y = layer_norm(config.epsilon, "norm_y")(tokens)
        q, k, v = split("q_proj", layer_norm(config.epsilon, "norm2")(x)), split("k_proj", y), split("v_proj", y)
        mixed = attend(q, rotate(k, angles), v).reshape(x.shape)  # the one token has no position
        x = x + nn.Dense(config.width, dtype=config.dtype, name="proj")(mixed).astype(x.dtype)
        mlp = Mlp(config.expansion * config.width, config.width, config.dtype, name="mlp")
        return x + mlp(layer_norm(config.epsilon, "norm3")(x)).astype(x.dtype), None


class MetricDecoder(nn.Module):
    """One token asks those of all views for the unit of length."""

    config: BlockConfig
    count: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "v n e"], angles: Angles) -> Float[Array, ""]:
        config, everything = self.config, tokens.reshape(1, -1, tokens.shape[-1])
        token = self.param("metric_token", nn.initializers.normal(0.02), (1, 1, tokens.shape[-1]))
        x = nn.Dense(config.width, name="projects_x")(token)
        y = nn.Dense(config.width, dtype=config.dtype, name="projects_y")(everything).astype(jnp.float32)
        x, _ = scanned(_CrossStep, config, self.count, "stack")(x, (y, jnp.tile(angles, (len(tokens), 1, 1))))
        x = nn.Dense(config.width, name="linear_out")(x)
        return jnp.exp(nn.Dense(1, name="metric_head")(x))[0, 0, 0]


class Pi3Network(nn.Module):
    """Views in any order to `Pi3Output`; heights and widths are multiples of the patch."""

    config: Pi3Config

    @nn.compact
    def __call__(self, images: Float[Array, "v h w 3"]) -> Pi3Output:
        config, patch = self.config, self.config.encoder.patch
        views, height, width, _ = images.shape
        if height % patch or width % patch:
            raise ValueError(f"images: expected sides that are multiples of {patch}, got {height} x {width}")
        grid, wide = (height // patch, width // patch), config.decoder.width
        angles = partial(_angles, grid)

        tokens = Encoder(config.encoder, name="encoder")(images)[-1][:, SPECIAL:]
        if config.adapted:
            tokens = layer_norm(1e-6, "adapter_norm")(nn.Dense(wide, name="adapter")(tokens))
        registers = self.param("register_token", nn.initializers.normal(0.02), (REGISTERS, wide))
        registers = jnp.broadcast_to(registers[None], (views, REGISTERS, wide))
        tokens = jnp.concatenate([registers, tokens], axis=1)
        taps = Alternating(config.decoder, config.pairs, name="decoder")(tokens, angles(config.decoder))

        def decoded(name: str, outputs: int) -> Float[Array, "v n d"]:
            decoder = TokenDecoder(config.head, config.head_blocks, outputs, name=name)
            return decoder(taps[-1], angles(config.head))[:, REGISTERS:]

        def grids(tokens: Float[Array, "v n d"]) -> Float[Array, "v r c d"]:
            return tokens.reshape(views, *grid, -1)

        sizes = config.widths, config.residuals, config.hidden
        head = ConvHead(*sizes, (2, 1), patch, name="point_head")
        flat, depths = head(grids(decoded("point_decoder", config.head.width)))
        head = ConvHead(*sizes, (1,), patch, name="conf_head")
        (confidence,) = head(grids(decoded("conf_decoder", config.head.width)))
        rotations, translations = CameraHead(name="camera_head")(decoded("camera_decoder", config.camera))
        depths = jnp.exp(jnp.minimum(depths, _LARGEST))
        points = jnp.concatenate([flat * depths, depths], axis=-1)
        metric = None
        if config.metric is not None:
            decoder = MetricDecoder(config.metric, config.metric_blocks, name="metric_decoder")
            metric = decoder(taps[-1], angles(config.metric))
            points, translations = points * metric, translations * metric
        taps = [grids(tap[:, REGISTERS:]) for tap in taps]
        features = Matching(config.matching, name="matching")(taps[-1]) if config.matching else None
        return Pi3Output(points, confidence[..., 0], rotations, translations, metric, taps, features)


def _angles(grid: tuple[int, int], config: BlockConfig) -> Float[Array, "n s m"]:
    return grid_angles(grid, config.width // config.heads, special=REGISTERS)


def init_params(key: jax.Array, config: Pi3Config) -> dict:
    """Fresh weights."""
    side = 2 * config.encoder.patch
    return Pi3Network(config).init(key, jnp.zeros((1, side, side, 3)))["params"]


def apply(params: dict, images: Float[Array, "v h w 3"] | Float[np.ndarray, "v h w 3"], config: Pi3Config) -> Pi3Output:
    """`Pi3Network` of weights."""
    network: Any = Pi3Network(config)
    return network.apply({"params": params}, jnp.asarray(images))
