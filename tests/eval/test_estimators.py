"""The study of estimators: its reports, in images and in scenes. The comparison itself is tested in tests/inner."""

import json

import numpy as np
import pytest

from airjax.errors import AirjaxError
from airjax.scene.predictor import PredictorConfig
from eval.estimators import Estimators, run
from eval.image.subjects import Images

pytestmark = pytest.mark.slow

CONFIG = PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16))


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
