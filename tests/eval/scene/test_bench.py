"""The benchmark of the alpha renderer: what it draws is the scene, what it counts; times are not looked at."""

import json

import jax
import pytest

from airjax.errors import AirjaxError
from airjax.metrics import psnr
from airjax.scene.render import render
from eval.report import environment
from eval.scene.bench import SceneBenchmark, cell_gaussians, make_views, run
from train.settings import settings_of

pytestmark = pytest.mark.slow


def config_of(**fields):
    return SceneBenchmark("b", "d", **{"repetitions": 1, "machine_scale": 0.001, **fields})


def test_its_sets_look_like_the_scene():
    views = make_views(config_of(), 32)
    gaussians = jax.jit(cell_gaussians, static_argnums=1)(views, 1)
    assert len(gaussians.means) == 2 * 32 * 32
    drawn = render(gaussians, views.cameras[0], image_size=(32, 32)).image
    assert float(psnr(views.images[0], drawn)) > 20
    assert float(psnr(views.images[1], drawn)) < float(psnr(views.images[0], drawn)) - 3


def test_reports(tmp_path, capsys):
    assert run(config_of(sets=((16, 2),)), None, tmp_path) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["settings"] == settings_of(config_of(sets=((16, 2),))) and report["environments"] == [environment()]
    rows = report["rows"]
    names = ["forward, 16x16, 128 Gaussians", "forward + backward, 16x16, 128 Gaussians", "plain exp loop"]
    assert [row["what"] for row in rows] == names
    # Lists are made of chunks of 8 slots for 64 pixels.
    assert rows[0]["evaluations"] % 512 == 0 and rows[1]["evaluations"] == 2 * rows[0]["evaluations"]
    assert all(row["timing"]["median"] > 0 for row in rows)
    assert "forward + backward" in capsys.readouterr().out
    with pytest.raises(AirjaxError, match="--weights: not an option"):
        run(config_of(), tmp_path, tmp_path)


@pytest.mark.parametrize("fields", [{"sets": ((16, 3),)}, {"sets": ((16, 0),)}, {"repetitions": 0}])
def test_settings_that_make_no_sense(fields):
    with pytest.raises(AirjaxError, match="expected"):
        config_of(**fields)
