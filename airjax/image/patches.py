"""Patches of an image, and the map from a network's raw rows to Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.gaussians import CUTOFF_RADIUS, Gaussians2D
from airjax.raster.tiles import PatchGrid


@dataclass(frozen=True)
class PatchMap:
    """How one raw row of 8 numbers becomes one Gaussian of the patch at whose centre it was predicted.

    With P = `patch_size` and c the patch centre, both in pixels as are scales, and the offset in patches:

      mean = c + offset * P * tanh(raw[0:2])
      scales = min_scale + (max_scale - min_scale) * sigmoid(raw[2:4])
      angle = 2 pi * sigmoid(raw[4])
      colour = tanh(raw[5:8])

    AIR's own map (section 3.2 and its release) is `PatchMap.air(patch_size)`: offset 1, scales from 0.5 to P + 0.5.
    With `stretched_grid` it is that of the release to the last pixel: see `stretched`, and the centres of patches that
    hang over are moved to the last pixel of the image.
    """

    patch_size: int
    offset: float = 1.0
    min_scale: float = 0.5
    max_scale: float = 7.5
    stretched_grid: bool = False

    def __post_init__(self):
        if self.patch_size < 1:
            raise ValueError(f"patch_size: expected at least 1, got {self.patch_size}")
        if not 0 < self.min_scale < self.max_scale:
            raise ValueError(f"scales: expected 0 < min < max, got {self.min_scale} and {self.max_scale}")
        if self.offset <= 0:
            raise ValueError(f"offset: expected > 0, got {self.offset}")

    @classmethod
    def air(cls, patch_size: int, *, stretched_grid: bool = False) -> PatchMap:
        """The map of the AIR paper for its patch size."""
        return cls(patch_size, 1.0, 0.5, patch_size + 0.5, stretched_grid)

    def layout(self, grid: tuple[int, int]) -> PatchGrid:
        """The static lists of a (rows, columns) grid of these patches."""
        return PatchGrid(grid, self.patch_size, self.rings)

    @property
    def rings(self) -> int:
        """How many patches away, on each axis, a Gaussian of this map can still be drawn (static list bound)."""
        reach = self.offset * self.patch_size + CUTOFF_RADIUS * self.max_scale - self.patch_size / 2
        if self.stretched_grid:  # a centre of a patch that hangs over, and a stretch where more patches are than rings
            reach += (self.patch_size - 1) / 2 + 2
        return max(0, math.ceil(reach / self.patch_size - 1e-9))


def to_physical(
    raw: Float[Array, "n k"],
    centers: Float[Array, "n 2"],
    active: Bool[AnyArray, " n"],
    patch_map: PatchMap,
    *,
    image_size: tuple[int, int] | None = None,
) -> Gaussians2D:
    """Raw rows (n, 5 + c) to Gaussians; see `PatchMap` for the formulas. Any real input is valid.

    A stretched grid needs the (h, w) of the image.
    """
    if raw.ndim != 2 or raw.shape[1] < 6:
        raise ValueError(f"raw: expected (n, 5 + channels), got {raw.shape}")
    span = patch_map.max_scale - patch_map.min_scale
    offsets = patch_map.offset * patch_map.patch_size * jnp.tanh(raw[:, 0:2])
    if patch_map.stretched_grid:
        assert image_size is not None
        means = stretched(inner_centers(centers, image_size) + offsets, image_size)
    else:
        means = centers + offsets
    return Gaussians2D(
        means=means,
        scales=patch_map.min_scale + span * jax.nn.sigmoid(raw[:, 2:4]),
        angles=2 * math.pi * jax.nn.sigmoid(raw[:, 4]),
        colors=jnp.tanh(raw[:, 5:]),
        active=active,
    )


def inner_centers(centers: Float[Array, "n 2"], image_size: tuple[int, int]) -> Float[Array, "n 2"]:
    """Centres of patches of which none lies beyond the last pixel's, as the release of AIR has them."""
    return jnp.minimum(centers, jnp.array(image_size[::-1], centers.dtype)[None] - 0.5)


def stretched(means: Float[Array, "n 2"], image_size: tuple[int, int], *, back: bool = False) -> Float[Array, "n 2"]:
    """Where the release of AIR draws a mean: from the centre of the first pixel, side / (side - 1) times as far.

    By up to one pixel more to the right and below. `back` undoes it.
    """
    sides = np.array(image_size[::-1], np.float64)
    factors = (sides / np.maximum(sides - 1, 1)) ** (-1 if back else 1)
    return (means - 0.5) * jnp.asarray(factors, means.dtype)[None] + 0.5
