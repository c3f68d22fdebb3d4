"""Relocation: Gaussians of an image that show little are moved to where more is missing than they show.

What is missing is the residual r = image - rendered. One more Gaussian of weight w (x, y) lowers the squared error most
with the colour c = <r, w> / |w|^2, by

  gain = |c|^2 |w|^2,   |w|^2 = pi * a * b   (a, b its standard deviations, pixels)

For a weight of one shape at every place that is a convolution, and the best shape at a place is found among a few. A
Gaussian of colour c, taken away where the colours are at their best, raises the error by its energy, the same |c|^2
|w|^2, if nothing takes over; its neighbours do, and so do the steps after a move, which shape the new one as well.

Letters: n slots, s shapes, k moves. Nothing is drawn at random.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from airjax.arrays import AnyArray
from airjax.gaussians import Gaussians2D
from airjax.programs import kept

SHARE = 0.1  # of the Gaussians that are moved at a time, at most
WORTH = 0.1  # share of its energy that a Gaussian must gain elsewhere; on crops, 0.3 and 1 gave 0.1 and 0.4 dB less
APART = 5  # pixels; the best place in a square of so many is taken, since places beside it would show the same

_ASPECT = 2.5
_ANGLES = np.arange(4) * math.pi / 4
_SIZES = (0.8, 1.2, 1.8, 2.7, 4.0)  # geometric means of two standard deviations, pixels
# (s, 3) standard deviations in pixels and angle of what a new Gaussian may look like: round ones, and longer ones.
SHAPES = np.array(
    [(size, size, 0.0) for size in _SIZES]
    + [(z * math.sqrt(_ASPECT), z / math.sqrt(_ASPECT), angle) for z, angle in itertools.product(_SIZES, _ANGLES)],
    np.float32,
)
_MARGIN = math.ceil(3.5 * float(SHAPES.max()))  # pixels of zeros, so that what leaves at one side enters nowhere


@kept()
def relocate(gaussians: Gaussians2D, residual: Float[AnyArray, "h w c"]) -> tuple[Gaussians2D, Bool[Array, " n"]]:
    """The set with those of little energy moved to where the most is gained, and which rows are new.

    The least is given up for the most that is gained, the next for the next, and so on, up to SHARE of all, as long as
    WORTH of it is gained. As many are active as before. `residual` is NaN where there is no image.
    """
    n, (height, width) = gaussians.num_slots, residual.shape[:2]
    energies = jnp.sum(jnp.square(gaussians.colors), axis=1) * math.pi * jnp.prod(gaussians.scales, axis=1)
    energies = jnp.where(gaussians.active, energies, jnp.inf)
    gains, shapes, colors = best_additions(residual)
    window = (APART, APART)
    highest = jax.lax.reduce_window(gains, -jnp.inf, jax.lax.max, window, (1, 1), "SAME")
    peaks = jnp.where(gains == highest, gains, 0.0).ravel()
    count = min(math.ceil(SHARE * n), height * width)
    most, places = jax.lax.top_k(peaks, count)
    rows = jnp.argsort(energies)[:count]
    allowed = jnp.arange(count, dtype=jnp.float32) < SHARE * jnp.sum(gaussians.active, dtype=jnp.float32)
    # Falling gains against rising energies: the first ones, or none.
    rows = jnp.where(allowed & (most > WORTH * energies[rows]), rows, n)
    y, x = jnp.divmod(places, width)
    chosen = jnp.asarray(SHAPES)[shapes.ravel()[places]]

    def put(leaf, value):
        return jnp.asarray(leaf).at[rows].set(value, mode="drop")

    moved = replace(
        gaussians,
        means=put(gaussians.means, jnp.stack([x, y], axis=-1).astype(jnp.float32) + 0.5),
        scales=put(gaussians.scales, chosen[:, :2]),
        angles=put(gaussians.angles, chosen[:, 2]),
        colors=put(gaussians.colors, colors.reshape(height * width, -1)[places]),
    )
    return moved, put(jnp.zeros(n, bool), True)


def best_additions(
    residual: Float[AnyArray, "h w c"],
) -> tuple[Float[Array, "h w"], Int[Array, "h w"], Float[Array, "h w c"]]:
    """By how much one more Gaussian at each pixel lowers the squared error, the number of its shape, and its colour.

    `residual` is NaN where there is no image; nothing is gained there.
    """
    there, (height, width) = ~jnp.isnan(residual[..., 0]), residual.shape[:2]
    padded = jnp.pad(jnp.nan_to_num(residual), ((0, _MARGIN), (0, _MARGIN), (0, 0)))
    size = padded.shape[:2]
    spectrum = jnp.fft.rfft2(padded, axes=(0, 1))
    v = 2 * math.pi * jnp.fft.fftfreq(size[0], dtype=jnp.float32)[:, None]
    u = 2 * math.pi * jnp.fft.rfftfreq(size[1], dtype=jnp.float32)[None]

    def better(best, shape):
        number, (a, b, angle) = shape
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        along, across = a * (u * cos + v * sin), b * (v * cos - u * sin)
        # The transform of the weight over its squared norm: 2 pi a b exp(-..) / (pi a b).
        factor = 2 * jnp.exp(-0.5 * (jnp.square(along) + jnp.square(across)))
        filtered = spectrum * factor[..., None].astype(spectrum.dtype)
        colors = jnp.fft.irfft2(filtered, s=size, axes=(0, 1))[:height, :width]
        gains = jnp.where(there, math.pi * a * b * jnp.sum(jnp.square(colors), axis=-1), 0.0)
        is_better = gains > best[0]
        chosen = jnp.where(is_better, gains, best[0]), jnp.where(is_better, number, best[1])
        return (*chosen, jnp.where(is_better[..., None], colors, best[2])), None

    nothing = jnp.zeros((height, width)), jnp.zeros((height, width), jnp.int32), jnp.zeros(residual.shape)
    shapes = jnp.arange(len(SHAPES), dtype=jnp.int32), tuple(jnp.asarray(SHAPES.T))
    best, _ = jax.lax.scan(better, nothing, shapes)
    return best
