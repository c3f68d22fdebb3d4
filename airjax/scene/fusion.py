"""Consistency check of a prediction: Gaussians that other views see through or that lie outside a silhouette.

Letters: v views with n Gaussians each, h, w pixels, a, b cells.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.nn.plane_sweep import CELL
from airjax.scene.cameras import Camera, project_points

TOLERANCE = 1.1  # largest ratio of two depths that count as the same; 32 planes resolve no less
_FEWEST = 2  # views that must contradict a Gaussian: a single one may be wrong about its own depth


def consistent(
    means: Float[AnyArray, "m 3"],
    pixels: Float[Array, "m 2"],
    depths: Float[Array, "v a b"],
    cameras: Camera,
    *,
    empty: Bool[Array, "v h w"],
    masks: Bool[Array, "v h w"] | None = None,
) -> Bool[Array, " m"]:
    """Which Gaussians to keep; the first n were predicted from the first view, the next n from the second, and so on.

    A view contradicts a Gaussian that lies in front of the surface it sees there, and confirms one that lies at the
    same depth; Gaussians that are hidden from it, beyond its edges or behind its mask get no vote. A Gaussian is
    dropped where at least two views contradict it and more than confirm it, where it lies on an empty pixel of any
    view, or where it shows an empty pixel of its own view: nothing exists outside a silhouette. It is dropped, too,
    where its own view has a mask: nothing is known there.

    Args:
      means: world units; m = v * n.
      pixels: (x, y) that each Gaussian shows, in the view that it was predicted from.
      depths: z that each view sees, by cells (`airjax.scene.predictor.Prediction`), world units.
      empty: pixels that show the background alone; False where that is not known.
      masks: pixels that say something of the scene; None for all.
    """
    views, height, width = empty.shape
    masks = jnp.ones(empty.shape, bool) if masks is None else masks
    origin = jnp.arange(len(means)) // (len(means) // views)

    def vote(view):
        j, camera, depth, blank, mask = view
        own = origin == j
        place, z = project_points(camera, means)
        place = jnp.where(own[:, None], pixels, place)
        inside = (z > 0) & jnp.all((place >= 0) & (place < jnp.array([[width, height]], place.dtype)), axis=1)
        x, y = jnp.floor(jnp.where(inside[:, None], place, 0.0)).astype(jnp.int32).T
        surface = depth[y // CELL, x // CELL]
        seen = inside & mask[y, x]
        other = seen & ~own
        contradicted = other & (z * TOLERANCE < surface)
        confirmed = other & ~contradicted & (z <= surface * TOLERANCE)
        return contradicted, confirmed, (seen & blank[y, x]) | (own & inside & ~seen)

    votes = jax.lax.map(vote, (jnp.arange(views), cameras, depths, empty, masks))
    contradicted, confirmed, outside = (jnp.sum(kind, axis=0) for kind in votes)
    return (outside == 0) & (contradicted <= jnp.maximum(confirmed, _FEWEST - 1))
