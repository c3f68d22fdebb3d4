"""The study of estimators: its reports, in images and in scenes. The comparison itself is tested in tests/inner."""

import json

import jax
import numpy as np
import pytest
from tiny import random_weights

from airjax.errors import AirjaxError
from airjax.scene.predictor import PredictorConfig, config_to_text
from airjax.scene.task import RATES
from airjax.weights_file import save_weights
from eval.estimators import Estimators, run
from eval.image.subjects import Images
from eval.scene.subjects import ProceduralScenes

pytestmark = pytest.mark.slow

CONFIG = PredictorConfig(planes=4, matching=16, widths=(16, 16, 16, 16))


def config_of(subjects, **fields) -> Estimators:
    return Estimators("e", "d", subjects, **{"estimators": ("zero_step",), "horizons": (1,), "draws": 2, **fields})


def by_name(path) -> dict:
    return {record["name"]: record for record in json.loads((path / "estimators.json").read_text())["records"]}


def test_reports_of_images(weights, photo, tmp_path, capsys):
    """The exact gradient agrees with itself; what is random has a variance."""
    assert run(config_of(Images(str(photo), crop=16), estimators=("zero_step", "es")), weights, tmp_path) == 0
    records = by_name(tmp_path)
    exact = records["unrolled"]["mean"]
    np.testing.assert_allclose([exact["cosine"], *records["unrolled"]["group_means"].values()], 1, rtol=1e-6)
    assert exact["variance"] == 0 and exact["milliseconds"] > 0 and records["unrolled"]["megabytes"] > 0
    assert records["es"]["mean"]["variance"] > 0 and abs(records["es"]["mean"]["cosine"]) < 1
    assert records["zero_step"]["mean"]["cosine"] > 0.5 and records["es"]["error_over_cases"]["cosine"] is None
    report = json.loads((tmp_path / "estimators.json").read_text())
    assert report["settings"]["draws"] == 2 and report["settings"]["subjects"]["crop"] == 16
    assert report["cases"] == ["waves.png"] and report["weights"].startswith("tiny.safetensors")
    assert (tmp_path / "estimators.png").read_bytes().startswith(b"\x89PNG")
    assert "zero_step" in capsys.readouterr().out


def test_reports_of_scenes(tmp_path, capsys):
    save_weights(tmp_path / "w.safetensors", random_weights(CONFIG), {"predictor": config_to_text(CONFIG)})
    scenes = ProceduralScenes(made_up=10, num_scenes=2, image_size=(16, 16))
    with jax.numpy_dtype_promotion("standard"):
        assert run(config_of(scenes, rates=RATES), tmp_path / "w.safetensors", tmp_path) == 0
    records = by_name(tmp_path)
    groups = records["unrolled"]["group_means"]
    assert set(groups) == {"means", "log_scales", "quats", "logits", "base"}  # "rest" has no element
    np.testing.assert_allclose(list(groups.values()), 1, rtol=1e-6)
    zero_step = records["zero_step"]
    assert zero_step["mean"]["cosine"] > 0.5 and len(zero_step["cosine"]) == 2
    assert zero_step["error_over_cases"]["cosine"] == pytest.approx(abs(np.diff(zero_step["cosine"])[0]) / 2)
    said = capsys.readouterr().out
    assert "zero_step" in said and "logits" in said


def test_no_image_can_be_read(weights, tmp_path, capsys):
    (tmp_path / "b.png").write_bytes(b"not a picture")
    with pytest.raises(AirjaxError, match="can be read"):
        run(config_of(Images(str(tmp_path))), weights, tmp_path / "out")
    assert "b.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields",
    [{"estimators": ("none",)}, {"horizons": ()}, {"horizons": (5, 5)}, {"horizons": (0, 5)}, {"draws": 1}],
)
def test_bad_settings(fields):
    with pytest.raises(AirjaxError, match="expected"):
        config_of(Images("x"), **fields)
