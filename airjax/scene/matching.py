"""Places of views in one another, by the features of their cells (`airjax.nn.pi3.Pi3Output.features`).

Letters: v views; a, b rows and columns of cells, n = a b; m numbers of a feature. Lengths are in widths of a view, from
its center, as `airjax.scene.bundle` has them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.scene.bundle import Matches

_RADIUS = 2.5  # cells around the best one that say where within them a place is
_ERROR = 0.25  # cells; of a place
_RETURN = 0.6  # cells by which a place found from there and back may be off


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
