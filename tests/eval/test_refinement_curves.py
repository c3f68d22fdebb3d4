"""Refinement curves; oracles: the library's own refinement, hand-made curves, an interrupted run."""

import json

import numpy as np
import pytest

from airjax.errors import AirjaxError
from airjax.image.task import Coordinates, refine_gaussians
from airjax.raster.draw import render
from eval import refinement
from eval.image.measures import score
from eval.main import main
from eval.refinement import Refinement, Start, measure, middle, run, summary, table

SHIPPED = (Start("shipped", ("",)),)
TWO = (Start("a", ("x", "y")), Start("b", ("x", "y")))


def config_of(photo, starts=SHIPPED, **fields):
    return Refinement("r", "d", str(photo), starts, **{"steps": (0, 5, 10), "compared": (0, 10), **fields})


def test_a_curve_is_what_the_library_does(model, image, photo):
    """Start and end of the curve are the prediction, and the same after as many steps of `refined`."""
    config = config_of(photo, max_gaussians=28_000)
    curve = measure(model, image, config)
    predicted = model.encode(image, max_gaussians=round(28_000 * 32 * 48 / (768 * 512)), solve_steps=0).gaussians
    assert curve.num_gaussians == predicted.num_slots <= 110
    ends = (predicted, refine_gaussians(predicted, image, num_steps=10, rates=model.rates))
    for value, gaussians in zip((curve.psnr[0], curve.psnr[-1]), ends, strict=True):
        picture = np.asarray(render(gaussians, image_size=(32, 48)).image)
        np.testing.assert_allclose(value, score(image, picture).psnr, rtol=1e-4)


def test_means_differences_and_their_errors():
    """Two seeds, two images, three points, by hand."""
    config = Refinement("r", "d", "x", TWO, steps=(0, 10, 100), compared=(10,))
    curves = np.array(
        [
            [[[20, 30, 40], [22, 32, 42]], [[20, 30, 40], [22, 32, 42]]],
            [[[21, 32, 43], [23, 34, 45]], [[21, 31, 41], [23, 33, 43]]],
        ],
        float,
    )
    report = summary(config, curves)
    np.testing.assert_allclose(report["psnr"]["a"], [21, 31, 41])
    np.testing.assert_allclose(report["difference"]["b"], [1, 1.5, 2])
    # Standard error over two seeds: |difference of the two| / 2.
    np.testing.assert_allclose(report["difference_error"]["b"], [0, 0.5, 1])
    np.testing.assert_allclose(report["difference"]["a"], 0)
    # b goes from 32.5 dB at 10 steps to 43 at 100 and is at a's last 41 on the way; a itself at its last step.
    np.testing.assert_allclose(report["steps_to_reach"]["a"], 100)
    np.testing.assert_allclose(report["steps_to_reach"]["b"], 10 * 10 ** ((41 - 32.5) / (43 - 32.5)), rtol=1e-6)
    assert "+1.500 +- 0.500" in table(config, report)


def test_weights_that_never_get_there():
    config = Refinement("r", "d", "x", TWO, steps=(0, 10), compared=(10,))
    curves = np.zeros((2, 2, 1, 2))
    curves[0, ..., 1] = 5.0
    assert summary(config, curves)["steps_to_reach"]["b"] is None


def test_reports_and_an_interrupted_run(weights, photo, tmp_path, capsys, monkeypatch):
    """A second run measures nothing again, other settings do, and a cut-off note of a curve is measured again."""
    config = config_of(photo, starts=(Start("one", (str(weights),)), Start("two", (str(weights),))))
    assert run(config, None, tmp_path) == 0
    report = json.loads((tmp_path / "refinement.json").read_text())
    assert report["psnr"]["one"][2] > report["psnr"]["one"][0]
    assert report["psnr"]["one"] == report["psnr"]["two"] and report["difference"]["two"] == [0, 0, 0]
    assert (tmp_path / "refinement.png").read_bytes().startswith(b"\x89PNG")
    assert f"{report['psnr']['one'][2]:.2f}" in capsys.readouterr().out
    calls = []
    real = refinement.measure
    monkeypatch.setattr(refinement, "measure", lambda *args: calls.append(1) or real(*args))
    assert run(config, None, tmp_path) == 0 and not calls
    (kept,) = (tmp_path / "curves").iterdir()
    kept.write_text("{")
    assert run(config, None, tmp_path) == 0 and len(calls) == 1


def test_other_rates(weights, photo, tmp_path):
    """With rates of 0 nothing moves."""
    still = Start("still", (str(weights),), Coordinates(0.0, 0.0, 0.0, 0.0))
    assert run(config_of(photo, starts=(Start("one", (str(weights),)), still)), None, tmp_path) == 0
    report = json.loads((tmp_path / "refinement.json").read_text())
    assert len(set(report["psnr"]["still"])) == 1 and report["difference"]["still"][2] < 0
    assert report["rates"]["still"] == [{"means": 0, "log_scales": 0, "angles": 0, "colors": 0}]


def test_what_cannot_be_read(weights, photo, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(photo.read_bytes())
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    config = config_of(tmp_path / "in", starts=(Start("one", (str(weights),)),))
    assert run(config, None, tmp_path) == 1
    assert "b.png" in capsys.readouterr().err
    (tmp_path / "in" / "a.png").unlink()
    with pytest.raises(AirjaxError, match="can be read"):
        run(config, None, tmp_path)
    with pytest.raises(AirjaxError, match="--weights"):
        run(config, weights, tmp_path)
    with pytest.raises(AirjaxError, match="nowhere"):
        run(config_of("nowhere"), None, tmp_path)


def test_the_middle_of_an_image():
    image = np.arange(5 * 9).reshape(5, 9)
    np.testing.assert_array_equal(middle(image, 3), image[1:4, 3:6])
    assert middle(image, 7).shape == (5, 7) and middle(image, None) is image


def test_the_study_without_its_training_is_one_line(capsys, tmp_path, monkeypatch):
    path = refinement.Path(refinement.__file__).parent / "configs" / "metagrad_kodak.py"
    monkeypatch.chdir(tmp_path)
    assert main(["--config", str(path)]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "metagrad_zero_step_0" in errors


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": ()},
        {"steps": (5, 10)},
        {"steps": (0, 3)},
        {"compared": (0, 7)},
        {"starts": ()},
        {"starts": (Start("a", ("x",)), Start("b", ()))},
        {"max_gaussians": 0},
        {"crop": 8},
    ],
)
def test_bad_settings(fields):
    with pytest.raises(AirjaxError, match="expected"):
        config_of("x", **fields)
