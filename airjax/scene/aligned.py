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
from airjax.nn.resize import bilinear, pooled
from airjax.scene import matching
from airjax.scene.bundle import Bundle, Matches, adjusted, reflected

_SPREAD = 2.0  # cells; how far the depth of a cell that is matched well corrects those around
_STARTS, _AT_ONCE = 15, 4  # of bundle adjustments beside that from the network's cameras, and how many together
_AWAY = 0.3  # units; how far cameras are put from one another at random
_CELLS = 256  # of a view, about so many tell which start is best
_FLOOR = 1e-3  # of the weight of a correction, beside which cells without matches follow the mean of their view


def aligned(found: Pi3Output, images: Float[Array, "v k l 3"]) -> Pi3Output:
    """The same with cameras, rays and depths that explain its matches; the unit is that of its depths.

    `images` are the views, at their size or a power of two times as large: matches are found in features, then in
    pictures of the views' size, then in larger ones.
    """
    assert found.features is not None
    _, height, width, _ = found.points.shape
    rows, columns = found.features.shape[1:3]
    matches, factor = matching.found(found.features), images.shape[1] // height
    while factor:
        matches = matching.refined(pooled(images, factor), matches)
        factor //= 2
    z = jnp.log(found.points[..., 2])
    unit = jnp.median(z)
    seen = -_cells(z - unit, (rows, columns)).reshape(len(z), -1)
    rotations = jnp.swapaxes(found.rotations, 1, 2)
    places = -jnp.einsum("iab,ib->ia", rotations, found.translations * jnp.exp(-unit), precision="highest")
    bundle = _best(Bundle(rotations, places, _focal(found.points), seen), matches, (rows, columns))

    weights = jnp.sum(matches.weights, axis=1).reshape(len(z), rows, columns)
    change = (seen - bundle.depths).reshape(len(z), rows, columns)
    z = z + bilinear(_spread(change, weights)[..., None], (height, width))[..., 0]
    rays = jnp.asarray(matching.cells((height, width))).reshape(height, width, 2) / jnp.exp(bundle.focal)
    rays = jnp.broadcast_to(jnp.concatenate([rays, jnp.ones_like(rays[..., :1])], axis=-1)[None], found.points.shape)
    back = jnp.swapaxes(bundle.rotation, 1, 2)
    centers = -jnp.einsum("iab,ib->ia", back, bundle.translation, precision="highest")
    points = rays * jnp.exp(z)[..., None]
    return found._replace(points=points, rotations=back, translations=centers * jnp.exp(unit))


def _best(predicted: Bundle, matches: Matches, grid: tuple[int, int]) -> Bundle:
    """Of what comes of several starts, and of the reflection of each, what explains most.

    They are the cameras that the network says, and others that look ahead from places drawn at random. Some cells are
    enough to tell which start is best.
    """
    views, count = predicted.depths.shape
    every = max(1, round((count / _CELLS) ** 0.5))
    some = np.arange(count).reshape(grid)[::every, ::every].ravel()
    few = Matches(matches.cells[some], matches.seen[:, :, some], matches.weights[:, :, some], matches.error)
    depths = predicted.depths[:, some]
    places = _AWAY * jax.random.normal(jax.random.key(0), (_STARTS, views, 3)).at[0].set(0.0)
    ahead = jnp.broadcast_to(jnp.eye(3), (_STARTS, views, 3, 3))
    rotations = jnp.concatenate([predicted.rotation[None], ahead])
    translations = jnp.concatenate([predicted.translation[None], places])

    def followed(cameras):
        one = adjusted(Bundle(cameras[0], cameras[1], predicted.focal, depths), few)
        other = adjusted(reflected(one[0])._replace(depths=depths), few)
        return jax.tree.map(lambda a, b: jnp.where(one[1] <= other[1], a, b), one, other)

    bundles, costs = jax.lax.map(followed, (rotations, translations), batch_size=_AT_ONCE)
    best = jax.tree.map(lambda leaf: leaf[jnp.argmin(costs)], bundles)
    return adjusted(best._replace(depths=predicted.depths), matches)[0]


def _focal(points: Float[Array, "v h w 3"]) -> Float[Array, ""]:
    """ln of the focal length, in widths, that draws points nearest to the pixels which they belong to."""
    _, height, width, _ = points.shape
    pixels = matching.cells((height, width)).reshape(1, height, width, 2)
    flat = points[..., :2] / points[..., 2:]
    return jnp.log(jnp.maximum(jnp.sum(flat * pixels) / jnp.maximum(jnp.sum(flat * flat), 1e-12), 0.2))


def _cells(values: Float[Array, "v h w"], grid: tuple[int, int]) -> Float[Array, "v a b"]:
    """Means over cells."""
    return pooled(values[..., None], values.shape[1] // grid[0])[..., 0]


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
