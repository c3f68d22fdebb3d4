"""Posed views to 3D Gaussians in one pass: a plane sweep finds the depth of every cell, its Gaussians are drawn there.

Letters: u views, v of them with Gaussians, h, w pixels, d planes, a, b rows and columns of cells (2 x 2 pixels), g
Gaussians of a cell.

The planes of a view are evenly spaced in inverse depth from 1 / far to 1 / near, so that nothing depends on the unit
of the world. A network compares the other views on each plane, and predicts the depth of a cell as a mean over the
planes. Its Gaussians start as flat discs that face the camera, in the colours of the pixels that they cover.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D
from airjax.nn.plane_sweep import CELL, MULTIPLE, PlaneSweepConfig, plane_sweep_networks
from airjax.raster.tiles import patch_centers
from airjax.scene.cameras import Camera, unproject
from airjax.scene.harmonics import from_rgb
from airjax.scene.quaternions import from_rotation, multiply
from airjax.scene.sweep import PATCH_SCALES, match_planes, normalize, patch_features

ROWS = 13  # numbers of a Gaussian, see `_place`


@dataclass(frozen=True)
class PredictorConfig:
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


class Prediction(NamedTuple):
    """What a predictor makes of views."""

    gaussians: Gaussians3D  # v * a * b * g slots, view by view; those of padded cells are inactive
    pixels: Float[Array, "n 2"]  # of its view, where each Gaussian was seen: what it shows, offset or not
    depths: Float[Array, "v a b"]  # z of every cell


# Standard deviations of a disc in distances between Gaussians: across, across, and along the view. Never all equal:
# a quaternion has no gradient then.
_DISC = (0.6, 0.5, 0.15)


def config_to_text(config: PredictorConfig) -> str:
    """JSON of a configuration, as weights files hold it."""
    return json.dumps(asdict(config))


def config_from_text(text: str, *, source: str) -> PredictorConfig:
    """Inverse of `config_to_text`; `source` names the file in the AirjaxError for anything else."""
    try:
        fields = json.loads(text)
        return PredictorConfig(**{**fields, "widths": tuple(fields["widths"])})
    except (ValueError, TypeError, KeyError) as error:
        raise AirjaxError(f"{source}: expected a scene predictor's configuration, got {text[:80]!r}") from error


def init_params(key: jax.Array, config: PredictorConfig) -> Any:
    """Fresh weights."""
    return plane_sweep_networks(config.networks).init(key)


def predict(
    params: Any,
    images: Float[Array, "u h w 3"],
    cameras: Camera,
    near: Float[Array, "*u"],
    far: Float[Array, "*u"],
    *,
    config: PredictorConfig,
    sets: Int[np.ndarray, "v k"] | None = None,
) -> Prediction:
    """Gaussians of a scene from two views or more.

    Args:
      images: in [0, 1], of any size.
      near, far: depths that the views hold, world units, 0 < near < far; numbers for all views, or arrays (u,).
      config: static.
      sets: a row for each view that gets Gaussians: its number, and the numbers of the views that it is compared with.
        None for all views, each compared with all others.
    """
    views, height, width, _ = images.shape
    if views < 2:
        raise ValueError(f"images: expected at least 2 views, got {views}")
    if sets is None:
        sets = np.array([[i, *(j for j in range(views) if j != i)] for i in range(views)])
    padding = [(0, -side % MULTIPLE) for side in (height, width)]
    images = jnp.pad(images, [(0, 0), *padding, (0, 0)], mode="edge")
    networks = plane_sweep_networks(config.networks)
    features = networks.features(params, images)
    near, far = (jnp.broadcast_to(bound, (views,))[sets[:, 0]] for bound in (near, far))
    inverse = jax.vmap(partial(_inverse_depths, planes=config.planes))(near, far)
    compared = [
        (normalize(part, groups=groups), groups)
        for part, groups in ((features, config.groups), (patch_features(images), PATCH_SCALES))
    ]

    def match(view):
        views, inverse = view
        agreements = [
            match_planes(part, cameras, views[0], views[1:], inverse, groups=groups, image_size=(height, width))
            for part, groups in compared
        ]
        return jnp.concatenate(agreements, axis=-1)

    matches = jax.lax.map(match, (jnp.asarray(sets), inverse), batch_size=2)
    images, cameras, features = jax.tree.map(lambda leaf: leaf[sets[:, 0]], (images, cameras, features))
    scores, outputs = networks.decode(params, images, matches, features)
    plane = jnp.dot(jax.nn.softmax(scores, axis=-1), jnp.arange(config.planes, dtype=scores.dtype), precision="highest")
    place = partial(_place, config=config, image_size=(height, width))
    parts = jax.vmap(place)(outputs, plane, images, cameras, near, far)
    gaussians, pixels = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), parts)
    at = jax.vmap(partial(_inverse_depth_at, planes=config.planes))
    return Prediction(gaussians, pixels, 1.0 / at(plane, near, far))


def _inverse_depths(near: Float[Array, ""], far: Float[Array, ""], planes: int) -> Float[Array, " d"]:
    return _inverse_depth_at(jnp.arange(planes, dtype=jnp.float32), near, far, planes)


def _inverse_depth_at(
    plane: Float[Array, "*n"], near: Float[Array, ""], far: Float[Array, ""], planes: int
) -> Float[Array, "*n"]:
    """Inverse depth of a plane number, whole or not."""
    return 1.0 / far + plane / (planes - 1) * (1.0 / near - 1.0 / far)


def _place(
    outputs: Float[Array, "a b k"],
    plane: Float[Array, "a b"],
    image: Float[Array, "h w 3"],
    camera: Camera,
    near: Float[Array, ""],
    far: Float[Array, ""],
    *,
    config: PredictorConfig,
    image_size: tuple[int, int],
) -> tuple[Gaussians3D, Float[Array, "n 2"]]:
    """The Gaussians of one view, row by row, and the pixels that they show.

    A Gaussian belongs to a square of s x s pixels around c, at a depth of about that of the plane number d:

      pixel = c + s tanh(offset)
      depth = depth of plane d + 2 tanh(depth), from half a plane beyond `far` to one before `near`
      scales = depth / focal length * s * _DISC * exp(3 tanh(log scales / 3)), by at most e^3 larger or smaller
      rotation = unit(1, quaternion), from the camera's axes
      opacity = sigmoid(logit + 1)
      colour = mean of the square + colour / 2
    """
    rows, columns, _ = outputs.shape
    grid, spacing = config.grid, CELL // config.grid
    size = rows * grid, columns * grid
    k = outputs.reshape(rows, columns, grid, grid, ROWS).transpose(0, 2, 1, 3, 4).reshape(-1, ROWS)
    offset, depth, log_scale, quat, logit, color = jnp.split(k, (2, 3, 6, 9, 10), axis=-1)  # any real numbers
    pixels = patch_centers(size, spacing)
    active = (pixels[:, 0] < image_size[1]) & (pixels[:, 1] < image_size[0])
    colors = image.reshape(size[0], spacing, size[1], spacing, 3).mean(axis=(1, 3)).reshape(-1, 3)
    plane = jnp.repeat(jnp.repeat(plane, grid, axis=0), grid, axis=1).ravel()
    plane = jnp.clip(plane + 2 * jnp.tanh(depth[:, 0]), -0.5, config.planes)
    depths = 1.0 / _inverse_depth_at(plane, near, far, config.planes)
    means = unproject(camera, pixels + spacing * jnp.tanh(offset), depths)
    focal = 0.5 * (camera.intrinsics[0, 0] + camera.intrinsics[1, 1])
    disc = jnp.array(_DISC) * spacing
    scales = (depths / focal)[:, None] * disc[None] * jnp.exp(3 * jnp.tanh(log_scale / 3))
    quats = jnp.concatenate([jnp.ones_like(quat[:, :1]), quat], axis=-1)
    quats = quats / jnp.linalg.norm(quats, axis=-1, keepdims=True)
    to_world = jnp.broadcast_to(from_rotation(camera.rotation.T)[None], quats.shape)
    harmonics = from_rgb(colors + 0.5 * color)[:, None]
    opacities = jax.nn.sigmoid(logit[:, 0] + 1)
    return Gaussians3D(means, scales, multiply(to_world, quats), opacities, harmonics, active), pixels
