"""`Model`: trained weights of a scene predictor with their configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from airjax.checkpoint import load_weights, weights_hash
from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D
from airjax.refine import rates_from_text
from airjax.scene.cameras import Camera
from airjax.scene.predictor import PredictorConfig, config_from_text, init_params, predict
from airjax.scene.refinement import RATES, Coordinates

DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "foresplat.safetensors"


@dataclass(frozen=True)
class Model:
    """Weights of a scene predictor.

    Fields:
      config: of the predictor.
      params: of its networks.
      name: file name and the first digits of the SHA-256 of the weights.
      rates: learning rates of a refinement of its predictions, learned with the weights if they were.
    """

    config: PredictorConfig
    params: Any
    name: str
    rates: Coordinates = RATES

    def predict(
        self,
        images: Float[np.ndarray, "u h w 3"],
        cameras: Camera,
        near: float,
        far: float,
        *,
        sets: Int[np.ndarray, "v k"] | None = None,
    ) -> Gaussians3D:
        """Gaussians of a scene from two views or more; numpy arrays, all of them active.

        Args:
          images, cameras, near, far, sets: see `airjax.scene.predictor.predict`.

        Raises:
          ValueError: as there.
        """
        used = np.arange(len(images)) if sets is None else np.unique(sets)
        rows = None if sets is None else tuple(map(tuple, np.searchsorted(used, sets).tolist()))  # static
        images, cameras = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[used]), (images, cameras))
        bounds = jnp.float32(near), jnp.float32(far)
        gaussians = _predict(self.params, images, cameras, *bounds, config=self.config, rows=rows)
        gaussians = jax.tree.map(np.asarray, gaussians)
        return jax.tree.map(lambda leaf: leaf[gaussians.active], gaussians)


@partial(jax.jit, static_argnames=("config", "rows"))
def _predict(params, images, cameras, near, far, *, config, rows):
    sets = None if rows is None else np.array(rows)
    return predict(params, images, cameras, near, far, config=config, sets=sets).gaussians


def load(path: str | os.PathLike | None = None) -> Model:
    """The shipped model, or the one in a weights file (safetensors) written by `train`.

    Raises:
      AirjaxError: not a weights file, not of a scene predictor, or weights that do not fit their configuration.
    """
    path = Path(DEFAULT_WEIGHTS if path is None else path)
    params, metadata = load_weights(path)
    if "predictor" not in metadata:
        raise AirjaxError(f"{path}: expected weights of a scene predictor (metadata 'predictor'), found none")
    config = config_from_text(metadata["predictor"], source=str(path))
    expected = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    if jax.tree.map(np.shape, params) != jax.tree.map(lambda leaf: leaf.shape, expected):
        raise AirjaxError(f"{path}: expected weights that fit their configuration, got others")
    rates = metadata.get("rates")
    rates = RATES if rates is None else rates_from_text(rates, kind=Coordinates, source=str(path))
    return Model(config, params, f"{path.name} {weights_hash(path)[:8]}", rates)
