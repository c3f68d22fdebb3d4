"""Grids of numbers at other sizes, and what tells a network where on a grid it is.

Letters: h, w rows and columns; a, b those of the result.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Grids = Float[Array, "*v h w c"]


def bilinear(x: Grids, size: tuple[int, int], *, antialias: bool = False) -> Float[Array, "*v a b c"]:
    """Pixels as unit squares (half-pixel centers); `antialias` averages where the result is smaller."""
    return jax.image.resize(x, (*x.shape[:-3], *size, x.shape[-1]), "linear", antialias=antialias)


def pooled(x: Grids, factor: int) -> Float[Array, "*v a b c"]:
    """Means over squares of `factor` x `factor`, which sides are multiples of."""
    *batch, height, width, channels = x.shape
    parts = x.reshape(*batch, height // factor, factor, width // factor, factor, channels)
    return jnp.mean(parts, axis=(-4, -2))


def bicubic(x: Grids, size: tuple[int, int]) -> Float[Array, "*v a b c"]:
    """Cubic with half-pixel centers, averaged where the result is smaller."""
    return jax.image.resize(x, (*x.shape[:-3], *size, x.shape[-1]), "cubic", antialias=True)


def bilinear_by_corners(x: Grids, size: tuple[int, int]) -> Float[Array, "*v a b c"]:
    """The first and the last pixel of each axis stay where they are (torch's align_corners)."""
    rows, columns = (jnp.asarray(_by_corners(*sides), x.dtype) for sides in zip(x.shape[-3:-1], size, strict=True))
    x = jnp.einsum("ah,...hwc->...awc", rows, x, precision="highest")
    return jnp.einsum("bw,...awc->...abc", columns, x, precision="highest")


def _by_corners(old: int, new: int) -> Float[np.ndarray, "new old"]:
    places = np.linspace(0, old - 1, new)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(old)[None]), 0)


def uv(size: tuple[int, int], aspect: float) -> Float[np.ndarray, "h w 2"]:
    """(u, v) of the centers of pixels of a plane whose half diagonal is 1; `aspect` is width over height (MoGe)."""
    spans = 1 / np.hypot(1, aspect), aspect / np.hypot(1, aspect)
    v, u = (span * ((2 * np.arange(side) + 1) / side - 1) for span, side in zip(spans, size, strict=True))
    return np.stack(np.meshgrid(u, v, indexing="xy"), axis=-1).astype(np.float32)


def waves(size: tuple[int, int], channels: int, aspect: float) -> Float[Array, "h w c"]:
    """Sines and cosines of `uv` (VGGT): half of the channels of u, the others of v.

    Made on the device, of a row and a column: constants would be as large as what they are added to.
    """
    count, plane = channels // 4, uv(size, aspect).astype(np.float64)
    phases = (places[:, None] * 100.0 ** (-np.arange(count) / count) for places in (plane[0, :, 0], plane[:, 0, 1]))
    u, v = (jnp.asarray(np.concatenate([np.sin(p), np.cos(p)], axis=-1).astype(np.float32)) for p in phases)
    parts = u[None], v[:, None]
    return jnp.concatenate([jnp.broadcast_to(part, (*size, 2 * count)) for part in parts], axis=-1)
