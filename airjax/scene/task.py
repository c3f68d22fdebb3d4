"""Refinement of the Gaussians of a scene by `airjax.inner.refine`: their coordinates, the loss on its views, the loop.

Letters: n Gaussians, v views, h, w pixels. Means are measured in a unit of length of the scene (its near depth, say),
so that one set of learning rates serves every scene.
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
from airjax.gaussians import Gaussians3D
from airjax.inner.optimizers import scaled_adam
from airjax.inner.refine import refine
from airjax.metrics import image_loss
from airjax.raster.tiles import Capacity
from airjax.scene.cameras import Camera
from airjax.scene.render import capacity_of, render

SEGMENT = 10  # steps of one jitted call
VIEWS = 2  # that a step looks at
# How much a set may grow before its lists are planned again: first in plans to come, then for one that was outgrown.
_HEADROOMS = (1.25, 1.5, 2.5, 5.0)
_PLANNED = 8  # views that a first plan looks at; a later one looks at all


class Coordinates(NamedTuple):
    """What the optimiser moves: any real numbers are valid.

    Fields:
      means: (n, 3) in units of the scene.
      log_scales: (n, 3) natural logarithms of the standard deviations, in units of the scene.
      quats: (n, 4) of any length but 0.
      logits: (n,) of the opacities.
      base: (n, 1, 3) the constant harmonic.
      rest: (n, k - 1, 3) the others.
    """

    means: Float[Array, "n 3"]
    log_scales: Float[Array, "n 3"]
    quats: Float[Array, "n 4"]
    logits: Float[Array, " n"]
    base: Float[Array, "n 1 3"]
    rest: Float[Array, "n m 3"]

    def gaussians(self, active: Bool[Array, " n"], unit: Float[Array, ""] | float) -> Gaussians3D:
        """The set with these coordinates."""
        return Gaussians3D(
            self.means * unit,
            jnp.exp(jnp.clip(self.log_scales, -15.0, 10.0)) * unit,
            self.quats,
            jax.nn.sigmoid(self.logits),
            jnp.concatenate([self.base, self.rest], axis=1),
            active,
        )


# Adam's step in each coordinate, as 3DGS trains them; a mean's is 1.6e-4 times the extent of the cameras there.
RATES = Coordinates(means=1e-3, log_scales=5e-3, quats=1e-3, logits=5e-2, base=2.5e-3, rest=1.25e-4)


def refinement_adam(rates: Coordinates = RATES) -> optax.GradientTransformation:
    """The optimiser of a refinement."""
    return scaled_adam(rates, decay=200.0)


def coordinates_of(gaussians: Gaussians3D, *, unit: Float[Array, ""] | float) -> Coordinates:
    """The coordinates of a set, differentiable; opacities are kept 1e-4 away from 0 and 1, scales above 1e-6 units."""
    opacities = jnp.clip(gaussians.opacities, 1e-4, 1 - 1e-4)
    return Coordinates(
        gaussians.means / unit,
        jnp.log(jnp.maximum(gaussians.scales / unit, 1e-6)),
        gaussians.quats,
        jnp.log(opacities) - jnp.log1p(-opacities),
        gaussians.harmonics[:, :1],
        gaussians.harmonics[:, 1:],
    )


def views_loss(
    images: Float[Array, "v h w 3"],
    cameras: Camera,
    active: Bool[Array, " n"],
    *,
    unit: Float[Array, ""] | float,
    capacity: Capacity,
    background: Float[Array, " 3"] | None = None,
    l1: float = 0.8,
    ssim: float = 0.2,
    any_order: bool = False,
) -> Callable[[Coordinates], Float[Array, ""]]:
    """Coordinates to h * w * mean over views of l1 * mean |difference| + ssim * (1 - SSIM); NaN where lists overflow.

    Times the pixels, so that the gradient of a Gaussian does not depend on how large the image around it is.

    Args:
      images, cameras: what the scene should look like, a stack of v.
      active: slots in use.
      unit: of the coordinates, world units.
      capacity, background, any_order: see `airjax.scene.render.render`.
      l1, ssim: weights, see `airjax.metrics.image_loss`.
    """

    def loss(coordinates: Coordinates) -> Float[Array, ""]:
        gaussians = coordinates.gaussians(active, unit)

        def one(image, camera):
            options = {"image_size": image.shape[:2], "capacity": capacity, "any_order": any_order}
            view = render(gaussians, camera, background=background, **options)
            return image.shape[0] * image.shape[1] * image_loss(image, view.image, l1=l1, rmse=0.0, ssim=ssim)

        return jnp.mean(jax.vmap(one)(images, cameras))

    return loss


class State(NamedTuple):
    """A refinement between two steps: all that is needed to go on.

    Fields:
      step: steps taken.
      coordinates, active, unit: see `Coordinates.gaussians`.
      inner_state: of the optimiser, None before the first step.
      loss: of the last step taken, before it (NaN before the first).
      capacity: of the renderer's lists, None before they were planned.
    """

    step: int
    coordinates: Coordinates
    active: Bool[Array, " n"]
    unit: float
    inner_state: Any = None
    loss: float = float("nan")
    capacity: Capacity | None = None

    @property
    def gaussians(self) -> Gaussians3D:
        """The set, all slots."""
        return self.coordinates.gaussians(self.active, self.unit)


def start_state(gaussians: Gaussians3D, *, unit: float) -> State:
    """The state before the first step; `unit` as in `coordinates_of`."""
    gaussians = jax.tree.map(jnp.asarray, gaussians)
    return State(0, coordinates_of(gaussians, unit=unit), gaussians.active, unit)


def advance(
    state: State,
    images: Float[Array, "v h w 3"],
    cameras: Camera,
    *,
    num_steps: int,
    background: Float[Array, " 3"],
    rates: Coordinates = RATES,
) -> State:
    """`num_steps` of Adam on `views_loss` of two views, then of the next two, and so on, on concrete arrays.

    Every pass over the views has an order of its own, which depends on nothing but the number of the pass. The lists
    of the renderer have a planned size; a call in which the set outgrows them is done again with more room.

    Raises:
      AirjaxError: the coordinates did not stay finite, or grew beyond what can be drawn.
    """
    if state.inner_state is None:
        # Here, so that the first call runs the program of all others.
        state = state._replace(inner_state=refinement_adam(rates).init(state.coordinates))
    order = jnp.asarray(_order(state.step, num_steps, len(images)))
    for attempt, headroom in enumerate(_HEADROOMS):
        if state.capacity is None:
            seen = np.unique(np.linspace(0, len(images) - 1, len(images) if attempt else _PLANNED).round().astype(int))
            planned = capacity_of(state.gaussians, cameras[seen], image_size=images.shape[1:3], headroom=headroom)
            state = state._replace(capacity=planned)
        done, finite = _segment(
            state.coordinates,
            state.inner_state,
            state.active,
            state.unit,
            images,
            cameras,
            order,
            background,
            rates,
            capacity=state.capacity,
        )
        if finite:
            return state._replace(
                step=state.step + num_steps,
                coordinates=done.final,
                inner_state=done.inner_state,
                loss=float(done.losses[-1]),
            )
        state = state._replace(capacity=None)
    raise AirjaxError(f"refinement: expected finite Gaussians, got others after step {state.step}")


def _order(step: int, num_steps: int, count: int) -> np.ndarray:
    """(num_steps, VIEWS) the views of steps from `step` on; all of them in each step where there are no more."""
    each = min(VIEWS, count)
    first, stop = step * each, (step + num_steps) * each
    passes = [np.random.default_rng(i).permutation(count) for i in range(first // count, -(-stop // count))]
    views = np.concatenate(passes)[first % count :][: stop - first]
    return views.reshape(num_steps, each).astype(np.int32)


@partial(jax.jit, static_argnames=("capacity",))
def _segment(coordinates, inner_state, active, unit, images, cameras, order, background, rates, *, capacity):
    def loss_fn(coordinates, i):
        options = {"unit": unit, "capacity": capacity, "background": background}
        return views_loss(images[i], cameras[i], active, **options)(coordinates)

    tx, num_steps = refinement_adam(rates), order.shape[0]
    done = refine(loss_fn, coordinates, tx, num_steps=num_steps, batches=order, inner_state=inner_state)
    # A Gaussian that is nowhere is not drawn, and the loss does not tell.
    return done, jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in (done.losses, *done.final)]).all()


def refine_gaussians(
    gaussians: Gaussians3D,
    images: Float[Array, "v h w 3"],
    cameras: Camera,
    *,
    num_steps: int,
    unit: float,
    background: Float[Array, " 3"],
    rates: Coordinates = RATES,
    progress: Callable[[int], None] | None = None,
) -> Gaussians3D:
    """A set after `num_steps` of refinement, in the same slots; numpy arrays.

    Args:
      gaussians: the start, n slots.
      images, cameras: what it should look like, a stack of v.
      num_steps: >= 0.
      unit: a length of the scene, its near depth for instance, world units.
      background: colour behind everything.
      rates: of `refinement_adam`.
      progress: told how many steps are done, every SEGMENT steps.

    Raises:
      AirjaxError: as `advance`.
    """
    images, cameras = jnp.asarray(images), jax.tree.map(jnp.asarray, cameras)
    state = start_state(gaussians, unit=unit)
    while state.step < num_steps:
        steps = min(SEGMENT, num_steps - state.step)
        state = advance(state, images, cameras, num_steps=steps, background=background, rates=rates)
        if progress is not None:
            progress(state.step)
    return jax.tree.map(np.asarray, state.gaussians)
