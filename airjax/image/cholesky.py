"""Coordinates of Gaussians by the Cholesky factor of their covariance, for `airjax.image.task.ImageTask`.

Letters: n Gaussians, c channels.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.gaussians import Gaussians2D

Leaf = TypeVar("Leaf", bound=Any)

FLOOR = 0.5  # pixels, of the diagonal of a Cholesky factor
_ROUND = 1e-3  # a covariance whose variances differ by less, relatively, is drawn as if they differed by that much
_MAX_FACTOR = 1e4  # pixels


class CholeskyCoordinates(NamedTuple, Generic[Leaf]):
    """Covariances by their Cholesky factor, as in GaussianImage: any real numbers are valid.

    With (p, q, s) a row of `factors`,

      covariance = L L^T,   L = [[d(p), 0], [q, d(s)]],   d(x) = sqrt(x^2 + FLOOR^2)

    GaussianImage adds 0.5 to the stored diagonal. That keeps its start away from 0, not its optimiser: at a diagonal
    of 0 the covariance has no inverse. Here 0.5 pixels are a bound. A Gaussian narrower than that along both axes of
    the image is seen by one pixel or none, so nothing is lost that the squared error could see (on crops with one
    Gaussian to 6 pixels it gains half a decibel over a bound of 0.05); oblique needles may still be thinner than it,
    down to FLOOR^2 over their length.

    Fields:
      means: (n, 2) pixels.
      factors: (n, 3) pixels.
      colors: (n, c).
    """

    means: Leaf
    factors: Leaf
    colors: Leaf

    @classmethod
    def of(cls, gaussians: Gaussians2D) -> CholeskyCoordinates[jax.Array]:
        """The coordinates of a concrete set.

        A diagonal below FLOOR becomes FLOOR (and a hundredth, as a diagonal of exactly FLOOR has no derivative).
        """
        cos, sin = np.cos(gaussians.angles), np.sin(gaussians.angles)
        u, v = np.square(np.asarray(gaussians.scales)).T
        first = np.sqrt(u * cos**2 + v * sin**2)
        diagonal = np.stack([first, np.sqrt(u * v) / first])
        p, s = np.sqrt(np.maximum(diagonal**2 - FLOOR**2, 0.01))
        factors = np.stack([p, (u - v) * cos * sin / first, s], axis=-1)
        return CholeskyCoordinates(*map(jnp.asarray, (gaussians.means, factors, gaussians.colors)))

    def gaussians(self, active: Bool[AnyArray, " n"]) -> Gaussians2D:
        """The set with these coordinates; finite with finite gradients everywhere, also where a Gaussian is round."""
        p, q, s = jnp.moveaxis(jnp.clip(self.factors, -_MAX_FACTOR, _MAX_FACTOR), -1, 0)
        scales, angles = principal_axes(jnp.sqrt(p**2 + FLOOR**2), q, jnp.sqrt(s**2 + FLOOR**2))
        return Gaussians2D(self.means, scales, angles, self.colors, active)


# Steps in pixels, for a fit from scratch; that of the factors is the best of 0.1, 0.2, 0.3 and 0.4 on crops of training
# photographs.
CHOLESKY_RATES = CholeskyCoordinates(means=0.4, factors=0.3, colors=0.02)


def principal_axes(
    a: Float[Array, " n"], b: Float[Array, " n"], d: Float[Array, " n"]
) -> tuple[Float[Array, "n 2"], Float[Array, " n"]]:
    """Standard deviations, larger one first, and the angle of that axis, of the covariance with L = [[a, 0], [b, d]].

    With the covariance [[x, z], [z, y]], m = (x + y) / 2, h = (x - y) / 2 and r = |(h, z)|:

      variances m + r and m - r,   angle = atan2(z, h) / 2

    m - r cancels for a needle; the smaller deviation is a d / sqrt(m + r) instead, since a d = sqrt(det). A circle
    has no axes, and r no derivative; there h is moved away from 0 by a constant 0.001 m. What is drawn changes by
    0.05 % of a deviation, and the product of a large derivative of the angle and of the small difference that it turns
    is the right derivative of the image in all directions, which no derivative of 0 would be.

    Args:
      a, d: pixels, > 0.
      b: pixels.
    """
    x, y, z = a * a, b * b + d * d, a * b
    mean, half = (x + y) / 2, (x - y) / 2
    least = _ROUND * jax.lax.stop_gradient(mean)
    is_round = jnp.square(half) + jnp.square(z) < jnp.square(least)
    half = half + jnp.where(is_round, jnp.where(half < 0, -least, least), 0.0)
    large = jnp.sqrt(mean + jnp.sqrt(jnp.square(half) + jnp.square(z)))
    return jnp.stack([large, a * d / large], axis=-1), jnp.arctan2(z, half) / 2
