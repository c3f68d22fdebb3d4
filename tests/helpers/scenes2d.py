"""Scenes for the tests of the renderers, placed by hand or at random, and their exact sum in numpy float64.

Letters: n Gaussians, c channels. Where a scene is random, its seed is fixed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from airjax.gaussians import CUTOFF, Gaussians2D
from airjax.image.patches import PatchMap, to_physical
from airjax.raster.tiles import patch_centers, patch_grid

FIELDS = ("means", "scales", "angles", "colors")  # what a gradient is taken by


def make(means, scales, angles, colors, active=None, dtype=np.float32) -> Gaussians2D:
    """A set from anything that numpy reads; all slots active unless told otherwise."""
    means = np.asarray(means, dtype).reshape(-1, 2)
    return Gaussians2D(
        jnp.asarray(means),
        jnp.asarray(np.broadcast_to(np.asarray(scales, dtype), means.shape)),
        jnp.asarray(np.broadcast_to(np.asarray(angles, dtype), means.shape[:1])),
        jnp.asarray(np.asarray(colors, dtype)),
        jnp.ones(len(means), bool) if active is None else jnp.asarray(active, bool),
    )


def empty(num_slots: int, channels: int = 3) -> Gaussians2D:
    """Inactive slots alone (unit scales, everything else zero)."""
    n = num_slots
    return make(np.zeros((n, 2)), np.ones((n, 2)), np.zeros(n), np.zeros((n, channels)), np.zeros(n))


def parameters(gaussians: Gaussians2D) -> dict:
    """The four fields that a gradient is taken by."""
    return {name: getattr(gaussians, name) for name in FIELDS}


def cast(gaussians: Gaussians2D, dtype) -> Gaussians2D:
    """The same set with other floats (float64 inside `jax.enable_x64(True)`)."""
    return make(*(np.asarray(x) for x in parameters(gaussians).values()), gaussians.active, dtype)


# --- the oracle ------------------------------------------------------------------------------------------


class Exact(NamedTuple):
    """The sum in float64.

    Fields:
      image: (h, w, c).
      slack: (h, w, 1) what float32 rounding may add or drop: a weight within 2e-5 of the cut-off, relatively, may
        fall on either side of it, and is worth CUTOFF times the colour. 0 at nearly all pixels.
    """

    image: np.ndarray
    slack: np.ndarray


def exact(gaussians: Gaussians2D | dict, *, image_size, smooth_cutoff: bool = False, active=None) -> Exact:
    """AIR section 3.1 written out, one Gaussian at a time, by rotation and division instead of the conic."""
    fields = gaussians if isinstance(gaussians, dict) else parameters(gaussians)
    active = np.asarray(gaussians.active if active is None else active)
    means, scales, angles, colors = (np.asarray(fields[name], np.float64) for name in FIELDS)
    y, x = np.mgrid[: image_size[0], : image_size[1]] + 0.5
    image, slack = np.zeros((*image_size, colors.shape[1])), np.zeros((*image_size, 1))
    for i in np.flatnonzero(active):
        dx, dy = x - means[i, 0], y - means[i, 1]
        along = (np.cos(angles[i]) * dx + np.sin(angles[i]) * dy) / scales[i, 0]
        across = (np.cos(angles[i]) * dy - np.sin(angles[i]) * dx) / scales[i, 1]
        weight = np.exp(-0.5 * (along**2 + across**2))
        if smooth_cutoff:
            t = np.clip(weight / CUTOFF - 1, 0, 1)
            weight = weight * (6 * t**5 - 15 * t**4 + 10 * t**3)
        else:
            near = np.abs(weight / CUTOFF - 1) < 2e-5
            slack += (near * CUTOFF * np.abs(colors[i]).max(initial=0))[..., None]
            weight = np.where(weight < CUTOFF, 0, weight)
        image += weight[..., None] * colors[i]
    return Exact(image, slack)


def assert_image(image, expected: Exact, tolerance: float = 2e-5) -> None:
    """Equal to the oracle everywhere, but for a few pixels on a cut-off ellipse, where one term is optional.

    The tolerance is that of the issue: float32 rounding of a sum of a few terms of size 1, times 20.
    """
    assert image.shape == expected.image.shape
    assert np.mean(expected.slack > 0) < 0.02, "a scene with so many pixels at the cut-off tests nothing"
    excess = np.abs(np.asarray(image, np.float64) - expected.image) - expected.slack
    assert excess.max(initial=0) <= tolerance, f"largest difference {excess.max()}"


def central_differences(fn, fields: dict, step: float = 1e-5) -> dict:
    """Gradient of fn(dict of float64 arrays) by every number.

    Truncation is step^2 times a third derivative (about 1e-10), rounding 1e-16 / step times the value (1e-11).
    """
    fields = {name: np.array(value, np.float64) for name, value in fields.items()}
    gradients = {}
    for name, value in fields.items():
        gradient = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * step
                ends.append(fn({**fields, name: moved}))
            gradient[index] = (ends[0] - ends[1]) / (2 * step)
        gradients[name] = gradient
    return gradients


# --- placed by hand --------------------------------------------------------------------------------------

HAND_SIZE = (12, 15)  # two by two tiles of 8 pixels, both edges cut


def hand_placed(dtype=np.float32) -> Gaussians2D:
    """For gradient checks: in one tile, across tiles, half outside, elongated, round; one inactive, of NaN."""
    nan = np.nan
    return make(
        means=[[3.3, 4.1], [8.2, 7.7], [14.6, 2.2], [6.0, 11.3], [10.4, 6.1], [nan, nan]],
        scales=[[0.9, 1.3], [2.4, 1.1], [1.5, 3.1], [0.7, 4.0], [1.0, 1.0], [nan, nan]],
        angles=[0.3, 1.1, -0.6, 2.8, 0.0, nan],
        colors=[[0.8, -0.2, 0.4], [-0.5, 0.9, 0.1], [0.3, 0.3, -0.7], [0.6, 0.2, 0.5], [-0.4, 0.1, 0.9], [nan] * 3],
        active=[True, True, True, True, True, False],
        dtype=dtype,
    )


# --- at random -------------------------------------------------------------------------------------------


def random_set(seed, n, image_size, *, scales=(0.5, 3.0), channels=3, margin=0.0, center=None, spread=None):
    """n Gaussians over the image and `margin` pixels around it, or in a cloud; log-uniform scales, signed colours."""
    rng = np.random.default_rng(seed)
    size = np.array(image_size[::-1])
    if center is None:
        means = rng.uniform(-margin, size + margin, (n, 2))
    else:
        means = np.asarray(center) + rng.uniform(-spread, spread, (n, 2))
    return make(
        means,
        np.exp(rng.uniform(*np.log(scales), (n, 2))),
        rng.uniform(-7, 7, n),
        rng.uniform(-1, 1, (n, channels)),
    )


SIZE = (33, 50)  # of the scenes below; no multiple of any tile size


def with_inactive(gaussians: Gaussians2D, value: float, seed: int = 0) -> tuple[Gaussians2D, np.ndarray]:
    """The set with inactive slots, which hold `value`, mixed in; and which slots are the old ones."""
    n = gaussians.num_slots
    extra = n // 2 + 4
    order = np.random.default_rng(seed).permutation(n + extra)
    fields = [
        np.concatenate([np.asarray(x), np.full((extra, *x.shape[1:]), value, np.float32)])[order]
        for x in parameters(gaussians).values()
    ]
    return make(*fields, active=order < n), order


def degenerate() -> Gaussians2D:
    """Scales of zero size against a pixel, needles along the axes, needles at an angle, coincident pairs."""
    return make(
        means=[[10.5, 8.5], [20.3, 9.1], [25.5, 16.5], [30.5, 20.2], [12.5, 25.1], [40.3, 12.2], [40.3, 12.2], [5, 5]],
        scales=[[1e-3, 1e-3], [1e-3, 1e-3], [9, 1e-3], [1e-2, 7], [8, 0.35], [2, 1], [2, 1], [1e-20, 1e-20]],
        angles=[0.4, 0.1, 0.0, 0.0, 0.7, 0.2, 0.2 + np.pi, 0.0],
        colors=np.random.default_rng(0).uniform(-1, 1, (8, 3)),
    )


SCENES = {
    "random": lambda: random_set(1, 150, SIZE, scales=(0.5, 3), margin=5),
    "elongated": lambda: random_set(2, 40, SIZE, scales=(0.4, 8), margin=5),
    "clustered": lambda: random_set(3, 2000, SIZE, scales=(0.5, 2), center=(12, 12), spread=4),
    "off_canvas": lambda: random_set(4, 60, SIZE, scales=(1, 4), center=(-9, 40), spread=8),
    "far_off_canvas": lambda: make([[1e9, 5], [-1e30, 3], [4, 1e7]], 2.0, 0.3, np.ones((3, 3))),
    "tiny": lambda: random_set(5, 200, SIZE, scales=(0.02, 0.3)),
    "huge": lambda: random_set(6, 8, SIZE, scales=(60, 3000), margin=200),
    "enormous": lambda: make([[3, 4], [1e6, 0]], [[1e9, 1e9], [1e8, 3e7]], 0.3, [[0.5, -0.5, 1], [1, 0, 0]]),
    "degenerate": degenerate,
    "inactive": lambda: with_inactive(random_set(7, 60, SIZE, scales=(0.5, 3)), np.nan)[0],
    "none_active": lambda: with_inactive(make(np.zeros((0, 2)), 1, 0, np.zeros((0, 3))), 1)[0],
    "empty": lambda: make(np.zeros((0, 2)), 1.0, 0.0, np.zeros((0, 3))),
}


def predicted(image_size, patch_map: PatchMap, *, seed=0, raw=None, spread=1.0, channels=3):
    """(Gaussians, grid) of raw rows as a network would give them; at the bounds of the map for raw = +-20."""
    grid = patch_grid(image_size, patch_map.patch_size)
    rng = np.random.default_rng(seed)
    n = grid[0] * grid[1]
    if raw is None:
        raw = rng.normal(0, spread, (n, 5 + channels))
    raw = jnp.asarray(np.asarray(raw, np.float32))
    active = jnp.asarray(rng.uniform(size=n) < 0.9)
    return to_physical(raw, patch_centers(grid, patch_map.patch_size), active, patch_map), grid


def to_raw(gaussians: Gaussians2D, centers, patch_map: PatchMap):
    """Inverse of `to_physical`, (n, 5 + c).

    Values on or outside a bound of the map go to the nearest representable point inside (relative margin 1e-6).
    """
    margin = 1e-6
    span = patch_map.max_scale - patch_map.min_scale

    def atanh(x):
        return jnp.arctanh(jnp.clip(x, -1 + margin, 1 - margin))

    def logit(x):
        x = jnp.clip(x, margin, 1 - margin)
        return jnp.log(x) - jnp.log1p(-x)

    return jnp.concatenate(
        [
            atanh((gaussians.means - centers) / (patch_map.offset * patch_map.patch_size)),
            logit((gaussians.scales - patch_map.min_scale) / span),
            logit(jnp.mod(gaussians.angles, 2 * np.pi) / (2 * np.pi))[:, None],
            atanh(gaussians.colors),
        ],
        axis=-1,
    )
