"""Gaussians in a fixed number of slots, 2D and 3D, and the algebra of both.

Letters: n slots, c color channels. The image plane is [0, W] x [0, H], x right and y down;
pixel (row i, column j) covers its unit square, with its centre at (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray

# A term of the sum whose weight is below CUTOFF is dropped (AIR section 3.1); the ellipse at which that happens
# lies CUTOFF_RADIUS standard deviations from the mean (about 3.33), and the same number bounds every tile list.
CUTOFF = 1.0 / 255.0
CUTOFF_RADIUS = math.sqrt(-2.0 * math.log(CUTOFF))


class _Slots:
    """What both kinds of sets share."""

    means: Any
    active: Any

    @property
    def num_slots(self) -> int:
        """Number of slots n, used or not."""
        return self.means.shape[0]

    def __repr__(self) -> str:
        """All slots, and the used ones of concrete arrays."""
        active = self.active
        shape = getattr(active, "shape", None)
        if shape is None:  # a tree that holds something else
            return f"{type(self).__name__}({type(active).__name__})"
        slots = " x ".join(f"{side:,}" for side in shape) + " slots"
        if not isinstance(active, jax.core.Tracer) and isinstance(active, np.ndarray | jax.Array):
            slots = f"{int(np.sum(np.asarray(active))):,} of {slots}"
        return f"{type(self).__name__}({slots})"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Gaussians2D(_Slots):
    """A set of n 2D Gaussians with signed additive colours; slots that are not `active` do not exist.

    Fields:
      means: (n, 2) x and y in pixels of the image plane.
      scales: (n, 2) standard deviations along the two principal axes, pixels, > 0.
      angles: (n,) radians; the first axis points to (cos, sin). A Gaussian repeats every pi.
      colors: (n, c) signed and linear: the image is the sum of colour times weight.
      active: (n,) whether the slot is in use.
    """

    means: Float[AnyArray, "n 2"]
    scales: Float[AnyArray, "n 2"]
    angles: Float[AnyArray, " n"]
    colors: Float[AnyArray, "n c"]
    active: Bool[AnyArray, " n"]

    def with_colors(self, colors: Float[AnyArray, "n c"]) -> Gaussians2D:
        """The same geometry with other colours."""
        return replace(self, colors=colors)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Gaussians3D(_Slots):
    """A set of n 3D Gaussians with opacities; slots that are not `active` do not exist.

    Fields:
      means: (n, 3) world units.
      scales: (n, 3) standard deviations along the principal axes, world units, >= 0.
      quats: (n, 4) rotations of the axes, w x y z, of any length but 0.
      opacities: (n,) in [0, 1].
      harmonics: (n, k, 3) colour by viewing direction, k = (degree + 1)^2; the first is (rgb - 0.5) / 0.28209479, see
        `airjax.scene.harmonics`.
      active: (n,) whether the slot is in use.
    """

    means: Float[AnyArray, "n 3"]
    scales: Float[AnyArray, "n 3"]
    quats: Float[AnyArray, "n 4"]
    opacities: Float[AnyArray, " n"]
    harmonics: Float[AnyArray, "n k 3"]
    active: Bool[AnyArray, " n"]


# --- the algebra of both kinds ----------------------------------------------------------------------------------

AnyGaussians = TypeVar("AnyGaussians", Gaussians2D, Gaussians3D)
Rows = TypeVar("Rows")


def take(rows: Rows, index: Any) -> Rows:
    """The slots of a set, or of its coordinates, that an index, a slice or a mask names, in its order."""
    return jax.tree.map(lambda leaf: leaf[index], rows)


def join(sets: Sequence[AnyGaussians]) -> AnyGaussians:
    """The union of several sets of one kind; slots keep their order. Concrete sets become numpy arrays."""
    return jax.tree.map(lambda *leaves: _library(*leaves).concatenate(leaves), *sets)


def pad(gaussians: AnyGaussians, num_slots: int) -> AnyGaussians:
    """The same set with inactive slots added up to `num_slots`, no fewer than it has; concrete sets become numpy."""
    missing = num_slots - gaussians.num_slots
    if missing < 0:
        raise ValueError(f"num_slots: expected at least {gaussians.num_slots}, got {num_slots}")
    if not missing:
        return gaussians
    fill = {"scales": 1} | ({"quats": 1} if isinstance(gaussians, Gaussians3D) else {})
    grown = {}
    for field in fields(gaussians):
        leaf = getattr(gaussians, field.name)
        widths = [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)
        grown[field.name] = _library(leaf).pad(leaf, widths, constant_values=fill.get(field.name, 0))
    return replace(gaussians, **grown)


def on_ladder(gaussians: AnyGaussians, *, size_of: Callable[[int], int] | None = None) -> AnyGaussians:
    """A concrete set padded to the next size of the `ladder`, or of another one, as arrays of JAX.

    A set of JAX arrays that has such a size already stays where it is: nothing passes through the host.
    """
    return jax.tree.map(jnp.asarray, pad(gaussians, (size_of or ladder)(gaussians.num_slots)))


def only_active(gaussians: AnyGaussians) -> AnyGaussians:
    """The slots in use, numpy arrays; needs concrete arrays."""
    return take(jax.tree.map(np.asarray, gaussians), np.asarray(gaussians.active))


def ladder(count: int) -> int:
    """A size for `count`, from a coarse ladder (four steps an octave above 1,024), so that few sizes compile."""
    if count <= 1024:
        return 1024
    step = 2 ** (math.ceil(math.log2(count)) - 3)
    return -(-count // step) * step


def octaves(count: int) -> int:
    """A size for `count` from a coarser ladder, powers of two from 1,024 on: where what is not used costs little."""
    return 2 ** max(10, math.ceil(math.log2(max(count, 1))))


def _library(*leaves: Any):
    """numpy where it can: an operation of JAX outside `jit` would be compiled for every new n."""
    return jnp if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves) else np


def factors(gaussians: Gaussians2D) -> Float[Array, "n 3"]:
    """Upper triangular factor U = [[p, r], [0, s]] of the inverse covariances, rows (p, r, s) in 1/pixel.

    With R the rotation by the angle, the covariance is Sigma = R diag(scales^2) R^T, and
    d^T Sigma^-1 d = |U d|^2 = (p dx + r dy)^2 + (s dy)^2. The conic is the same form, but for a needle its three terms
    are aspect^2 times their sum and cancel; here only the two terms of a square root of it do. Inactive slots get the
    identity, so that nothing stored in them can produce a NaN or a gradient.
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
