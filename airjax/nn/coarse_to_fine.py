"""Networks of a plane sweep in two stages: features that are compared, and a decoder of the agreements of each stage.

Letters: v views, h, w pixels, f features, d planes, k agreements of a cell with other views on a plane. A coarse cell
is a square of 4 x 4 pixels, a fine one of 2 x 2; a coarse plane has a score for each of the four fine cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.nn.blocks import CELL, COARSE, MULTIPLE, Norm, Residual, conv, enlarge, pyramid


@dataclass(frozen=True)
class CoarseToFineConfig:
    """Size of the networks."""

    planes: tuple[int, int] = (48, 8)  # numbers d, coarse and fine
    matching: int = 48  # width of the compared features
    agreements: tuple[int, int] = (9, 5)  # numbers k of a cell and a plane, coarse and fine
    coarse: tuple[int, ...] = (64, 96, 128)  # widths of the coarse decoder, at a quarter, an eighth, .. of the image
    fine: tuple[int, ...] = (48, 64, 96)  # of the fine one, at a half, a quarter, ..
    outputs: int = 52  # numbers per fine cell besides its depth

    @property
    def known(self) -> tuple[int, int]:
        """Numbers of a fine cell that are found on the way, and reach the fine decoder, and the head."""
        return 2, self.planes[1] + 2


class Features(NamedTuple):
    """Of views, to be compared and to decode from."""

    coarse: Float[Array, "v a b f"]
    fine: Float[Array, "v c d f"]


class CoarseToFineNetworks(NamedTuple):
    """The networks as pure functions."""

    init: Callable[[jax.Array], Any]  # key -> params of all
    features: Callable[..., Features]  # (params, images (v, h, w, 3)) -> features
    # (params, features.coarse, agreements (v, h/4, w/4, d, k)) -> scores (v, h/2, w/2, d), hidden (v, h/4, w/4, f)
    coarse: Callable[..., tuple[jax.Array, jax.Array]]
    # (params, images, features.fine, hidden, known (v, h/2, w/2, e), agreements (v, h/2, w/2, d, k))
    # -> scores (v, h/2, w/2, d), hidden (v, h/2, w/2, f)
    fine: Callable[..., tuple[jax.Array, jax.Array]]
    head: Callable[..., jax.Array]  # (params, hidden, known (v, h/2, w/2, e)) -> outputs (v, h/2, w/2, k)


def _last(width: int, name: str, *, size: int = 3):
    """A convolution that says little at first."""
    return nn.Conv(width, (size, size), name=name, kernel_init=nn.initializers.normal(0.01))


class _Features(nn.Module):
    """Features of every view at half and at a quarter of its resolution, with context from an eighth."""

    config: CoarseToFineConfig

    @nn.compact
    def __call__(self, images):
        width = self.config.matching
        x, y = pyramid(images, width)
        return conv(width, "out_coarse")(nn.gelu(Norm(name="last_coarse")(y))), conv(width, "out_fine")(
            nn.gelu(Norm(name="last_fine")(x))
        )


class _UNet(nn.Module):
    """Residual blocks at every scale, down and up again."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        x, skips = conv(self.widths[0], "stem")(x), []
        for i, width in enumerate(self.widths):
            if i:
                skips.append(x)
                x = conv(width, f"down{i}", stride=2)(x)
            x = Residual(width, name=f"in{i}")(x)
        for i in reversed(range(len(skips))):
            x = skips[i] + enlarge(conv(self.widths[i], f"up{i}", size=1)(x))
            x = Residual(self.widths[i], name=f"out{i}")(x)
        return nn.gelu(Norm(name="last")(x))


class _Planes(nn.Module):
    """What the agreements say of every plane: a first score, and `width` numbers."""

    width: int

    @nn.compact
    def __call__(self, agreements):
        x = nn.gelu(nn.Dense(16, name="one")(agreements))
        x = nn.Dense(1 + self.width, name="two")(x)
        half = (agreements.shape[-1] - 1) // 2
        gain = self.param("gain", nn.initializers.constant(8.0), ())
        # The scores of an untrained network: the mean agreement of the views, and the best.
        return x[..., 0] + gain * jnp.mean(agreements[..., : 2 * half], axis=-1), x[..., 1:]


class _Coarse(nn.Module):
    config: CoarseToFineConfig

    @nn.compact
    def __call__(self, features, agreements):
        views, rows, columns, planes, _ = agreements.shape
        first, volume = _Planes(2, name="planes")(agreements)
        volume = jnp.concatenate([first[..., None] / 8, volume], axis=-1).reshape(views, rows, columns, -1)
        x = _UNet(self.config.coarse, name="unet")(jnp.concatenate([volume, features], axis=-1))
        scores = _last(4 * planes, "scores")(x).reshape(views, rows, columns, 2, 2, planes)
        scores = (scores + first[:, :, :, None, None]).transpose(0, 1, 3, 2, 4, 5)
        return scores.reshape(views, 2 * rows, 2 * columns, planes), x


class _Fine(nn.Module):
    config: CoarseToFineConfig

    @nn.compact
    def __call__(self, images, features, hidden, known, agreements):
        views, rows, columns, _, _ = agreements.shape
        pixels = images.reshape(views, rows, CELL, columns, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
        pixels = pixels.reshape(views, rows, columns, -1) - 0.5
        first, volume = _Planes(2, name="planes")(agreements)
        volume = jnp.concatenate([first[..., None] / 8, volume], axis=-1).reshape(views, rows, columns, -1)
        hidden = enlarge(conv(32, "context", size=1)(hidden))
        x = _UNet(self.config.fine, name="unet")(jnp.concatenate([volume, features, pixels, hidden, known], axis=-1))
        return first + _last(agreements.shape[3], "scores")(x), x


class _Head(nn.Module):
    config: CoarseToFineConfig

    @nn.compact
    def __call__(self, hidden, known):
        x = nn.gelu(conv(2 * self.config.fine[0], "hidden")(jnp.concatenate([hidden, known], axis=-1)))
        return _last(self.config.outputs, "head", size=1)(x)


def coarse_to_fine_networks(config: CoarseToFineConfig) -> CoarseToFineNetworks:
    """The networks of a configuration."""
    parts = {
        "features": _Features(config),
        "coarse": _Coarse(config),
        "fine": _Fine(config),
        "outputs": _Head(config),
    }

    def run(name, params, *inputs):
        return parts[name].apply({"params": params[name]}, *inputs)

    def init(key):
        def blank(cell, *last):
            return jax.ShapeDtypeStruct((1, MULTIPLE // cell, MULTIPLE // cell, *last), jnp.float32)

        (coarse, fine), (many, few), known = config.planes, config.agreements, config.known
        images, width = blank(1, 3), config.matching
        hidden = blank(COARSE, config.coarse[0])
        inputs = {
            "features": (images,),
            "coarse": (blank(COARSE, width), blank(COARSE, coarse, many)),
            "fine": (images, blank(CELL, width), hidden, blank(CELL, known[0]), blank(CELL, fine, few)),
            "outputs": (blank(CELL, config.fine[0]), blank(CELL, known[1])),
        }
        keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
        return {name: part.lazy_init(keys[name], *inputs[name])["params"] for name, part in parts.items()}

    def call(name):
        return lambda params, *inputs: run(name, params, *inputs)

    return CoarseToFineNetworks(
        init,
        lambda params, images: Features(*run("features", params, images)),
        call("coarse"),
        call("fine"),
        call("outputs"),
    )
