"""Small things for the tests of the scene wing, drawn by numpy: nothing has to be compiled for them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from airjax.scene.predictor import PredictorConfig, init_params


def random_weights(config: PredictorConfig, seed: int = 0):
    """Weights of a scene predictor."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32), shapes)


def noise_atlas(count: int = 16, seed: int = 0) -> jax.Array:
    """(count, 64, 64, 3) textures in [0, 1]: coloured squares of several sizes, added."""
    rng = np.random.default_rng(seed)
    total = np.full((count, 64, 64, 3), 0.5, np.float32)
    for i, cells in enumerate((2, 4, 8, 16, 32)):
        noise = rng.uniform(-1, 1, (count, cells, cells, 3)).repeat(64 // cells, axis=1).repeat(64 // cells, axis=2)
        total += 0.35 * 0.75**i * noise.astype(np.float32)
    return jnp.asarray(np.clip(total, 0, 1))
