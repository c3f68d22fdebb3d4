"""Thinning: one large Gaussian for several small ones where the picture is smooth, until there are few enough.

Letters: v views, r rows and c columns of Gaussians in each, m = v * r * c slots.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from airjax.gaussians import Gaussians3D

_LEVELS = 3  # squares of 2, 4 and 8 Gaussians on a side become one
_STEP = 1.1  # a larger ratio of depths in a square is an edge, and stays


def thinned(gaussians: Gaussians3D, depths: Float[np.ndarray, "v r c"], *, most: int) -> Gaussians3D:
    """A set of at most `most` Gaussians, as far as squares of up to 8 x 8 can be joined; numpy arrays.

    Squares whose colors differ least are joined first. What they become covers the square as its members did: the mean
    of all that they are, larger across by the square root of their number.

    Args:
      gaussians: m slots, view by view, a grid of them in each, row by row; not all of them need be active. The third
        axis of a Gaussian is the one along its view.
      depths: of the slots, in their own views, world units.
    """
    fields = {
        name: np.array(getattr(gaussians, name)) for name in ("means", "scales", "quats", "opacities", "harmonics")
    }
    fields["quats"] /= np.maximum(np.linalg.norm(fields["quats"], axis=1, keepdims=True), 1e-12)
    active, whole = np.array(gaussians.active), np.ones(depths.shape, bool)
    slots, depths = np.arange(active.size).reshape(depths.shape), depths.ravel()
    for _ in range(_LEVELS):
        surplus = int(active.sum()) - most
        rows, columns = (len(line) // 2 * 2 for line in (slots[0], slots[0].T))
        if surplus <= 0 or not rows or not columns:
            break
        members = _squares(slots[:, :rows, :columns])  # (v, r / 2, c / 2, 4)
        used = active[members]
        cost = _cost(fields["harmonics"][members][..., 0, :], depths[members], used)
        cost = np.where(_squares(whole[:, :rows, :columns]).all(axis=-1), cost, np.inf)
        order = np.argsort(cost, axis=None)
        order = order[: np.searchsorted(np.cumsum(used.sum(axis=-1).ravel()[order] - 1), surplus) + 1]
        order = order[np.isfinite(cost.ravel()[order])]
        _join(fields, active, members.reshape(-1, 4)[order])
        whole = np.zeros(cost.shape, bool)
        whole.ravel()[order] = True
        slots = members[..., 0]
    return replace(gaussians, active=active, **fields)


def _squares(grid: np.ndarray) -> np.ndarray:
    """(v, r / 2, c / 2, 4) of (v, r, c)."""
    views, rows, columns = grid.shape
    return grid.reshape(views, rows // 2, 2, columns // 2, 2).swapaxes(2, 3).reshape(views, rows // 2, columns // 2, 4)


def _cost(colors: np.ndarray, depths: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Squared differences from the mean color of the used members; infinite at an edge, or for fewer than two."""
    weight = used[..., None] / np.maximum(used.sum(axis=-1), 1)[..., None, None]
    mean = (weight * colors).sum(axis=-2, keepdims=True)
    spread = (used[..., None] * np.square(colors - mean)).sum(axis=(-1, -2))
    nearest = np.where(used, depths, np.inf).min(axis=-1)
    edge = np.where(used, depths, 0.0).max(axis=-1) > _STEP * nearest
    return np.where(edge | (used.sum(axis=-1) < 2), np.inf, spread)


def _join(fields: dict[str, np.ndarray], active: np.ndarray, members: np.ndarray) -> None:
    """Squares (k, 4) of slots become their first slot."""
    used = active[members]
    count = used.sum(axis=1)
    weight = (used / count[:, None]).astype(np.float32)
    leader = members[np.arange(len(members)), np.argmax(used, axis=1)]
    turned = fields["quats"][members]
    along = np.sign(np.einsum("kmi,ki->km", turned, fields["quats"][leader]))
    fields["quats"][members] = turned * np.where(along == 0, 1, along)[..., None].astype(np.float32)
    fields["scales"] = np.log(np.maximum(fields["scales"], 1e-30))
    for values in fields.values():
        values[members[:, 0]] = np.einsum("km...,km->k...", values[members], weight)
    fields["scales"] = np.exp(fields["scales"])
    fields["scales"][members[:, 0], :2] *= np.sqrt(count)[:, None].astype(np.float32)
    active[members[:, 1:]] = False
    active[members[:, 0]] = True
