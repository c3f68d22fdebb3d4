"""A model of two small stages with a quantiser, and a picture for it: what tests of compression share."""

import jax
import numpy as np

from airjax.image.codec.quantise import NUM_CODES
from airjax.image.model import Model
from airjax.image.patches import PatchMap
from airjax.image.stages import StageConfig, init_params
from airjax.nn.air_stage import PredictorConfig

STAGES = tuple(
    StageConfig(
        PatchMap(8 * k, offset=0.75, min_scale=0.5 * k, max_scale=4.2 * k),
        PredictorConfig(features=8, blocks=1, expansion=2, reduction=k, votes=NUM_CODES),
    )
    for k in (2, 1)
)


def tiny_model() -> Model:
    """Fresh weights."""
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), STAGES)
    return Model(STAGES, params, "tiny")


def picture(size=(24, 40), seed=0) -> np.ndarray:
    """Smooth waves with a little noise."""
    y, x = np.mgrid[: size[0], : size[1]] / 9
    waves = np.stack([np.sin(x) * np.cos(y), np.sin(x + y), np.cos(x - 2 * y)], axis=-1)
    noise = np.random.default_rng(seed).normal(0, 0.02, waves.shape)
    return np.clip(0.5 + 0.35 * waves + noise, 0, 1).astype(np.float32)
