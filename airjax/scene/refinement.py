"""Refinement of the Gaussians of a scene by `airjax.refine`: their coordinates, the loss on its views, the optimiser.

Letters: n Gaussians, v views. Means are measured in a unit of length of the scene (its near depth, say), so that one
set of learning rates serves every scene.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from airjax.gaussians import Gaussians3D
from airjax.metrics import image_loss
from airjax.refine import scaled_adam
from airjax.render.lists import Capacity
from airjax.scene.cameras import Camera
from airjax.scene.render import render


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
    """Coordinates to the mean over views of l1 * |difference| + ssim * (1 - SSIM); NaN where the lists overflow.

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
            return image_loss(image, view.image, l1=l1, rmse=0.0, ssim=ssim)

        return jnp.mean(jax.vmap(one)(images, cameras))

    return loss
