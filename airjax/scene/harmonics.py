"""Real spherical harmonics to degree 4: colours that depend on the viewing direction.

The basis, its order and its signs are those of the 3D Gaussian Splatting format: within a degree the order runs from
-degree to degree, and functions of odd order are negative (P.-P. Sloan, Efficient Spherical Harmonic Evaluation, 2013).
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.arrays import AnyArray

MAX_DEGREE = 4
SH0 = 0.5 / math.sqrt(math.pi)  # 0.28209479, the constant function


def num_harmonics(degree: int) -> int:
    """Number k = (degree + 1)^2 of functions up to a degree of 0 to 4."""
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree: expected 0 to {MAX_DEGREE}, got {degree}")
    return (degree + 1) ** 2


def degree_of(count: int) -> int:
    """Inverse of `num_harmonics`; ValueError for a count that belongs to no degree."""
    degree = math.isqrt(count) - 1
    if not 0 <= degree <= MAX_DEGREE or (degree + 1) ** 2 != count:
        raise ValueError(f"harmonics: expected 1, 4, 9, 16 or 25 functions, got {count}")
    return degree


def basis(directions: Float[Array, "n 3"], *, degree: int) -> Float[Array, "n k"]:
    """The functions at unit vectors; the degree is static."""
    num_harmonics(degree)
    x, y, z = directions[:, 0], directions[:, 1], directions[:, 2]
    xx, yy, zz = x * x, y * y, z * z
    pi = math.pi
    rows = [jnp.full_like(x, SH0)]
    if degree >= 1:
        c = math.sqrt(3 / (4 * pi))
        rows += [-c * y, c * z, -c * x]
    if degree >= 2:
        c1, c2 = math.sqrt(15 / (4 * pi)), math.sqrt(5 / (16 * pi))
        rows += [c1 * x * y, -c1 * y * z, c2 * (3 * zz - 1), -c1 * x * z, 0.5 * c1 * (xx - yy)]
    if degree >= 3:
        c1, c2 = math.sqrt(35 / (32 * pi)), math.sqrt(105 / (4 * pi))
        c3, c4 = math.sqrt(21 / (32 * pi)), math.sqrt(7 / (16 * pi))
        rows += [
            -c1 * y * (3 * xx - yy),
            c2 * x * y * z,
            -c3 * y * (5 * zz - 1),
            c4 * z * (5 * zz - 3),
            -c3 * x * (5 * zz - 1),
            0.5 * c2 * z * (xx - yy),
            -c1 * x * (xx - 3 * yy),
        ]
    if degree >= 4:
        c1, c2 = math.sqrt(315 / (16 * pi)), math.sqrt(315 / (32 * pi))
        c3, c4 = math.sqrt(45 / (16 * pi)), math.sqrt(45 / (32 * pi))
        c5 = 3 / (16 * math.sqrt(pi))
        rows += [
            c1 * x * y * (xx - yy),
            -c2 * y * z * (3 * xx - yy),
            c3 * x * y * (7 * zz - 1),
            -c4 * y * z * (7 * zz - 3),
            c5 * (35 * zz * zz - 30 * zz + 3),
            -c4 * x * z * (7 * zz - 3),
            0.5 * c3 * (xx - yy) * (7 * zz - 1),
            -c2 * x * z * (xx - 3 * yy),
            0.25 * c1 * (xx * xx - 6 * xx * yy + yy * yy),
        ]
    return jnp.stack(rows, axis=-1)


def to_rgb(harmonics: Float[Array, "n k 3"], directions: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """max(sum of coefficient * function + 0.5, 0); no gradient passes where it is 0."""
    functions = basis(directions, degree=degree_of(harmonics.shape[1]))
    rgb = jnp.einsum("nk,nkc->nc", functions, harmonics, precision="highest") + 0.5
    return jnp.where(rgb > 0, rgb, 0.0)


def from_rgb(rgb: Float[AnyArray, "... 3"]) -> Float[AnyArray, "... 3"]:
    """Coefficient of the constant function for a colour."""
    return (rgb - 0.5) / SH0
