"""Estimators in 3D beside the exact gradient: their report. The gradients themselves are tested in test_metagrad."""

import json

import jax
import numpy as np
import pytest
from tiny import random_weights

from airjax.errors import AirjaxError
from airjax.scene.predictor import PredictorConfig, config_to_text
from airjax.weights_file import save_weights
from eval.scene_estimators import SceneEstimators, run

CONFIG = PredictorConfig(planes=4, matching=16, widths=(16, 16, 16, 16))


def config_of(**fields):
    settings = {"estimators": ("zero_step",), "horizons": (1,), "draws": 2, "num_scenes": 2, **fields}
    return SceneEstimators("e", "d", image_size=(16, 16), photographs=None, **settings)


def test_reports(tmp_path, capsys):
    """The exact gradient agrees with itself in every group, and that at the start with it after one small step."""
    save_weights(tmp_path / "w.safetensors", random_weights(CONFIG), {"predictor": config_to_text(CONFIG)})
    with jax.numpy_dtype_promotion("standard"):
        assert run(config_of(), tmp_path / "w.safetensors", tmp_path) == 0
    report = json.loads((tmp_path / "estimators.json").read_text())
    groups = report["groups"]["unrolled"][0]
    assert set(groups) == {"means", "log_scales", "quats", "logits", "base"}  # "rest" has no element
    np.testing.assert_allclose(list(groups.values()), 1, rtol=1e-6)
    assert report["means"]["zero_step"][0]["cosine"] > 0.5 and len(report["images"]) == 2
    said = capsys.readouterr().out
    assert "zero_step" in said and "logits" in said


@pytest.mark.parametrize("fields", [{"estimators": ("none",)}, {"horizons": (5, 5)}, {"draws": 1}, {"num_scenes": 0}])
def test_bad_settings(fields):
    with pytest.raises(AirjaxError, match="expected"):
        config_of(**fields)
