"""AIR's own quantiser: a uniform one for every number of a Gaussian, its bins fitted to the image (AIR section 3.4).

It is what the paper's bits are counted with, and what a training for them rounds by; a file is rounded by that of
airjax (`airjax.image.codec.quantise`), which needs fewer bits.

Letters: n Gaussians, d width of a class token. Numbers of a Gaussian are offset x and y of its mean from the patch's
centre and both scales, in pixels, the angle in radians, and the colour as Y, Cr and Cb.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.arrays import AnyArray
from airjax.gaussians import Gaussians2D
from airjax.nn.air_stage import AirnetConfig, Network

PARTS = {"xy": 2, "scaling": 2, "rotation": 1, "color": 3}  # numbers of a Gaussian that share a layer, in their order
BITS = (8, 8, 7, 7, 7, 8, 4, 4)
NUMBERS = len(BITS)

# Constants of the release: a step is softplus of the first and a start is the second, before an image moves them.
_STEPS = np.array([-3.0427, -3.0022, -2.9553, -3.2385, -3.3192, -5.3675, -4.0653, -4.4090], np.float32)
_STARTS = np.array([-6.7962, -6.0476, 0.4933, 0.5032, 1.0155, -0.2550, -0.0688, -0.1273], np.float32)
_SHIFT = 0.5  # by which it may, at most
# BT.601, full range: rows Y, Cr, Cb of (R, G, B), and back.
_TO_YCC = np.array([[0.299, 0.587, 0.114], [0.5, -0.418688, -0.081312], [-0.168736, -0.331264, 0.5]], np.float32)
_TO_RGB = np.array([[1, 1.402, 0], [1, -0.714136, -0.344136], [1, 0, 1.772]], np.float32)


class Bins(NamedTuple):
    """Value of the first bin and distance of two of them, for every number, (8,) each."""

    starts: Float[AnyArray, " 8"]
    steps: Float[AnyArray, " 8"]


def init_params(network: Network) -> dict[str, Any]:
    """Weights for stages of this network that leave the constants as they are; a ValueError for one without a token."""
    if not isinstance(network, AirnetConfig):
        raise ValueError(f"quantiser: expected stages of AIR's network, got {type(network).__name__}")
    zeros = partial(np.zeros, dtype=np.float32)
    return {part: {"kernel": zeros((network.width, 2 * k)), "bias": zeros(2 * k)} for part, k in PARTS.items()}


def bins_of(params: Any, token: Float[Array, " d"]) -> Bins:
    """The bins of an image, all its stages, from the class token of its last stage."""
    outputs = [jnp.dot(token, params[part]["kernel"], precision="highest") + params[part]["bias"] for part in PARTS]
    steps, starts = _SHIFT * jnp.tanh(jnp.concatenate(outputs).reshape(NUMBERS, 2).T)
    return Bins(_STARTS + starts, jax.nn.softplus(_STEPS + steps) + 1e-8)


def numbers_of(gaussians: Gaussians2D, centers: Float[AnyArray, "n 2"]) -> Float[Array, "n 8"]:
    """What is rounded; `centers` are those that the offsets of `airjax.image.patches.PatchMap` are measured from."""
    parts = [gaussians.means - centers, gaussians.scales, gaussians.angles[:, None]]
    return jnp.concatenate([*parts, jnp.dot(gaussians.colors, _TO_YCC.T, precision="highest")], axis=1)


def codes_of(numbers: Float[Array, "n 8"], bins: Bins) -> Float[Array, "n 8"]:
    """Whole numbers from 0 to 2^bits - 1, and the gradient of the numbers before they were rounded."""
    most = np.exp2(np.array(BITS, np.float32)) - 1
    codes = jnp.clip((numbers - bins.starts[None]) / bins.steps[None], 0, most[None])
    return codes + jax.lax.stop_gradient(jnp.round(codes) - codes)


def rounded(gaussians: Gaussians2D, centers: Float[AnyArray, "n 2"], bins: Bins) -> Gaussians2D:
    """The Gaussians of the rounded numbers; gradients as of `codes_of`."""
    numbers = codes_of(numbers_of(gaussians, centers), bins) * bins.steps[None] + bins.starts[None]
    colors = jnp.dot(numbers[:, 5:], _TO_RGB.T, precision="highest")
    return replace(
        gaussians, means=centers + numbers[:, :2], scales=numbers[:, 2:4], angles=numbers[:, 4], colors=colors
    )


def entropy_bits(codes: Sequence[np.ndarray], slots: int) -> float:
    """Bits of the whole numbers (n, 8) of all stages as the paper counts them, and the bins.

    Every channel is coded by the shares of its values, which are not counted; one bit for each of the `slots` patches
    of all stages says whether there is a Gaussian, and the 16 numbers of the bins have 32 bits each.
    """
    rows = np.concatenate(codes).astype(np.int64)
    bits = float(slots + 2 * 32 * NUMBERS)
    for column in rows.T if len(rows) else ():
        counts = np.unique(column, return_counts=True)[1]
        bits -= float(np.sum(counts * np.log2(counts / len(rows))))
    return bits
