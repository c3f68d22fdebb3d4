"""Rotations as quaternions w x y z."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.arrays import AnyArray


def rotations(quats: Float[AnyArray, "n 4"]) -> Float[Array, "n 3 3"]:
    """Rotation matrices of quaternions of any length; the identity, without a gradient, for one of length 0."""
    squared = jnp.sum(jnp.square(quats), axis=-1, keepdims=True)
    blank = squared <= 0
    quats = jnp.where(blank, jnp.array([[1.0, 0, 0, 0]], quats.dtype), quats)
    w, x, y, z = jnp.moveaxis(quats * jax.lax.rsqrt(jnp.where(blank, 1.0, squared)), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def from_rotation(rotation: Float[AnyArray, "3 3"]) -> Float[Array, " 4"]:
    """Unit quaternion of a rotation matrix, w >= 0.

    4 q q^T is linear in the matrix. Each of its rows is a multiple of q; the longest is normalized.
    """
    r = rotation
    xx, yy, zz = r[0, 0], r[1, 1], r[2, 2]
    wx, wy, wz = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    xy, xz, yz = r[1, 0] + r[0, 1], r[0, 2] + r[2, 0], r[2, 1] + r[1, 2]
    rows = [
        [1 + xx + yy + zz, wx, wy, wz],
        [wx, 1 + xx - yy - zz, xy, xz],
        [wy, xy, 1 - xx + yy - zz, yz],
        [wz, xz, yz, 1 - xx - yy + zz],
    ]
    products = jnp.stack([jnp.stack(row) for row in rows])
    quat = products[jnp.argmax(jnp.diagonal(products))]
    return quat / jnp.linalg.norm(quat) * jnp.where(quat[0] < 0, -1.0, 1.0)


def multiply(a: Float[AnyArray, "n 4"], b: Float[AnyArray, "n 4"]) -> Float[Array, "n 4"]:
    """Products a b: the rotation b followed by a."""
    aw, ax, ay, az = jnp.moveaxis(a, -1, 0)
    bw, bx, by, bz = jnp.moveaxis(b, -1, 0)
    return jnp.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )
