"""The predictor of before, one sweep over the planes, which reads the weights that ship; letters as in `predictor`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.nn.plane_sweep import PlaneSweepConfig, plane_sweep_networks
from airjax.scene.cameras import Camera
from airjax.scene.placing import ROWS, inverse_depths
from airjax.scene.sweep import PATCH_SCALES, match_planes, normalize, patch_features
from airjax.scene.windows import window_mass


@dataclass(frozen=True)
class SingleSweepConfig:
    """A scene predictor; planes, matching and widths as in `airjax.nn.plane_sweep.PlaneSweepConfig`."""

    planes: int = 32
    matching: int = 48
    groups: int = 2  # parts of the matching features that are compared apart
    widths: tuple[int, int, int, int] = (64, 96, 128, 128)
    grid: int = 1  # Gaussians along each side of a cell: 1 for one in its middle, 2 for one on each pixel

    @property
    def networks(self) -> PlaneSweepConfig:
        """Network sizes."""
        comparisons = self.groups + PATCH_SCALES
        return PlaneSweepConfig(self.planes, self.matching, comparisons, self.widths, ROWS * self.grid**2)


def init_params(key: jax.Array, config: SingleSweepConfig) -> Any:
    """Fresh weights."""
    return plane_sweep_networks(config.networks).init(key)


def sweep(
    params: Any,
    images: Float[Array, "u h w 3"],
    cameras: Camera,
    near: Float[Array, " v"],
    far: Float[Array, " v"],
    sets: Array,
    *,
    config: SingleSweepConfig,
    image_size: tuple[int, int],
) -> tuple[Array, Array, Array]:
    """(numbers of the planes (v, a, b), outputs (v, a, b, k), confidence (v, a, b)) of padded images."""
    networks = plane_sweep_networks(config.networks)
    features = networks.features(params, images)
    inverse = jax.vmap(partial(inverse_depths, planes=config.planes))(near, far)
    compared = [
        (normalize(part, groups=groups), groups)
        for part, groups in ((features, config.groups), (patch_features(images), PATCH_SCALES))
    ]

    def match(view):
        views, inverse = view
        agreements = [
            match_planes(part, cameras, views[0], views[1:], inverse, groups=groups, image_size=image_size)
            for part, groups in compared
        ]
        return jnp.concatenate(agreements, axis=-1)

    matches = jax.lax.map(match, (sets, inverse), batch_size=2)
    scores, outputs = networks.decode(params, images[sets[:, 0]], matches, features[sets[:, 0]])
    plane = jnp.dot(jax.nn.softmax(scores, axis=-1), jnp.arange(config.planes, dtype=scores.dtype), precision="highest")
    return plane, outputs, window_mass(scores)[1]
