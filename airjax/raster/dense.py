"""The obvious renderers: every Gaussian at every pixel. Oracles of `additive` and of `alpha`, differentiable too.

Of the additive one the memory is n * h * w numbers, of the other, as far as no gradient is taken, h * w.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.gaussians import CUTOFF, Gaussians2D, conics
from airjax.raster.alpha import Drawn, Splats


def dense_weights(
    gaussians: Gaussians2D, *, image_size: tuple[int, int], smooth_cutoff: bool = False
) -> Float[Array, "n h w"]:
    """Weight exp(-d^T Sigma^-1 d / 2) of each Gaussian at each pixel centre, zero below the cut-off and when inactive.

    Args:
      gaussians: n slots, positions in pixels.
      image_size: (h, w) pixels.
      smooth_cutoff: replace the step at the cut-off by the C2 ramp of `additive`, for finite differences.
    """
    height, width = image_size
    dtype = gaussians.means.dtype
    x = jnp.arange(width, dtype=dtype) + 0.5
    y = jnp.arange(height, dtype=dtype) + 0.5
    active = gaussians.active[:, None, None]
    means = jnp.where(gaussians.active[:, None], gaussians.means, 0.0)
    dx = x[None, None, :] - means[:, 0, None, None]
    dy = y[None, :, None] - means[:, 1, None, None]
    xx, xy, yy = (conics(gaussians)[:, i, None, None] for i in range(3))
    weights = jnp.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
    if smooth_cutoff:
        t = jnp.clip(weights / CUTOFF - 1.0, 0.0, 1.0)
        weights = weights * t * t * t * (10.0 - 15.0 * t + 6.0 * t * t)
    else:
        weights = jnp.where(weights >= CUTOFF, weights, 0.0)
    return jnp.where(active, weights, 0.0)


def render_dense(
    gaussians: Gaussians2D, *, image_size: tuple[int, int], smooth_cutoff: bool = False
) -> Float[Array, "h w c"]:
    """Sum of colour times weight (AIR section 3.1), not clipped. Arguments as `dense_weights`."""
    weights = dense_weights(gaussians, image_size=image_size, smooth_cutoff=smooth_cutoff)
    colors = jnp.where(gaussians.active[:, None], gaussians.colors, 0.0)
    return jnp.einsum("nhw,nc->hwc", weights, colors, precision="highest")


def composite_dense(splats: Splats, *, image_size: tuple[int, int], alpha_max: float, stop: float) -> Drawn:
    """Splats over one another, the first in front; arguments as `airjax.raster.alpha.composite`.

    A box that cuts off part of an ellipse (`Splats.half_extents`) is not looked at.
    """
    height, width = image_size
    dtype = splats.means.dtype
    x, y = (jnp.arange(width, dtype=dtype) + 0.5)[None], (jnp.arange(height, dtype=dtype) + 0.5)[:, None]

    def add(carry, splat: Splats):
        transmittance, values, total = carry
        dx, dy = x - splat.means[0], y - splat.means[1]
        p, r, s = splat.factors
        alpha = splat.opacities * jnp.exp(-0.5 * ((p * dx + r * dy) ** 2 + (s * dy) ** 2))
        alpha = jnp.where(alpha > alpha_max, alpha_max, alpha)
        alpha = jnp.where(splat.active & (alpha >= CUTOFF), alpha, 0.0)
        behind = transmittance * (1.0 - alpha)
        weight = jnp.where(behind > stop, transmittance * alpha, 0.0)
        return (behind, values + weight[..., None] * splat.values[None, None], total + weight), None

    blank = jnp.zeros(image_size, dtype)
    start = (blank + 1.0, jnp.zeros((*image_size, splats.values.shape[1]), dtype), blank)
    (_, values, total), _ = jax.lax.scan(add, start, splats)
    return Drawn(values, total)
