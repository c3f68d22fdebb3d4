"""What a network sees of views, made to agree with where it finds them in one another.

A network that was trained on a CPU knows poses by some degrees and depths by some tenths, but places of one view in
another by parts of a cell. So cameras, one focal length and the depths of the cells follow from its matches, by bundle
adjustment (`airjax.scene.bundle`) from several starts; depths of pixels follow those of their cells.

Letters: v views, h, w pixels, a, b rows and columns of cells, n = a b.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.nn.pi3 import Pi3Output
from airjax.nn.resize import bilinear
from airjax.scene import matching
from airjax.scene.bundle import Bundle, Matches, adjusted, reflected

_SPREAD = 2.0  # cells; how far the depth of a cell that is matched well corrects those around
_FLOOR = 1e-3  # of the weight of a correction, beside which cells without matches follow the mean of their view


def aligned(found: Pi3Output, features: Float[Array, "v a b m"]) -> Pi3Output:
    """The same with cameras, rays and depths that explain its matches; the unit is that of its depths."""
    _, height, width, _ = found.points.shape
    rows, columns = features.shape[1:3]
    matches = matching.found(features)
    z = jnp.log(found.points[..., 2])
    unit = jnp.median(z)
    seen = -_cells(z - unit, (rows, columns)).reshape(len(z), -1)
    focal = _focal(found.points)
    rotations = jnp.swapaxes(found.rotations, 1, 2)
    places = -jnp.einsum("iab,ib->ia", rotations, found.translations * jnp.exp(-unit), precision="highest")
    still = jnp.broadcast_to(jnp.eye(3), rotations.shape), jnp.zeros_like(places)
    bundle = _best(Bundle(rotations, places, focal, seen), Bundle(*still, focal, seen), matches)

    weights = jnp.sum(matches.weights, axis=1).reshape(len(z), rows, columns)
    change = (seen - bundle.depths).reshape(len(z), rows, columns)
    z = z + bilinear(_spread(change, weights)[..., None], (height, width))[..., 0]
    rays = jnp.asarray(matching.cells((height, width))).reshape(height, width, 2) / jnp.exp(bundle.focal)
    rays = jnp.broadcast_to(jnp.concatenate([rays, jnp.ones_like(rays[..., :1])], axis=-1)[None], found.points.shape)
    back = jnp.swapaxes(bundle.rotation, 1, 2)
    centers = -jnp.einsum("iab,ib->ia", back, bundle.translation, precision="highest")
    points = rays * jnp.exp(z)[..., None]
    return found._replace(points=points, rotations=back, translations=centers * jnp.exp(unit))


def _best(predicted: Bundle, still: Bundle, matches: Matches) -> Bundle:
    """Of what comes of two starts, and of the reflection of the better one, what explains most."""

    def better(one, other):
        return jax.tree.map(lambda a, b: jnp.where(one[1] <= other[1], a, b), one, other)

    best = better(adjusted(predicted, matches), adjusted(still, matches))
    return better(best, adjusted(reflected(best[0])._replace(depths=predicted.depths), matches))[0]


def _focal(points: Float[Array, "v h w 3"]) -> Float[Array, ""]:
    """ln of the focal length, in widths, that draws points nearest to the pixels which they belong to."""
    _, height, width, _ = points.shape
    pixels = matching.cells((height, width)).reshape(1, height, width, 2)
    flat = points[..., :2] / points[..., 2:]
    return jnp.log(jnp.maximum(jnp.sum(flat * pixels) / jnp.maximum(jnp.sum(flat * flat), 1e-12), 0.2))


def _cells(values: Float[Array, "v h w"], grid: tuple[int, int]) -> Float[Array, "v a b"]:
    """Means over cells."""
    (views, height, width), (rows, columns) = values.shape, grid
    parts = values.reshape(views, rows, height // rows, columns, width // columns)
    return jnp.mean(parts, axis=(2, 4))


def _spread(change: Float[Array, "v a b"], weights: Float[Array, "v a b"]) -> Float[Array, "v a b"]:
    """Weighted means around every cell, near ones most; of a view where there is nothing near."""
    kernels = []
    for side in change.shape[1:]:
        off = np.arange(side)[:, None] - np.arange(side)[None]
        kernels.append(jnp.asarray(np.exp(-0.5 * (off / _SPREAD) ** 2), jnp.float32))

    def blurred(values):
        return jnp.einsum("ra,vab,cb->vrc", kernels[0], values, kernels[1], precision="highest")

    total = jnp.sum(weights, axis=(1, 2), keepdims=True) + 1e-9
    mean = jnp.sum(weights * change, axis=(1, 2), keepdims=True) / total
    return mean + blurred(weights * (change - mean)) / (blurred(weights) + _FLOOR)
