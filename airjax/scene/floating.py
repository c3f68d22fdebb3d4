"""Gaussians that float before cameras: nearer than anything of a scene can be, where someone may look from.

A few of them are fog in a whole view. Refinement puts them where no photograph shows them, so it is not enough to look
from the cameras of the photographs: one looks from the way between them, too.

Letters: m Gaussians, v views, u lookouts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.programs import kept
from airjax.scene import view_selection
from airjax.scene.cameras import Camera, project_points

_TOO_NEAR = 0.3  # of the least depth of a view
_NEIGHBORS = 3  # of a camera, to which there is a way
_MOST = 48  # cameras, spread over the scene; where there are more, they are close together


class Lookouts(NamedTuple):
    """Where someone may look from."""

    cameras: Camera  # a stack of u
    nearest: Float[AnyArray, " u"]  # depths that nothing of the scene is nearer than, world units
    size: Float[AnyArray, " 2"]  # (w, h) pixels of their pictures


def lookouts(cameras: Camera, nearest: Float[np.ndarray, " v"], *, image_size: tuple[int, int]) -> Lookouts:
    """The cameras of photographs, and cameras like them half way to their neighbors; numpy arrays.

    Without ways that are longer than the least depth: they may lead through things.

    Args:
      nearest: least depths of the views, world units.
      image_size: (h, w) pixels of the photographs.
    """
    cameras, depths = jax.tree.map(np.asarray, cameras), np.asarray(nearest, np.float32)
    chosen = view_selection.spread(cameras, _MOST)
    centers, places, turns = np.asarray(cameras.center), [], []
    for i in chosen:
        ends = view_selection.nearest(cameras, int(i), _NEIGHBORS)
        ways = centers[ends] - centers[i]
        ways = ways[np.linalg.norm(ways, axis=1) < depths[i]]
        places += [centers[i], *(centers[i] + way / 2 for way in ways)]
        turns += [int(i)] * (1 + len(ways))
    rotations = cameras.rotation[turns]
    translations = -np.einsum("uij,uj->ui", rotations, np.stack(places)).astype(np.float32)
    moved = Camera(cameras.intrinsics[turns], rotations, translations)
    return Lookouts(moved, depths[turns], np.array(image_size[::-1], np.float32))


@kept()
def floating(means: Float[AnyArray, "m 3"], scales: Float[AnyArray, "m 3"], lookouts: Lookouts) -> Bool[Array, " m"]:
    """Whether a Gaussian is in the picture of some lookout, its largest standard deviation included, and nearer to it
    than a share of its least depth.
    """
    largest = jnp.max(scales, axis=1)

    def before(lookout):
        camera, nearest = lookout
        place, z = project_points(camera, means)
        close = (z > 0) & (z < _TOO_NEAR * nearest)
        margin = (camera.intrinsics[0, 0] * largest / jnp.where(close, z, 1.0))[:, None]
        return close & jnp.all((place > -margin) & (place < lookouts.size[None] + margin), axis=1)

    return jnp.any(jax.lax.map(before, (lookouts.cameras, jnp.asarray(lookouts.nearest))), axis=0)
