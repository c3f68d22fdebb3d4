"""Rotary positions: angles by which pairs of channels of queries and keys turn.

A table of angles is (n, s, m): of n tokens, s equal spans of a head's channels, m pairs. Within a span of 2 m channels,
channel c pairs with c + m. Tokens without a position have angles of 0.

Letters: r, c rows and columns of the patch grid.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.arrays import AnyArray

Angles = Float[Array, "n s m"]

_BASE = 100.0  # of both kinds here


def axial_periods(head_width: int) -> Float[np.ndarray, " k"]:
    """Periods of DINOv3, in halves of an image: a quarter as many as a head has channels."""
    count = head_width // 4
    return (_BASE ** (np.arange(count) / count)).astype(np.float32)


def axial_angles(grid: tuple[int, int], periods: Float[AnyArray, " k"], *, special: int) -> Angles:
    """Of DINOv3: (special + r c, 1, 2 k); places on each axis run from -1 to 1, whatever its length."""
    rows, columns = ((2 * (np.arange(side) + 0.5) / side - 1).astype(np.float32) for side in grid)
    places = jnp.asarray(np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2, 1))
    angles = (2 * np.pi * places / periods[None, None]).reshape(len(places), 1, -1)
    return jnp.pad(angles, ((special, 0), (0, 0), (0, 0)))


def grid_angles(grid: tuple[int, int], head_width: int, *, special: int) -> Angles:
    """Of CroCo, VGGT and Pi3: (special + r c, 2, k); half of a head turns by the row, the other half by the column.

    Rows and columns count from 1. The special tokens come first.
    """
    count = head_width // 4
    places = np.stack(np.meshgrid(*(1.0 + np.arange(side) for side in grid), indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = places * _BASE ** (-np.arange(count) / count)
    return jnp.asarray(np.pad(angles, ((special, 0), (0, 0), (0, 0))), jnp.float32)


def rotate(x: Float[Array, "*b n h d"], angles: Angles) -> Float[Array, "*b n h d"]:
    """Channels of h heads turned; in float32, whatever the type of x."""
    *batch, tokens, heads, _ = x.shape
    _, spans, pairs = angles.shape
    first, second = jnp.moveaxis(x.astype(jnp.float32).reshape(*batch, tokens, heads, spans, 2, pairs), -2, 0)
    cos, sin = (turn(angles)[(None,) * len(batch)][..., None, :, :] for turn in (jnp.cos, jnp.sin))
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-2)
    return turned.reshape(x.shape).astype(x.dtype)
