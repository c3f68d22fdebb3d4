"""`Model`: trained weights of a scene predictor with their configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from airjax.arrays import AnyArray
from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D, only_active
from airjax.inner.optimizers import rates_from_text
from airjax.programs import kept
from airjax.scene.cameras import Camera
from airjax.scene.fusion import consistent, fused, per_cell
from airjax.scene.predictor import PredictorConfig, config_from_text, init_params, predict
from airjax.scene.single_sweep import SingleSweepConfig
from airjax.scene.task import RATES, Coordinates
from airjax.scene.thinning import thinned
from airjax.weights_file import load_weights, weights_hash

DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "foresplat.safetensors"

_MANY = 4  # views from which on what they repeat becomes one; of fewer the layers count, as in training


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A scene predictor with its weights."""

    config: PredictorConfig | SingleSweepConfig  # of the predictor
    params: Any  # weights of its networks
    name: str  # file name and the first digits of the SHA-256 of the weights
    rates: Coordinates = RATES  # learning rates for refining its predictions; those of the weights file, if it has any

    def __repr__(self) -> str:
        weights = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        return f"Model({self.name}, {self.config.planes} planes, {weights:,} weights)"

    def predict(
        self,
        images: Float[AnyArray, "u h w 3"],
        cameras: Camera,
        near: Float[AnyArray, "*u"] | float,
        far: Float[AnyArray, "*u"] | float,
        *,
        sets: Int[np.ndarray, "v k"] | None = None,
        empty: Bool[np.ndarray, "u h w"] | None = None,
        masks: Bool[np.ndarray, "u h w"] | None = None,
        most: int | None = None,
    ) -> Gaussians3D:
        """Gaussians of a scene from two views or more; numpy arrays, all of them active.

        Gaussians that other views contradict are left out, and of four views or more those that they repeat
        (`airjax.scene.fusion`). The arguments are those of `airjax.scene.predictor.predict`; `empty` are pixels of the
        background alone, None where that is not known, and `masks` those that say something of the scene, None for all.
        Where there are more than `most`, several in smooth parts become one (`airjax.scene.thinning`).
        """
        empty = np.zeros(np.shape(images)[:3], bool) if empty is None else empty
        masks = np.ones(np.shape(images)[:3], bool) if masks is None else masks
        used = np.arange(len(images)) if sets is None else np.unique(sets)
        rows = None if sets is None else tuple(map(tuple, np.searchsorted(used, sets).tolist()))  # static
        views = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[used]), (images, cameras, empty, masks))
        near, far = (jnp.asarray(np.broadcast_to(np.float32(bound), len(images))[used]) for bound in (near, far))
        gaussians, depths = _predict(self.params, *views, near, far, config=self.config, rows=rows)
        if most is not None:
            gaussians = thinned(gaussians, np.asarray(depths), most=most)
        return only_active(gaussians)


@kept(static_argnames=("config", "rows"))
def _predict(
    params, images, cameras, empty, masks, near, far, *, config, rows
) -> tuple[Gaussians3D, Float[Array, "v r c"]]:
    """Gaussians, and the depth of each in its own view."""
    sets = None if rows is None else np.array(rows)
    prediction = predict(params, images, cameras, near, far, config=config, sets=sets)
    gaussians = prediction.gaussians
    if sets is not None:
        cameras, empty, masks = jax.tree.map(lambda leaf: leaf[sets[:, 0]], (cameras, empty, masks))
    agreed = consistent(gaussians.means, prediction.pixels, prediction.depths, cameras, empty=empty, masks=masks)
    gaussians = replace(gaussians, active=gaussians.active & agreed)
    if len(prediction.depths) >= _MANY:
        gaussians = fused(gaussians, prediction.depths, cameras, image_size=images.shape[1:3])
    grid = per_cell(gaussians, prediction.depths)
    depths = jnp.repeat(jnp.repeat(prediction.depths, grid, axis=1), grid, axis=2)
    return gaussians, depths


def load(path: str | os.PathLike | None = None) -> Model:
    """The shipped model, or the one in a weights file (safetensors) written by `train`."""
    path = Path(DEFAULT_WEIGHTS if path is None else path)
    params, metadata = load_weights(path)
    if "predictor" not in metadata:
        raise AirjaxError(f"{path}: expected weights of a scene predictor (metadata 'predictor'), found none")
    config = config_from_text(metadata["predictor"], source=str(path))
    expected = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    if jax.tree.map(np.shape, params) != jax.tree.map(lambda leaf: leaf.shape, expected):
        raise AirjaxError(f"{path}: expected weights that fit their configuration, got other shapes")
    text = metadata.get("rates")
    rates = RATES if text is None else rates_from_text(text, kind=Coordinates, source=str(path))
    return Model(config, params, f"{path.name} {weights_hash(path)[:8]}", rates)
