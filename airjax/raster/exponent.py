"""The Gaussian of the factor form, and the gradient of its exponent by moments: shared by both kernels.

With d = (dx, dy) from the mean, U = [[p, r], [0, s]] and Sigma^-1 = U^T U,

  weight = exp(-q),   q = |U d|^2 / 2 = ((p dx + r dy)^2 + (s dy)^2) / 2

Everything here is elementwise in the Gaussians, so that each kernel keeps the axis order that is fast for it: tiles
last where slots are only added (`additive`), pixels last where they are multiplied from front to back (`alpha`).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.raster.tiles import tile_pixels

Slots = Float[Array, "..."]


def gauss(dx: Slots, dy: Slots, p: Slots, r: Slots, s: Slots) -> Slots:
    """exp(-q); distances and factors broadcast against one another."""
    along, across = p * dx + r * dy, s * dy
    return jnp.exp(-0.5 * (along * along + across * across))


def monomials(tile_size: int, dtype) -> np.ndarray:
    """(6, Q) values of 1, x, y, x^2, x y, y^2 at the pixel centres of a tile, from its centre."""
    x, y = tile_pixels(tile_size, dtype)
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])


def geometry_gradients(moments: Float[Array, "6 ..."], geometry: list[Slots]) -> list[Slots]:
    """Gradient of a loss by mean x, mean y, p, r and s of each Gaussian.

    With h = -dL/dq at each pixel and <..> the sum over pixels:

      dL/d mean x = p <h (p dx + r dy)>,   dL/d mean y = r <h (p dx + r dy)> + s^2 <h dy>
      dL/dp = -<h (p dx + r dy) dx>,   dL/dr = -<h (p dx + r dy) dy>,   dL/ds = -s <h dy^2>

    The moments are <h x^i y^j> for the six `monomials`, one matrix product; the geometry is mean x, mean y, p, r, s.
    Both are measured from the tile's centre.
    """
    m, (u, v, p, r, s) = moments, geometry
    h_x, h_y = m[1] - u * m[0], m[2] - v * m[0]
    h_xx = m[3] - 2.0 * u * m[1] + u * u * m[0]
    h_xy = m[4] - u * m[2] - v * m[1] + u * v * m[0]
    h_yy = m[5] - 2.0 * v * m[2] + v * v * m[0]
    h_a = p * h_x + r * h_y  # <h (p dx + r dy)>
    return [p * h_a, r * h_a + s * s * h_y, -(p * h_xx + r * h_xy), -(p * h_xy + r * h_yy), -s * h_yy]
