"""The refinement of one image as a `Task`: the coordinates of its Gaussians, and its losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray, size_of
from airjax.gaussians import Gaussians2D
from airjax.inner.optimizers import scaled_adam
from airjax.inner.task import Task
from airjax.raster.draw import capacity_of, render
from airjax.raster.tiles import Capacity

Leaf = TypeVar("Leaf", bound=Any)
ImageLoss = Callable[[Float[AnyArray, "h w c"], Float[Array, "h w c"]], Float[Array, ""]]


class Coordinates(NamedTuple, Generic[Leaf]):
    """What the optimizer moves, of arrays: any real numbers are valid. Of numbers: a learning rate for each.

    Fields: means (n, 2) in pixels, natural logarithms (n, 2) of the standard deviations in pixels, angles (n,) in
    radians, colors (n, c).
    """

    means: Leaf
    log_scales: Leaf
    angles: Leaf
    colors: Leaf

    @classmethod
    def of(cls, gaussians: Gaussians2D) -> Coordinates[AnyArray]:
        """The coordinates of a set, differentiable."""
        return Coordinates(gaussians.means, jnp.log(gaussians.scales), gaussians.angles, gaussians.colors)

    def gaussians(self, active: Bool[AnyArray, " n"]) -> Gaussians2D:
        """The set with these coordinates; scales are kept between 1e-3 and 1e4 pixels."""
        scales = jnp.exp(jnp.clip(self.log_scales, -6.9, 9.2))
        return Gaussians2D(self.means, scales, self.angles, self.colors, active)


# Adam's step in each coordinate: 0.28 pixels, 6 %, 0.056 rad, 1.1 % of white. Learned by evolution strategies, from
# rates chosen by hand (docs/metagrad.md): geometric mean of three runs of train/configs/metagrad.py --variant rates_es.
RATES = Coordinates(means=0.28, log_scales=0.06, angles=0.056, colors=0.011)


def refinement_adam(rates: Any = RATES) -> optax.GradientTransformation:
    """The optimizer of a refinement."""
    return scaled_adam(rates, warmup=10, decay=100.0)


def squared_error(image: Float[AnyArray, ...], rendered: Float[AnyArray, ...]) -> Float[Array, ""]:
    """Half the sum of squared differences: its gradient by a Gaussian is the same in a crop as in the whole image.

    Of any shape; where the image is NaN there is none (`airjax.image.canvas`), and nothing counts.
    """
    return 0.5 * jnp.sum(jnp.square(jnp.where(jnp.isnan(image), 0, rendered - image)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ImageTask(Task):
    """Refinement of the Gaussians of one image towards it.

    The type of `rates` is that of the coordinates, `Coordinates` or another with `of` and `gaussians`; `loss_fn` is
    (image, rendered) -> inner loss, static.
    """

    image: Float[AnyArray, "h w c"]
    rates: Any = RATES
    loss_fn: ImageLoss = field(default=squared_error, metadata={"static": True})

    def make_tx(self, rates: Any) -> optax.GradientTransformation:
        return refinement_adam(rates)

    def coordinates(self, gaussians: Gaussians2D) -> Any:
        return type(self.rates).of(gaussians)

    def gaussians(self, coordinates: Any, active: Bool[AnyArray, " n"]) -> Gaussians2D:
        return coordinates.gaussians(active)

    def loss(
        self, coordinates: Any, active: Bool[AnyArray, " n"], batch=None, *, capacity: Capacity, any_order: bool = False
    ) -> Float[Array, ""]:
        """`loss_fn` of what the Gaussians show."""
        return self.loss_fn(self.image, self._render(coordinates, active, capacity, any_order))

    def outer_loss(
        self, coordinates: Any, active: Bool[AnyArray, " n"], *, capacity: Capacity, any_order: bool = False
    ) -> Float[Array, ""]:
        """Minus the PSNR in dB, so that every image, and every number of steps, counts for its decibels."""
        error = squared_error(self.image, self._render(coordinates, active, capacity, any_order))
        return 10 * jnp.log10(2 * error / self.image.size + 1e-10)

    def plan(self, gaussians: Gaussians2D, *, headroom: float, thorough: bool) -> Capacity:
        return capacity_of(gaussians, image_size=size_of(self.image), headroom=headroom)

    def _render(self, coordinates, active, capacity, any_order) -> jax.Array:
        gaussians = coordinates.gaussians(active)
        return render(gaussians, image_size=size_of(self.image), capacity=capacity, any_order=any_order).image
