"""Refinement of the Gaussians of one image: their coordinates, the loss, and the loop around it.

Letters: n Gaussians, c channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians2D, ladder, pad
from airjax.inner.optimizers import scaled_adam
from airjax.inner.refine import refine
from airjax.raster.draw import capacity_of, render
from airjax.raster.tiles import Capacity

SEGMENT = 10  # steps of one jitted call
# How much a set may grow before its lists are planned again: first in plans to come, then for one that was outgrown.
_HEADROOMS = (1.25, 1.25, 2.5, 5.0)


class Coordinates(NamedTuple):
    """What the optimiser moves: any real numbers are valid.

    Fields:
      means: (n, 2) pixels.
      log_scales: (n, 2) natural logarithms of the standard deviations in pixels.
      angles: (n,) radians.
      colors: (n, c).
    """

    means: Float[Array, "n 2"]
    log_scales: Float[Array, "n 2"]
    angles: Float[Array, " n"]
    colors: Float[Array, "n c"]

    def gaussians(self, active: Bool[Array, " n"]) -> Gaussians2D:
        """The set with these coordinates; scales are kept between 1e-3 and 1e4 pixels."""
        scales = jnp.exp(jnp.clip(self.log_scales, -6.9, 9.2))
        return Gaussians2D(self.means, scales, self.angles, self.colors, active)


# Adam's step in each coordinate: 0.28 pixels, 6 %, 0.056 rad, 1.1 % of white. Learned by evolution strategies, from
# rates chosen by hand (docs/metagrad.md): geometric mean of three runs of train/configs/metagrad.py --variant rates_es.
RATES = Coordinates(means=0.28, log_scales=0.06, angles=0.056, colors=0.011)


def refinement_adam(rates: Coordinates = RATES) -> optax.GradientTransformation:
    """The optimiser of a refinement."""
    return scaled_adam(rates, warmup=10, decay=100.0)


def coordinates_of(gaussians: Gaussians2D) -> Coordinates:
    """The coordinates of a set, differentiable."""
    return Coordinates(gaussians.means, jnp.log(gaussians.scales), gaussians.angles, gaussians.colors)


def squared_error(image: Float[Array, "h w c"], rendered: Float[Array, "h w c"]) -> Float[Array, ""]:
    """Half the sum of squared differences: its gradient by a Gaussian is the same in a crop as in the whole image."""
    return 0.5 * jnp.sum(jnp.square(rendered - image))


def reconstruction_loss(
    image: Float[Array, "h w c"],
    active: Bool[Array, " n"],
    *,
    capacity: int | Capacity,
    any_order: bool = False,
) -> Callable[[Coordinates], Float[Array, ""]]:
    """Coordinates to `squared_error`; NaN where the lists of the renderer overflow.

    Args:
      image: target.
      active: slots in use.
      capacity, any_order: see `airjax.raster.draw.render`.
    """

    def loss(coordinates: Coordinates) -> Float[Array, ""]:
        size = image.shape[:2]
        gaussians = coordinates.gaussians(active)
        return squared_error(image, render(gaussians, image_size=size, capacity=capacity, any_order=any_order).image)

    return loss


class State(NamedTuple):
    """A refinement between two steps: all that is needed to go on.

    Fields:
      step: steps taken.
      coordinates: of all slots; `Coordinates`, or others with a method `gaussians`.
      active: (n,) slots in use.
      inner_state: of the optimiser, None before the first step.
      loss: `squared_error` before the last step taken (NaN before the first).
      capacity: of the renderer's lists, None before they were planned.
    """

    step: int
    coordinates: Any
    active: Bool[Array, " n"]
    inner_state: Any = None
    loss: float = float("nan")
    capacity: Capacity | None = None

    @property
    def gaussians(self) -> Gaussians2D:
        """The set, all slots."""
        return self.coordinates.gaussians(self.active)


def start_state(gaussians: Gaussians2D) -> State:
    """The state before the first step, slots added up to a capacity that many sets share."""
    gaussians = pad(gaussians, ladder(gaussians.num_slots))
    gaussians = jax.tree.map(jnp.asarray, gaussians)
    return State(0, coordinates_of(gaussians), gaussians.active)


def advance(state: State, image: Float[Array, "h w c"], *, num_steps: int, rates: Coordinates = RATES) -> State:
    """`num_steps` of Adam on `squared_error`, on concrete arrays.

    The tile lists are sorted in every step, in arrays of a planned size; a call in which the set outgrows them is done
    again with more room. Nothing is ever drawn incompletely.

    Raises:
      AirjaxError: the coordinates did not stay finite, or grew beyond what can be drawn.
    """
    for headroom in _HEADROOMS:
        if state.capacity is None:
            planned = capacity_of(state.gaussians, image_size=image.shape[:2], headroom=headroom)
            state = state._replace(capacity=planned)
        done = _segment(
            state.coordinates,
            state.inner_state,
            state.active,
            image,
            rates,
            num_steps=num_steps,
            capacity=state.capacity,
        )
        if np.all(np.isfinite(done.losses)):
            return state._replace(
                step=state.step + num_steps,
                coordinates=done.final,
                inner_state=done.inner_state,
                loss=float(done.losses[-1]),
            )
        state = state._replace(capacity=None)
    raise AirjaxError(f"refinement: expected a finite loss, got {done.losses[-1]} after step {state.step}")


@partial(jax.jit, static_argnames=("num_steps", "capacity"))
def _segment(coordinates, inner_state, active, image, rates, *, num_steps, capacity):
    loss_fn = reconstruction_loss(image, active, capacity=capacity)
    return refine(loss_fn, coordinates, refinement_adam(rates), num_steps=num_steps, inner_state=inner_state)


def refine_gaussians(
    gaussians: Gaussians2D,
    image: np.ndarray,
    *,
    num_steps: int,
    rates: Coordinates = RATES,
    progress: Callable[[int], None] | None = None,
) -> Gaussians2D:
    """A set after `num_steps` of refinement, in the same slots.

    Args:
      gaussians: the start, n slots.
      image: (h, w, c) target.
      num_steps: >= 0.
      rates: of `refinement_adam`.
      progress: told how many steps are done, every SEGMENT steps.

    Raises:
      AirjaxError: as `advance`.
    """
    state = start_state(gaussians)
    while state.step < num_steps:
        state = advance(state, image, num_steps=min(SEGMENT, num_steps - state.step), rates=rates)
        if progress is not None:
            progress(state.step)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[: gaussians.num_slots], state.gaussians)
