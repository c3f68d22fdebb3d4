"""Which Gaussians of a prediction the other views contradict: those they see through, those outside a silhouette.

Letters: v views with n Gaussians each, h, w pixels, a, b cells.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.nn.plane_sweep import CELL
from airjax.scene.cameras import Camera, project_points

TOLERANCE = 1.1  # of two depths that are the same; a plane sweep of 32 planes tells no less apart
_FEWEST = 2  # views that must see through a Gaussian: one may be wrong about its own depth


def consistent(
    means: Float[AnyArray, "m 3"],
    pixels: Float[Array, "m 2"],
    depths: Float[Array, "v a b"],
    cameras: Camera,
    *,
    empty: Bool[Array, "v h w"],
) -> Bool[Array, " m"]:
    """Gaussians that the views agree with, of v * n that each came from one of the views, in their order.

    A view sees through a Gaussian that lies in front of what it sees there, and confirms one that lies at the same
    depth; it has no say about what is hidden from it or beyond its edges. Dropped is what more views see through than
    confirm, at least two, and what lies on an empty pixel of any view, or shows one of its own: outside a silhouette
    nothing can be.

    Args:
      means: world units; m = v * n.
      pixels: (x, y) in the view that each came from, what it shows.
      depths: z of what each view sees, by cells (`airjax.scene.predictor.Prediction`), world units.
      cameras: a stack of v.
      empty: pixels that show the background, as far as they are known.

    Returns:
      True for those to keep.
    """
    views, height, width = empty.shape
    origin = jnp.arange(len(means)) // (len(means) // views)

    def opinion(view):
        j, camera, depth, blank = view
        own = origin == j
        place, z = project_points(camera, means)
        place = jnp.where(own[:, None], pixels, place)
        inside = (z > 0) & jnp.all((place >= 0) & (place < jnp.array([[width, height]], place.dtype)), axis=1)
        x, y = jnp.floor(jnp.where(inside[:, None], place, 0.0)).astype(jnp.int32).T
        seen = depth[y // CELL, x // CELL]
        other = inside & ~own
        through = other & (z * TOLERANCE < seen)
        confirmed = other & ~through & (z <= seen * TOLERANCE)
        return through, confirmed, inside & blank[y, x]

    opinions = jax.lax.map(opinion, (jnp.arange(views), cameras, depths, empty))
    through, confirmed, outside = (jnp.sum(votes, axis=0) for votes in opinions)
    return (outside == 0) & (through <= jnp.maximum(confirmed, _FEWEST - 1))
