"""Sets of Gaussians of fixed capacity, and the maps between network outputs and physical quantities.

Letters: n slots, c colour channels, P patch size in pixels. The image plane is [0, W] x [0, H], x right and y down;
pixel (row i, column j) covers its unit square, with its centre at (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# A term of the sum whose weight is below CUTOFF is dropped (AIR section 3.1); the ellipse at which that happens
# lies CUTOFF_RADIUS standard deviations from the mean (about 3.33), and the same number bounds every tile list.
CUTOFF = 1.0 / 255.0
CUTOFF_RADIUS = math.sqrt(-2.0 * math.log(CUTOFF))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gaussians2D:
    """A set of n 2D Gaussians with signed additive colours; slots that are not `active` do not exist.

    Fields:
      means: (n, 2) x and y in pixels of the image plane.
      scales: (n, 2) standard deviations along the two principal axes, pixels, > 0.
      angles: (n,) radians; the first axis points to (cos, sin). A Gaussian repeats every pi.
      colors: (n, c) signed and linear: the image is the sum of colour times weight.
      active: (n,) bool.
    """

    means: Float[Array, "n 2"]
    scales: Float[Array, "n 2"]
    angles: Float[Array, " n"]
    colors: Float[Array, "n c"]
    active: Bool[Array, " n"]

    @property
    def capacity(self) -> int:
        """Number of slots n, used or not."""
        return self.means.shape[0]

    def with_colors(self, colors: Float[Array, "n c"]) -> Gaussians2D:
        """The same geometry with other colours."""
        return replace(self, colors=colors)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gaussians3D:
    """A set of n 3D Gaussians with opacities; slots that are not `active` do not exist.

    Fields:
      means: (n, 3) in world units.
      scales: (n, 3) standard deviations along the principal axes, world units, >= 0.
      quats: (n, 4) rotations of the axes, w x y z, of any length but 0.
      opacities: (n,) in [0, 1].
      harmonics: (n, k, 3) colour as spherical harmonics of the viewing direction, k = (degree + 1)^2; the first is
        (rgb - 0.5) / 0.28209479, see `airjax.scene.harmonics`.
      active: (n,) bool.
    """

    means: Float[Array, "n 3"]
    scales: Float[Array, "n 3"]
    quats: Float[Array, "n 4"]
    opacities: Float[Array, " n"]
    harmonics: Float[Array, "n k 3"]
    active: Bool[Array, " n"]

    @property
    def capacity(self) -> int:
        """Number of slots n, used or not."""
        return self.means.shape[0]


def empty(capacity: int, channels: int = 3, dtype=jnp.float32) -> Gaussians2D:
    """A set of `capacity` inactive slots (unit scales, everything else zero)."""
    return Gaussians2D(
        means=jnp.zeros((capacity, 2), dtype),
        scales=jnp.ones((capacity, 2), dtype),
        angles=jnp.zeros((capacity,), dtype),
        colors=jnp.zeros((capacity, channels), dtype),
        active=jnp.zeros((capacity,), bool),
    )


def concatenate(sets: list) -> Any:
    """The union of several sets of one kind; slots keep their order."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *sets)


def num_active(gaussians: Gaussians2D | Gaussians3D) -> jax.Array:
    """Number of active slots, an int32 scalar."""
    return jnp.sum(gaussians.active, dtype=jnp.int32)


def conics(gaussians: Gaussians2D) -> Float[Array, "n 3"]:
    """Upper triangle (xx, xy, yy) of the inverse covariances, in 1/pixel^2.

    With R the rotation by the angle, the covariance is R diag(scales^2) R^T and its inverse R diag(scales^-2) R^T.
    Inactive slots get the identity, so that nothing stored in them can produce a NaN or a gradient.
    """
    active = gaussians.active
    inverse = 1.0 / jnp.square(jnp.where(active[:, None], gaussians.scales, 1.0))
    angles = jnp.where(active, gaussians.angles, 0.0)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    p, q = inverse[:, 0], inverse[:, 1]
    return jnp.stack([p * cos**2 + q * sin**2, (p - q) * cos * sin, p * sin**2 + q * cos**2], axis=-1)


def factors(gaussians: Gaussians2D) -> Float[Array, "n 3"]:
    """Upper triangular factor U = [[p, r], [0, s]] of the inverse covariances, rows (p, r, s) in 1/pixel.

    d^T Sigma^-1 d = |U d|^2 = (p dx + r dy)^2 + (s dy)^2. The conic says the same, but for a needle its three terms
    are aspect^2 times their sum and cancel; here only the two terms of a square root of it do. Inactive slots get the
    identity.
    """
    active = gaussians.active
    inverse = 1.0 / jnp.where(active[:, None], gaussians.scales, 1.0)
    angles = jnp.where(active, gaussians.angles, 0.0)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = inverse[:, 0], inverse[:, 1]
    p = jnp.sqrt((a * cos) ** 2 + (b * sin) ** 2)
    return jnp.stack([p, (a - b) * (a + b) * cos * sin / p, a * b / p], axis=-1)


def extents(gaussians: Gaussians2D) -> Float[Array, "n 2"]:
    """Half width and half height, in pixels, of the box around each cut-off ellipse; 0 for inactive slots."""
    cos2, sin2 = jnp.cos(gaussians.angles) ** 2, jnp.sin(gaussians.angles) ** 2
    var = jnp.square(gaussians.scales)
    box = jnp.stack([var[:, 0] * cos2 + var[:, 1] * sin2, var[:, 0] * sin2 + var[:, 1] * cos2], axis=-1)
    return jnp.where(gaussians.active[:, None], CUTOFF_RADIUS * jnp.sqrt(box), 0.0)
