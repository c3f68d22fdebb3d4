"""Places of views in one another, by the features of their cells (`airjax.nn.pi3.Pi3Output.features`).

`found` compares features, `refined` the pictures around what was found.

Letters: v views; h, w their pixels; a, b rows and columns of cells, n = a b; m numbers of a feature; k pixels of a
patch. Lengths are in widths of a view, from its center, as `airjax.scene.bundle` has them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from airjax.scene.bundle import Matches

_RADIUS = 2.5  # cells around the best one that say where within them a place is
_ERROR = 0.25  # cells; of a place
_RETURN = 0.6  # cells by which a place found from there and back may be off

# Of patches around places, in pixels: how far they reach, how soft their edges are, how far a place may move, how much
# in a step, how many steps; how alike they must be at the end, from where on to where fully; error of places.
_REACH, _SOFT = 3, 1.8
_FAR, _STEP, _STEPS = 3.0, 1.0, 10
_ALIKE = 0.7, 0.95
_SHARP = 0.4


def cells(grid: tuple[int, int]) -> Float[np.ndarray, "n 2"]:
    """(x, y) of the centers of the cells of a view, row by row."""
    rows, columns = grid
    x, y = np.meshgrid(np.arange(columns) + 0.5 - columns / 2, np.arange(rows) + 0.5 - rows / 2)
    return (np.stack([x, y], axis=-1) / columns).reshape(-1, 2).astype(np.float32)


def found(features: Float[Array, "v a b m"]) -> Matches:
    """Where every cell of a view is seen in every other one, and how far that is to be believed.

    The best cell and its neighbors, weighed by how alike they are, give a place. It is believed for how much of all
    likeness they have, and for how near a search from there comes back. A best cell at an edge is not believed: the
    place may lie beyond.
    """
    views, rows, columns, _ = features.shape
    count = rows * columns
    flat, places = features.reshape(views, count, -1), jnp.asarray(cells((rows, columns)))
    offset = places[:, None] - places[None]
    near = jnp.sum(jnp.square(offset), axis=-1) <= (_RADIUS / columns) ** 2

    def search(pair):
        one, other = pair
        likeness = jax.nn.softmax(jnp.einsum("nm,km->nk", flat[one], flat[other], precision="highest"), axis=-1)
        best = jnp.argmax(likeness, axis=-1)
        part = jnp.where(near[best], likeness, 0.0)
        share = jnp.sum(part, axis=-1)
        return jnp.einsum("nk,kc->nc", part, places, precision="highest") / share[:, None], share, best

    pairs = np.stack(np.meshgrid(np.arange(views), np.arange(views), indexing="ij"), axis=-1).reshape(-1, 2)
    seen, share, best = jax.lax.map(search, (jnp.asarray(pairs[:, 0]), jnp.asarray(pairs[:, 1])), batch_size=views)
    seen = seen.reshape(views, views, count, 2)
    back = jnp.take_along_axis(jnp.swapaxes(seen, 0, 1), best.reshape(views, views, count, 1), axis=2)
    # A search back begins at the center of the best cell, that far from the place that was found.
    beside = seen - places[best].reshape(seen.shape)
    off = jnp.sum(jnp.square(back + beside - places[None, None]), axis=-1) * columns**2
    edge = np.pad(np.zeros((rows - 2, columns - 2), bool), 1, constant_values=True).ravel()
    within = jnp.where(jnp.asarray(edge)[best].reshape(off.shape), 0.0, share.reshape(off.shape))
    believed = within * jnp.exp(-0.5 * off / _RETURN**2)
    return Matches(places, seen, believed * (1 - jnp.eye(views))[:, :, None], _ERROR / columns)


def refined(images: Float[Array, "v h w 3"], matches: Matches) -> Matches:
    """The same, every place moved to where the picture around it is most like that around its cell.

    Steps of Lucas and Kanade (1981) on patches whose brightness and contrast do not count. A place that moves far, lies
    at an edge, or looks different there is not believed. `images` may be of any size.
    """
    views, height, width, _ = images.shape
    side = np.arange(-_REACH, _REACH + 1.0)
    around = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype(np.float32)
    weights = np.exp(-0.5 * np.sum(around**2, axis=1) / _SOFT**2)
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)[None]
    middle = jnp.array([[width / 2, height / 2]], jnp.float32)
    grey = jnp.mean(images, axis=-1)

    def patches(picture: Float[Array, "h w"], places: Float[Array, "n 2"], x: float = 0.0, y: float = 0.0):
        at = places[:, None] + (around + np.array([[x - 0.5, y - 0.5]], np.float32))[None]
        patch = map_coordinates(picture, [at[..., 1], at[..., 0]], order=1, mode="nearest")
        patch = patch - jnp.sum(weights * patch, axis=1, keepdims=True)
        return patch * jax.lax.rsqrt(jnp.sum(weights * jnp.square(patch), axis=1, keepdims=True) + 1e-5)

    def whole(places: Float[Array, "n 2"]):
        return jnp.all((places > _REACH) & (places < 2 * middle - _REACH), axis=1)

    cells = matches.cells * width + middle
    wanted = jax.lax.map(lambda picture: patches(picture, cells), grey)

    def search(pair):
        one, other = pair
        picture, start = grey[other], matches.seen[one, other] * width + middle

        def step(places, _):
            along = [patches(picture, places, *(0.5 * d)) - patches(picture, places, *(-0.5 * d)) for d in np.eye(2)]
            rest = wanted[one] - patches(picture, places)
            a, b, c = (jnp.sum(weights * along[i] * along[j], axis=1) for i, j in ((0, 0), (0, 1), (1, 1)))
            x, y = (jnp.sum(weights * part * rest, axis=1) for part in along)
            a, c = a + 1e-3, c + 1e-3
            move = jnp.stack([c * x - b * y, a * y - b * x], axis=1) / (a * c - b * b)[:, None]
            length = jnp.sqrt(jnp.sum(jnp.square(move), axis=1, keepdims=True) + 1e-12)
            return places + move * jnp.minimum(1.0, _STEP / length), None

        places, _ = jax.lax.scan(step, start, None, length=_STEPS)
        alike = jnp.sum(weights * wanted[one] * patches(picture, places), axis=1)
        near = jnp.sum(jnp.square(places - start), axis=1) < _FAR**2
        believed = jnp.clip((alike - _ALIKE[0]) / (_ALIKE[1] - _ALIKE[0]), 0, 1)
        return (places - middle) / width, jnp.where(near & whole(cells) & whole(places), believed, 0.0)

    pairs = np.stack(np.meshgrid(np.arange(views), np.arange(views), indexing="ij"), axis=-1).reshape(-1, 2)
    seen, believed = jax.lax.map(search, (jnp.asarray(pairs[:, 0]), jnp.asarray(pairs[:, 1])), batch_size=views)
    believed = matches.weights * believed.reshape(matches.weights.shape)
    return Matches(matches.cells, seen.reshape(matches.seen.shape), believed, _SHARP / width)
