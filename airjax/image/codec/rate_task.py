"""`RateTask`: the refinement of a photograph's Gaussians for the file that they will be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.gaussians import Gaussians2D, take
from airjax.image.codec.lattice import lattice_of
from airjax.image.codec.places import Places
from airjax.image.codec.rate import estimated_bits
from airjax.image.task import ImageTask
from airjax.inner.optimizers import scaled_adam
from airjax.raster.draw import TILE_SIZE, capacity_of, render_in_tiles
from airjax.raster.tiles import Capacity, TiledImage

_FASTER = 2.0  # than a refinement towards the image alone: few steps, and the descent comes after


def slope_of(color_step: float) -> float:
    """What a bit is worth in half the squared error: the slope of distortion over rate of a uniform quantiser.

    Of bin width `color_step`, at high rate: (pi / 12) ln 2 * color_step^2, a weight having the squared norm pi.
    """
    return math.pi / 12 * math.log(2) * color_step**2


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class RateTask(ImageTask):
    """Refinement towards an image of few bits: half the squared error + slope * bits.

    The image is in tiles, and `places` are those of the first rows; slots beyond them are not in use. So refinements of
    images of many sizes, and of any stages, share one program.
    """

    image: TiledImage  # type: ignore[assignment]  # of TILE_SIZE
    places: Places = field(kw_only=True)
    slope: Float[AnyArray, ""] = field(kw_only=True)

    def make_tx(self, rates) -> optax.GradientTransformation:
        faster = jax.tree.map(lambda rate: _FASTER * rate, rates)
        return scaled_adam(faster, warmup=10, b2=0.95)

    def loss(
        self, coordinates, active: Bool[AnyArray, " n"], batch=None, *, capacity: Capacity, any_order: bool = False
    ) -> Float[Array, ""]:
        """What the Gaussians show, and what they will cost."""
        gaussians, places = self.gaussians(coordinates, active), self.places
        tiles = render_in_tiles(gaussians, self.image.tiling(TILE_SIZE), capacity=capacity, any_order=any_order)
        rows = take(gaussians, slice(len(places.slots)))
        lattice = lattice_of(rows, jnp.asarray(places.centers), jnp.asarray(places.codes))
        return self.loss_fn(self.image.tiles, tiles) + self.slope * estimated_bits(lattice, places)

    def plan(self, gaussians: Gaussians2D, *, headroom: float, thorough: bool) -> Capacity:
        height, width = np.asarray(self.image.size).tolist()
        return capacity_of(gaussians, image_size=(height, width), headroom=headroom)
