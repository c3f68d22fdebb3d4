"""Posed views to 3D Gaussians in one pass: two plane sweeps find the depths of cells, where Gaussians are drawn.

Letters: u views, v of them with Gaussians, h, w pixels, d planes, n cells, a, b rows and columns of cells (2 x 2
pixels), g Gaussians of a cell.

The planes of a view are evenly spaced in inverse depth from 1 / far to 1 / near, so that nothing depends on the unit
of the world. The first sweep compares cells of 4 x 4 pixels of the other views on each plane; the second one cells of
2 x 2 pixels, on a few planes of their own around the depth that the first found. On each plane the mean and the best
agreement over the views that see it count, so that any number of views may be compared. The depth of a cell is a mean
over the planes around the best one. Its Gaussians start as flat discs that face the camera, in the colours of the
pixels that they cover.
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
from airjax.nn.blocks import CELL, COARSE, MULTIPLE
from airjax.nn.coarse_to_fine import CoarseToFineConfig, coarse_to_fine_networks
from airjax.scene import single_sweep
from airjax.scene.cameras import Camera
from airjax.scene.placing import ROWS, inverse_depth_at, inverse_depths, place
from airjax.scene.single_sweep import SingleSweepConfig
from airjax.scene.sweep import PATCH_SCALES, compare_planes, normalize, patch_features, pool
from airjax.scene.windows import REACH, windowed

GRID = 2  # Gaussians along each side of a cell: one on each pixel


@dataclass(frozen=True)
class PredictorConfig:
    """A scene predictor; planes, matching, coarse and fine as in `airjax.nn.coarse_to_fine.CoarseToFineConfig`."""

    planes: tuple[int, int] = (48, 8)
    matching: int = 48
    groups: int = 2  # parts of the matching features that are compared apart
    coarse: tuple[int, ...] = (64, 96, 128)
    fine: tuple[int, ...] = (48, 64, 96)

    @property
    def networks(self) -> CoarseToFineConfig:
        """Network sizes."""
        agreements = 2 * (self.groups + PATCH_SCALES) + 1, 2 * PATCH_SCALES + 1
        return CoarseToFineConfig(self.planes, self.matching, agreements, self.coarse, self.fine, ROWS * GRID**2)


class Prediction(NamedTuple):
    """What a predictor makes of views."""

    gaussians: Gaussians3D  # v * a * b * g slots, view by view; those of padded cells are inactive
    pixels: Float[Array, "n 2"]  # of its view, where each Gaussian was seen: what it shows, offset or not
    depths: Float[Array, "v a b"]  # z of every cell
    confidence: Float[Array, "v a b"]  # probability that the depth is about right, in [0, 1]


class Scores(NamedTuple):
    """What both sweeps say of every cell; numbers of planes are those of the first sweep, from 0 at far."""

    coarse: Float[Array, "v a b d"]
    fine: Float[Array, "v a b e"]
    planes: Float[Array, "v a b e"]  # numbers of the planes of the second sweep


def config_to_text(config: PredictorConfig | SingleSweepConfig) -> str:
    """JSON of a configuration, as weights files hold it."""
    return json.dumps(asdict(config))


def config_from_text(text: str, *, source: str) -> PredictorConfig | SingleSweepConfig:
    """Inverse of `config_to_text`; `source` names the file in the AirjaxError for anything else."""
    try:
        fields = json.loads(text)
        kind: Any = SingleSweepConfig if "widths" in fields else PredictorConfig
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AirjaxError(f"{source}: expected a scene predictor's configuration, got {text[:80]!r}") from error


def init_params(key: jax.Array, config: PredictorConfig | SingleSweepConfig) -> Any:
    """Fresh weights."""
    if isinstance(config, SingleSweepConfig):
        return single_sweep.init_params(key, config)
    return coarse_to_fine_networks(config.networks).init(key)


def predict(
    params: Any,
    images: Float[Array, "u h w 3"],
    cameras: Camera,
    near: Float[Array, "*u"],
    far: Float[Array, "*u"],
    *,
    config: PredictorConfig | SingleSweepConfig,
    sets: Int[Array, "v k"] | np.ndarray | None = None,
) -> Prediction:
    """Gaussians of a scene from two views or more.

    Args:
      images: in [0, 1], of any size.
      near, far: depths that the views hold, world units, 0 < near < far; numbers for all views, or arrays (u,).
      config: static.
      sets: a row for each view that gets Gaussians: its number, and the numbers of the views that it is compared with;
        one that is named twice counts once. None for all views, each compared with all others.
    """
    return predict_scored(params, images, cameras, near, far, config=config, sets=sets)[0]


def predict_scored(
    params: Any,
    images: Float[Array, "u h w 3"],
    cameras: Camera,
    near: Float[Array, "*u"],
    far: Float[Array, "*u"],
    *,
    config: PredictorConfig | SingleSweepConfig,
    sets: Int[Array, "v k"] | np.ndarray | None = None,
) -> tuple[Prediction, Scores | None]:
    """`predict`, and what its sweeps say of the planes, for training; None of a single sweep."""
    views, height, width, _ = images.shape
    if views < 2:
        raise ValueError(f"images: expected at least 2 views, got {views}")
    if sets is None:
        sets = np.array([[i, *(j for j in range(views) if j != i)] for i in range(views)])
    sets = jnp.asarray(sets)
    padding = [(0, -side % MULTIPLE) for side in (height, width)]
    images = jnp.pad(images, [(0, 0), *padding, (0, 0)], mode="edge")
    near, far = (jnp.broadcast_to(bound, (views,))[sets[:, 0]] for bound in (near, far))
    inputs, size = (params, images, cameras, near, far, sets), (height, width)
    scores: Scores | None = None
    if isinstance(config, SingleSweepConfig):
        plane, outputs, confidence = single_sweep.sweep(*inputs, config=config, image_size=size)
        planes, grid = config.planes, config.grid
    else:
        plane, outputs, confidence, scores = _sweep_twice(*inputs, config=config, image_size=size)
        planes, grid = config.planes[0], GRID
    put = partial(place, planes=planes, grid=grid, image_size=size)
    parts = jax.vmap(put)(outputs, plane, images[sets[:, 0]], cameras[sets[:, 0]], near, far)
    gaussians, pixels = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), parts)
    depths = 1.0 / jax.vmap(partial(inverse_depth_at, planes=planes))(plane, near, far)
    return Prediction(gaussians, pixels, depths, confidence), scores


def _sweep_twice(params, images, cameras, near, far, sets, *, config: PredictorConfig, image_size):
    """Numbers of the planes (v, a, b), outputs (v, a, b, k), confidence (v, a, b) and scores of padded images."""
    networks = coarse_to_fine_networks(config.networks)
    features = networks.features(params, images)
    own = sets[:, 0]
    count, few = config.planes

    def match(cell, inverse, *learned):
        """Agreements (v, a, b, d, k) of cells on planes of `inverse` depths (v, n or 1, d)."""
        patches = patch_features(images, cell=cell)
        parts = *((part, config.groups) for part in learned), (patches, PATCH_SCALES)
        compared = [(normalize(part, groups=groups), groups) for part, groups in parts]

        def match_view(view):
            views, inverse = view
            found = [
                compare_planes(
                    part, cameras, views[0], views[1:], inverse, groups=groups, image_size=image_size, cell=cell
                )
                for part, groups in compared
            ]
            return pool(jnp.concatenate([products for products, _ in found], axis=-1), found[0][1], views[1:])

        agreements = jax.lax.map(match_view, (sets, inverse), batch_size=2)
        return agreements.reshape(len(sets), *patches.shape[1:3], *agreements.shape[2:])

    inverse = jax.vmap(partial(inverse_depths, planes=count))(near, far)
    agreements = match(COARSE, inverse[:, None], features.coarse)
    scores, hidden = networks.coarse(params, features.coarse[own], agreements)
    numbers = jnp.arange(count, dtype=scores.dtype)[None, None, None]
    plane, mass = windowed(scores, numbers)
    middle = jax.lax.stop_gradient(jnp.clip(plane, REACH, count - 1 - REACH))
    planes = middle[..., None] + jnp.linspace(-REACH, REACH, few)[None, None, None]
    inverse = jax.vmap(partial(inverse_depth_at, planes=count))(planes.reshape(len(sets), -1, few), near, far)
    known = jnp.stack([mass, middle / (count - 1)], axis=-1)
    agreements = match(CELL, inverse)
    finer, hidden = networks.fine(params, images[own], features.fine[own], hidden, known, agreements)
    plane, finer_mass = windowed(finer, planes)
    known = jnp.concatenate([jax.nn.softmax(finer, axis=-1), jnp.stack([mass, finer_mass], axis=-1)], axis=-1)
    outputs = networks.head(params, hidden, known)
    return plane, outputs, mass * finer_mass, Scores(scores, finer, planes)
