"""Fusion of what views predict: Gaussians that others contradict are dropped, those that they repeat become one.

Letters: v views with n Gaussians each, m = v * n, h, w pixels, a, b cells.
"""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.gaussians import Gaussians3D
from airjax.nn.blocks import CELL
from airjax.scene.cameras import Camera, project_points

TOLERANCE = 1.1  # largest ratio of two depths that count as the same; 32 planes resolve no less
_SAME = 1.05  # the same for Gaussians that are one
_FINER = 1.3  # ratio of two resolutions from which on one of them is finer
_COVER = 0.5  # of the layers that a Gaussian stands for add to its own: predictions count on several
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


def per_cell(gaussians: Gaussians3D, depths: Float[Array, "v a b"]) -> int:
    """How many Gaussians there are along each side of a cell."""
    return math.isqrt(gaussians.num_slots // depths.size)


def fused(
    gaussians: Gaussians3D, depths: Float[Array, "v a b"], cameras: Camera, *, image_size: tuple[int, int]
) -> Gaussians3D:
    """The same surfaces with fewer Gaussians: of those that several views have of one place, one is left.

    That of the view which resolves it best, or of the first such view. It moves to the mean of all, takes their mean
    color, and becomes as opaque as half of them over one another. The others become inactive.

    Args:
      gaussians: m slots, view by view, a grid of them in each, row by row.
      depths: z that each view sees, by cells (`airjax.scene.predictor.Prediction`), world units.
      image_size: (h, w) pixels of the views.
    """
    (views, rows, columns), m = depths.shape, gaussians.num_slots
    grid = per_cell(gaussians, depths)
    origin = jnp.arange(m) // (m // views)
    focal = 0.5 * (cameras.intrinsics[:, 0, 0] + cameras.intrinsics[:, 1, 1])
    local = jnp.einsum("mj,mj->m", cameras.rotation[origin, 2], gaussians.means, precision="highest")
    own = (local + cameras.translation[origin, 2]) / focal[origin]  # world units a pixel
    limits = jnp.array([[image_size[1], image_size[0]]], own.dtype)

    def look(sums, view):
        i, camera, depth, focal = view
        place, z = project_points(camera, gaussians.means)
        inside = gaussians.active & (origin != i) & (z > 0) & jnp.all((place >= 0) & (place < limits), axis=1)
        x, y = jnp.floor(jnp.where(inside[:, None], place, 0.0) * grid / CELL).astype(jnp.int32).T
        there = (i * rows * grid + y) * columns * grid + x
        ratio = z / depth[y // grid, x // grid]
        same = inside & gaussians.active[there] & (ratio < _SAME) & (ratio > 1 / _SAME)
        theirs = z / focal
        worse = (theirs < own / _FINER) | ((theirs < own * _FINER) & (i < origin))
        repeated, sums, layers = sums
        given = jnp.where(same & worse, there, m)  # m: to nobody
        sums = jax.tree.map(lambda total, part: total.at[given].add(part, mode="drop"), sums, parts)
        return (repeated | (same & worse), sums, layers + (same & ~worse).astype(layers.dtype)), None

    parts = jnp.ones(m), gaussians.means, gaussians.harmonics
    start = jnp.zeros(m, bool), parts, jnp.zeros(m)
    (repeated, (count, means, harmonics), layers), _ = jax.lax.scan(
        look, start, (jnp.arange(views), cameras, depths, focal)
    )
    return replace(
        gaussians,
        means=means / count[:, None],
        harmonics=harmonics / count[:, None, None],
        opacities=1 - (1 - gaussians.opacities) ** (1 + _COVER * layers),
        active=gaussians.active & ~repeated,
    )
