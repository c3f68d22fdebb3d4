"""What rounding costs; oracles: the files themselves, and the same numbers without the module."""

import json

import numpy as np
import pytest

from airjax.errors import AirjaxError
from airjax.image.codec import air_file, compress
from eval.image.measures import decode_pixels, score
from eval.image.rounding import Rounding, measure, run
from eval.report import environment
from train.settings import settings_of


def test_one_file(model, image):
    """PSNR, size and count are those of the file that `compress` makes; nothing rounded comes closer to the image."""
    result = measure(model, image, 40.0, 5)
    quantised = compress.compress(model, image, compress.CompressOptions(40.0, effort=0))
    data = air_file.encode(quantised)
    assert result.psnr == score(image, decode_pixels(data)).psnr
    assert result.bpp == 8 * len(data) / (32 * 48)
    assert result.num_gaussians == sum(quantised.stage_counts) <= result.unaware_gaussians
    assert result.bits_per_gaussian == 8 * len(data) / result.num_gaussians
    assert result.same_rows > result.psnr


def test_report_and_table(weights, photo, tmp_path, capsys):
    config = Rounding(name="r", description="d", images=str(photo), qualities=(20.0, 60.0))
    assert run(config, weights, tmp_path) == 0
    report = json.loads((tmp_path / "rounding.json").read_text())
    assert len(report["means"]) == 2 and report["images"][photo.name][0] == report["means"][0]
    assert report["settings"] == settings_of(config) and report["environments"] == [environment()]
    assert f"{report['means'][1]['psnr']:.2f}" in capsys.readouterr().out


def test_an_image_that_cannot_be_read_is_counted(weights, photo, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(photo.read_bytes())
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    config = Rounding(name="r", description="d", images=str(tmp_path / "in"), qualities=(20.0,))
    assert run(config, weights, tmp_path) == 1
    assert "b.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields", [{"qualities": ()}, {"qualities": (101.0,)}, {"qualities": (np.nan,)}, {"solve_steps": 0}, {"limit": 0}]
)
def test_bad_settings(fields):
    with pytest.raises(AirjaxError, match="expected"):
        Rounding(name="r", description="d", images="x", **fields)
