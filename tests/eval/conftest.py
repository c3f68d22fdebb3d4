"""A tiny model with random weights, as a file, and one small photograph-like image."""

import jax
import numpy as np
import pytest

from airjax.image.model import load
from airjax.image.patches import PatchMap
from airjax.image.presets import stages_to_text
from airjax.image.stages import StageConfig, init_params
from airjax.nn.air_stage import PredictorConfig
from airjax.photographs import read_image, write_image
from airjax.weights_file import save_weights

STAGES = tuple(StageConfig(PatchMap(8, offset=0.75, max_scale=4.2), PredictorConfig(8, 1, 1)) for _ in range(2))


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights file of two stages of 8 x 8 patches; a 32 x 48 image has 24 patches a stage."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), STAGES)
    save_weights(path, params, {"stages": stages_to_text(STAGES)})
    return path


@pytest.fixture(scope="session")
def model(weights):
    return load(weights)


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """A 48 x 32 PNG: smooth waves with a little noise, so that every patch asks for a Gaussian."""
    y, x = np.mgrid[0:32, 0:48]
    waves = [np.sin(x / 5) * np.cos(y / 7), np.sin((x + y) / 6), np.cos(x / 4 - y / 9)]
    noise = np.random.default_rng(0).normal(0, 0.02, (32, 48, 3))
    path = tmp_path_factory.mktemp("photo") / "waves.png"
    write_image(path, 0.5 + 0.35 * np.stack(waves, axis=-1) + noise)
    return path


@pytest.fixture(scope="session")
def image(photo):
    """Its pixels, (32, 48, 3) float32."""
    return read_image(photo).pixels
