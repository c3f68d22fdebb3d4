"""The refinement of a scene as a `Task`: the coordinates of its Gaussians, and the losses on its views.

Letters: n Gaussians, v views, t target views, h, w pixels. Means are measured in a unit of length of the scene (its
near depth, say), so that one set of learning rates serves every scene.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from airjax.arrays import AnyArray, size_of
from airjax.gaussians import Gaussians3D
from airjax.inner.optimizers import scaled_adam
from airjax.inner.task import State, Task
from airjax.metrics import image_loss, psnr
from airjax.raster.tiles import Capacity
from airjax.scene.cameras import Camera
from airjax.scene.exposure import exposed
from airjax.scene.floating import Lookouts, floating
from airjax.scene.relocate import relocate
from airjax.scene.render import capacity_of, render

Leaf = TypeVar("Leaf", bound=Any)
ViewLoss = Callable[[Float[Array, "h w 3"], Float[Array, "h w 3"]], Float[Array, ""]]

VIEWS = 2  # that a step looks at
COARSE_STEPS, COARSE_SHARE = 40, 0.3  # until one of them the smallest views are looked at, where there are some
_FINER = 0.6  # share of what is left that each of the other smaller ones takes
RELOCATION = 50  # steps between two relocations
_SETTLE = 0.6  # share of a refinement after which its rates fall, to `_LAST` of what they were
_LAST = 0.1
_FLAT = 0.2  # share of a refinement before which the color that depends on the direction stays
_PLANNED = 8  # views that a first plan looks at


class Coordinates(NamedTuple, Generic[Leaf]):
    """What the optimizer moves, of arrays: any real numbers are valid. Of numbers: a learning rate for each."""

    means: Leaf  # (n, 3) in units of the scene
    log_scales: Leaf  # (n, 3) natural logarithms of the standard deviations, in units of the scene
    quats: Leaf  # (n, 4) of any length but 0
    logits: Leaf  # (n,) of the opacities
    base: Leaf  # (n, 1, 3) the constant harmonic
    rest: Leaf  # (n, k - 1, 3) the others

    @classmethod
    def of(cls, gaussians: Gaussians3D, *, unit: Float[Array, ""] | float) -> Coordinates[AnyArray]:
        """The coordinates of a set, differentiable; opacities stay 1e-4 away from 0 and 1, scales above 1e-6 units."""
        opacities = jnp.clip(gaussians.opacities, 1e-4, 1 - 1e-4)
        return Coordinates(
            gaussians.means / unit,
            jnp.log(jnp.maximum(gaussians.scales / unit, 1e-6)),
            gaussians.quats,
            jnp.log(opacities) - jnp.log1p(-opacities),
            gaussians.harmonics[:, :1],
            gaussians.harmonics[:, 1:],
        )

    def gaussians(self, active: Bool[AnyArray, " n"], *, unit: Float[Array, ""] | float) -> Gaussians3D:
        """The set with these coordinates."""
        return Gaussians3D(
            self.means * unit,
            jnp.exp(jnp.clip(self.log_scales, -15.0, 10.0)) * unit,
            self.quats,
            jax.nn.sigmoid(self.logits),
            jnp.concatenate([self.base, self.rest], axis=1),
            active,
        )


class MovingCoordinates(NamedTuple, Generic[Leaf]):
    """`Coordinates`, and those of the cameras."""

    means: Leaf
    log_scales: Leaf
    quats: Leaf
    logits: Leaf
    base: Leaf
    rest: Leaf
    poses: Leaf  # (v, 6) steps of the cameras (`Camera.moved`), translations in units of the scene


AnyCoordinates = Coordinates[Any] | MovingCoordinates[Any]


def _in_world(poses: Float[Array, "k 6"], unit: Float[Array, ""] | float) -> Float[Array, "k 6"]:
    """Steps of cameras with their translations in world units."""
    return jnp.concatenate([poses[:, :3], poses[:, 3:] * unit], axis=1)


# Adam's step in each coordinate, as 3DGS trains them; a mean's is 1.6e-4 times the extent of the cameras there.
RATES = Coordinates(means=1e-3, log_scales=5e-3, quats=1e-3, logits=5e-2, base=2.5e-3, rest=1.25e-4)

# For some photographs and hundreds of steps: larger ones arrive sooner, and there is little to overfit. Still larger
# ones of the means send Gaussians before cameras.
MANY_VIEWS = Coordinates(means=6e-3, log_scales=9e-2, quats=6e-3, logits=3e-1, base=4.5e-2, rest=7.5e-4)
POSE_RATE = 1e-3  # of cameras that move: radians, and units of the scene
FEW = 4  # given views from which on those are taken


def refinement_adam(rates: Any = RATES) -> optax.GradientTransformation:
    """The optimizer of a refinement."""
    return scaled_adam(rates, decay=200.0)


def view_loss(image: Float[Array, "h w 3"], rendered: Float[Array, "h w 3"]) -> Float[Array, ""]:
    """The loss of 3DGS: 0.8 * mean |difference| + 0.2 * (1 - SSIM)."""
    return image_loss(image, rendered, l1=0.8, rmse=0.0, ssim=0.2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SceneTask(Task):
    """Refinement of the Gaussians of a scene towards its views."""

    images: Float[AnyArray, "v h w 3"]  # what the scene should look like
    cameras: Camera  # a stack of v
    unit: Float[Array, ""] | float  # of the coordinates, world units
    background: Float[AnyArray, " 3"] | None = None  # color behind everything; None for black
    # False where a photograph says nothing: the loss looks away there. None where all of them are seen whole.
    masks: Bool[AnyArray, "v h w"] | None = field(default=None, kw_only=True)
    # Views that refinement does not see, by which it is judged; None for the views themselves.
    target_images: Float[AnyArray, "t h w 3"] | None = None
    target_cameras: Camera | None = None
    rates: AnyCoordinates = RATES  # of `refinement_adam`
    pixels: int | None = field(default=None, kw_only=True, metadata={"static": True})  # that a view counts for
    # Whether photographs may differ in exposure: each is compared with what is drawn at its own gain and offset
    # (`airjax.scene.exposure`). Static.
    exposure: bool = field(default=False, kw_only=True, metadata={"static": True})
    # Whether the cameras move, too; rates and coordinates are then `MovingCoordinates`. Static.
    moving: bool = field(default=False, kw_only=True, metadata={"static": True})
    # The same with smaller views, which may have smaller ones in turn, for the first steps; None to begin with these.
    coarse: SceneTask | None = field(default=None, kw_only=True)
    # Where nothing may float; None for no relocation.
    lookouts: Lookouts | None = field(default=None, kw_only=True)
    # (image, rendered) -> inner loss of a view, a mean over its pixels; static.
    loss_fn: ViewLoss = field(default=view_loss, metadata={"static": True})

    def make_tx(self, rates: Any) -> optax.GradientTransformation:
        """`refinement_adam`."""
        return refinement_adam(rates)

    def coordinates(self, gaussians: Gaussians3D) -> AnyCoordinates:
        """See `Task.coordinates`."""
        coordinates = Coordinates.of(gaussians, unit=self.unit)
        return MovingCoordinates(*coordinates, jnp.zeros((len(self.images), 6))) if self.moving else coordinates

    def moved_cameras(self, coordinates: AnyCoordinates) -> Camera:
        """Where a refinement has moved the cameras."""
        if not isinstance(coordinates, MovingCoordinates):
            return self.cameras
        return self.cameras.moved(_in_world(coordinates.poses, self.unit))

    def gaussians(self, coordinates: AnyCoordinates, active: Bool[AnyArray, " n"]) -> Gaussians3D:
        """See `Task.gaussians`."""
        return Coordinates(*coordinates[: len(Coordinates._fields)]).gaussians(active, unit=self.unit)

    def loss(
        self,
        coordinates: AnyCoordinates,
        active: Bool[AnyArray, " n"],
        batch: Int[Array, " k"] | None = None,
        *,
        capacity: Capacity,
        any_order: bool = False,
    ) -> Float[Array, ""]:
        """pixels * mean of `loss_fn` over the views of the batch.

        Times the pixels of a view, so that the gradient of a Gaussian does not depend on how large the image around it
        is; smaller views (`coarse`) count like the ones that they were made of.
        """
        views = self.images, self.cameras, self.masks
        if batch is not None:
            views = jax.tree.map(lambda leaf: leaf[batch], views)
        gaussians = self.gaussians(coordinates, active)
        if isinstance(coordinates, MovingCoordinates):
            images, cameras, masks = views
            poses = coordinates.poses if batch is None else coordinates.poses[batch]
            views = images, cameras.moved(_in_world(poses, self.unit)), masks

        def scaled_loss(image, camera, mask):
            view = self._render(gaussians, camera, capacity, any_order)
            if self.exposure:
                view = exposed(view, image, mask=mask)
            if mask is not None:  # what is drawn there is as it should be, whatever it is
                image = jnp.where(mask[..., None], image, jax.lax.stop_gradient(view))
            pixels = image.shape[0] * image.shape[1] if self.pixels is None else self.pixels
            return pixels * self.loss_fn(image, view)

        return jnp.mean(jax.vmap(scaled_loss)(*views))

    def outer_loss(
        self,
        coordinates: AnyCoordinates,
        active: Bool[AnyArray, " n"],
        *,
        capacity: Capacity,
        any_order: bool = False,
    ) -> Float[Array, ""]:
        """Minus the mean PSNR in dB of the target views."""
        gaussians = self.gaussians(coordinates, active)

        def negative_psnr(image, camera):
            return -psnr(image, self._render(gaussians, camera, capacity, any_order))

        own = self.target_images is None
        views = (self.images, self.cameras) if own else (self.target_images, self.target_cameras)
        return jnp.mean(jax.vmap(negative_psnr)(*views))

    def batches(self, step: int, num_steps: int) -> Int[np.ndarray, "s k"]:
        """The views of steps from `step` on: two, then the next two, and so on; all of them where there are no more.

        Every pass over the views has an order of its own, which depends on nothing but the number of the pass.
        """
        count = len(self.images)
        per_step = min(VIEWS, count)
        first, stop = step * per_step, (step + num_steps) * per_step
        passes = [np.random.default_rng(i).permutation(count) for i in range(first // count, -(-stop // count))]
        views = np.concatenate(passes or [np.zeros(0, int)])[first % count :][: stop - first]
        return views.reshape(num_steps, per_step).astype(np.int32)

    def at(self, step: int, share: float) -> SceneTask:
        """Smaller views at first, smaller rates at the end; see `Task.at`."""
        parts = [self]
        while parts[0].coarse is not None:
            parts.insert(0, parts[0].coarse)
        first = step < COARSE_STEPS and share < COARSE_SHARE
        finer = [share >= 1 - (1 - _FINER) ** k for k in range(1, len(parts) - 1)]
        part = parts[0 if first else min(1 + sum(finer), len(parts) - 1)]
        settled = 0.5 * (1 + math.cos(math.pi * max(0.0, share - _SETTLE) / (1 - _SETTLE)))
        factor = jnp.float32(_LAST + (1 - _LAST) * settled)
        rates = jax.tree.map(lambda rate: factor * rate, part.rates)
        if share < _FLAT:
            rates = rates._replace(rest=0 * rates.rest)
        return replace(part, coarse=None, rates=rates)

    def rearrange(self, state: State, share: float, *, most: int) -> State:
        """Relocation (`airjax.scene.relocate`) of what shows nothing, or floats before cameras; the latter, and what
        would, is left out at the end.
        """
        if self.lookouts is None or (share < 1 and (state.step % RELOCATION or share > _SETTLE)):
            return state
        gaussians = self.gaussians(state.coordinates, state.active)
        useless = floating(gaussians.means, gaussians.scales, self.lookouts)
        if share >= 1:
            return state._replace(active=state.active & ~useless)
        key = jax.random.key(state.step)
        parts = relocate(key, *state[1:3], useless, state.inner_state, most=most)
        return state._replace(coordinates=parts[0], active=parts[1], inner_state=parts[2])

    def plan(self, gaussians: Gaussians3D, *, headroom: float, thorough: bool) -> Capacity:
        """See `Task.plan`; a sample is some of the views, everything all of them and the target views."""
        cameras, count = self.cameras, len(self.images)
        if not thorough:
            cameras = cameras[np.unique(np.linspace(0, count - 1, _PLANNED).round().astype(int))]
        elif self.target_cameras is not None:
            cameras = jax.tree.map(lambda *parts: jnp.concatenate(parts), cameras, self.target_cameras)
        return capacity_of(gaussians, cameras, image_size=size_of(self.images[0]), headroom=headroom)

    def _render(self, gaussians, camera, capacity, any_order) -> jax.Array:
        draw = partial(render, image_size=size_of(self.images[0]), background=self.background)
        return draw(gaussians, camera, capacity=capacity, any_order=any_order).image
