"""`airjax convert` of Pi3X, on a small one under the official names."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from airjax.convert import pi3
from airjax.convert.convert import convert
from airjax.errors import AirjaxError
from airjax.nn.pi3 import init_params
from airjax.scene.unposed import METADATA, system_from_text
from airjax.weights_file import load_weights
from tests.helpers import parity
from tests.nn.test_pi3 import SMALL

PRIORS = {"depth_encoder.cls_token": (1, 1, 64), "depth_emb": (1, 1, 64), "ray_embed.proj.bias": (64,)}


@pytest.fixture
def tensors(monkeypatch):
    monkeypatch.setattr(pi3, "pi3x", lambda: SMALL)
    constants = {"image_mean": (1, 3, 1, 1), "image_std": (1, 3, 1, 1)}
    return parity.load("pi3")[0] | {name: np.zeros(shape, np.float32) for name, shape in (constants | PRIORS).items()}


def test_a_converted_file_builds_its_network(tensors, tmp_path):
    save_file(tensors, tmp_path / "theirs.safetensors")
    done = convert(tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors")
    params, metadata = load_weights(tmp_path / "ours.safetensors")
    assert done.system.name == metadata["system"] == "pi3x" and metadata["licence"].startswith("CC BY-NC 4.0")
    config = system_from_text(metadata[METADATA], source="x").config.backbone
    assert jax.tree.map(np.shape, params) == jax.tree.map(
        np.shape, jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    )
    fc1 = params["decoder"]["pairs1"]["global_"]["mlp"]["fc1"]["kernel"][0]
    np.testing.assert_array_equal(fc1, tensors["decoder.3.mlp.fc1.weight"].T)


def test_a_missing_and_an_unknown_tensor_are_named(tensors, tmp_path):
    for change, words in (
        ({"decoder.4.norm1.weight": np.zeros(64, np.float32)}, "1 are not known: decoder.4"),
        ({}, ""),
    ):
        changed = tensors | change
        if not change:
            del changed["point_head.output_block.1.2.bias"]
            words = "1 are missing: point_head.output_block.1.2.bias"
        save_file(changed, tmp_path / "theirs.safetensors")
        with pytest.raises(AirjaxError, match=words):
            convert(tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors")
