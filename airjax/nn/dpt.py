"""Maps of pixels from the tokens of several depths of a transformer: the DPT heads of VGGT.

Tokens of each depth (a tap) become a grid; the four grids, four and two times as fine as the patches, as fine, and half
as fine, are fused from the coarsest on. Views are independent of one another: `one_by_one` bounds memory.

Letters: v views, n patches in r rows and c columns, d width of a tap; h, w pixels; f, k channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from airjax.nn.conv_stack import Enlarge, Grids
from airjax.nn.resize import bilinear_by_corners, waves
from airjax.nn.vit import layer_norm

FINER = 8  # rows of what is fused, in rows of patches
_WAVES = 0.1  # factor of `airjax.nn.resize.waves`
_TIMES = (4, 2, 1)  # how much finer than the patches the grids of the first taps are


@dataclass(frozen=True)
class TrunkConfig:
    """What fuses four taps."""

    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)  # of their grids
    features: int = 256  # channels of what is fused
    norm: bool = True  # whether taps go through a layer norm, one for all
    waves: bool = True  # whether the network is told where on the image it is
    adapters: bool = True  # 3 x 3 convolutions from `channels` to `features`; without, all are equal
    # Whether a residual unit adds to relu(x), as VGGT was trained (its activation works in place), or to x itself.
    relu_skip: bool = True
    all_units: bool = False  # whether the coarsest grid passes two residual units too, not its second alone


@dataclass(frozen=True)
class HeadConfig:
    """A trunk, and what makes numbers of pixels of it."""

    outputs: int
    hidden: int = 32  # width of the layer before the last
    image: bool = False  # whether features of the image itself are added
    trunk: TrunkConfig = TrunkConfig()


def conv(width: int, name: str, *, size: int = 3, **options: Any) -> nn.Conv:
    """A convolution; beyond its edges a grid is 0."""
    return nn.Conv(width, (size, size), padding=size // 2, name=name, **options)


class Unit(nn.Module):
    """A residual unit of two convolutions."""

    relu_skip: bool

    @nn.compact
    def __call__(self, x: Grids) -> Grids:
        active = nn.relu(x)
        y = conv(x.shape[-1], "conv2")(nn.relu(conv(x.shape[-1], "conv1")(active)))
        return y + (active if self.relu_skip else x)


class Fusion(nn.Module):
    """What was fused so far with a finer grid, at another size."""

    relu_skip: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "v h w f"] | None, finer: Float[Array, "v h w f"], size: tuple[int, int]
    ) -> Float[Array, "v a b f"]:
        x = finer if x is None else x + Unit(self.relu_skip, name="unit1")(finer)
        x = Unit(self.relu_skip, name="unit2")(x)
        # Before the resize, where there is less of it: both are linear, and the weights of a resize add up to 1.
        return bilinear_by_corners(nn.Dense(x.shape[-1], name="out")(x), size)


def _with_waves(x: Grids, aspect: float) -> Grids:
    return x + _WAVES * waves((x.shape[1], x.shape[2]), x.shape[3], aspect)[None]


class Trunk(nn.Module):
    """Four taps, patches alone, from the first to the last: one grid of features."""

    config: TrunkConfig

    @nn.compact
    def __call__(self, taps: Sequence[Float[Array, "v n d"]], grid: tuple[int, int]) -> Float[Array, "v a b f"]:
        config, (rows, columns) = self.config, grid
        norm, grids = layer_norm(1e-5, "norm") if config.norm else (lambda x: x), []
        for i, (tap, width) in enumerate(zip(taps, config.channels, strict=True)):
            x = nn.Dense(width, name=f"project{i}")(norm(tap)).reshape(len(tap), rows, columns, width)
            if config.waves:
                x = _with_waves(x, columns / rows)
            if i == len(_TIMES):
                x = conv(width, f"resize{i}", strides=2)(x)
            elif _TIMES[i] > 1:
                x = Enlarge(width, _TIMES[i], name=f"resize{i}")(x)
            grids.append(conv(config.features, f"adapt{i}", use_bias=False)(x) if config.adapters else x)
        sizes = [(FINER * rows, FINER * columns), *((times * rows, times * columns) for times in _TIMES)]
        fused: Any = 0 * grids[-1] if config.all_units else None
        for i in reversed(range(len(grids))):
            fused = Fusion(config.relu_skip, name=f"fuse{i}")(fused, grids[i], sizes[i])
        return fused


class Head(nn.Module):
    """Four taps, patches alone, and the images that they are of: numbers of every pixel."""

    config: HeadConfig

    @nn.compact
    def __call__(
        self, taps: Sequence[Float[Array, "v n d"]], images: Float[Array, "v h w 3"]
    ) -> Float[Array, "v h w k"]:
        config, (_, height, width, _) = self.config, images.shape
        columns = round((taps[0].shape[1] * width / height) ** 0.5)
        x = Trunk(config.trunk, name="trunk")(taps, (taps[0].shape[1] // columns, columns))
        x = bilinear_by_corners(conv(config.trunk.features // 2, "reduce")(x), (height, width))
        if config.image:
            x = x + nn.relu(conv(x.shape[-1], "image", size=7)(images))
        if config.trunk.waves:
            x = _with_waves(x, width / height)
        return nn.Dense(config.outputs, name="last")(nn.relu(conv(config.hidden, "hidden")(x)))


def one_by_one(function: Callable[..., jax.Array], *views: Any) -> jax.Array:
    """A function of views, given one view at a time; a gradient computes what it needs again.

    `views` are trees of arrays with an axis of views, as the function takes them.
    """

    @partial(jax.checkpoint, prevent_cse=False)
    def single(view):
        return function(*jax.tree.map(lambda leaf: leaf[None], view))[0]

    return jax.lax.map(single, views)
