"""Thinning: one large Gaussian for several small ones where the picture is smooth, until there are few enough.

Letters: v views, r rows and c columns of Gaussians in each, m = v * r * c slots.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from airjax.gaussians import Gaussians3D

_STEP = 1.1  # a larger ratio of depths in a square is an edge
_EDGE = 1e6  # added to its cost: it is joined last


def thinned(gaussians: Gaussians3D, depths: Float[np.ndarray, "v r c"], *, most: int) -> Gaussians3D:
    """A set of at most `most` Gaussians, or one a view where that is more; numpy arrays.

    Squares of 2 x 2 whose colors differ least are joined first, those with an edge of depths last; where all of them
    are not enough, squares of 4 x 4, and so on. What they become covers the square as its members did: the mean of all
    that they are, larger across by the square root of their number.

    Args:
      gaussians: m slots, view by view, a grid of them in each, row by row; not all of them need be active. The third
        axis of a Gaussian is the one along its view.
      depths: of the slots, in their own views, world units.
    """
    names = ("means", "scales", "quats", "opacities", "harmonics", "active")
    fields = {name: np.array(getattr(gaussians, name)) for name in names}
    fields = {name: np.concatenate([values, values[:1]]) for name, values in fields.items()}  # and a slot beyond edges
    active, outside = fields.pop("active"), depths.size
    active[outside] = False
    fields["quats"] /= np.maximum(np.linalg.norm(fields["quats"], axis=1, keepdims=True), 1e-12)
    slots, places = np.arange(outside).reshape(depths.shape), np.append(depths.ravel(), 1.0)
    while (surplus := int(active.sum()) - most) > 0 and slots[0].size > 1:
        odd = len(slots[0]) % 2, len(slots[0, 0]) % 2
        slots = np.pad(slots, ((0, 0), (0, odd[0]), (0, odd[1])), constant_values=outside)
        members = _squares(slots).reshape(-1, 4)
        members = members[active[members].any(axis=1)]
        used = active[members]
        order = np.argsort(_cost(fields["harmonics"][members][:, :, 0], places[members], used), kind="stable")
        enough = np.searchsorted(np.cumsum(used.sum(axis=1)[order] - 1), surplus) + 1
        _join(fields, active, members[order[:enough]])
        slots = _squares(slots)[..., 0]
    kept = {name: values[:outside] for name, values in fields.items()}
    return replace(gaussians, active=active[:outside], **kept)


def _squares(grid: np.ndarray) -> np.ndarray:
    """(v, r / 2, c / 2, 4) of (v, r, c)."""
    views, rows, columns = grid.shape
    return grid.reshape(views, rows // 2, 2, columns // 2, 2).swapaxes(2, 3).reshape(views, rows // 2, columns // 2, 4)


def _cost(colors: np.ndarray, depths: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(k,) squared differences from the mean color of the used members of squares (k, 4), and more at an edge."""
    weight = (used / used.sum(axis=1, keepdims=True))[..., None]
    mean = (weight * colors).sum(axis=1, keepdims=True)
    spread = (used[..., None] * np.square(colors - mean)).sum(axis=(1, 2))
    nearest = np.where(used, depths, np.inf).min(axis=1)
    return spread + _EDGE * (np.where(used, depths, 0.0).max(axis=1) > _STEP * nearest)


def _join(fields: dict[str, np.ndarray], active: np.ndarray, members: np.ndarray) -> None:
    """Squares (k, 4) of slots become their first slot, which is one of the set."""
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
