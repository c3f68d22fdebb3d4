"""Refinement curves of scenes; oracles: the library's own prediction and refinement, hand-made curves."""

import json

import numpy as np
import pytest
from tiny import random_weights

from airjax.errors import AirjaxError
from airjax.metrics import psnr, to_8bit
from airjax.scene.cameras import project_points
from airjax.scene.model import load
from airjax.scene.predictor import PredictorConfig, config_to_text
from airjax.scene.render import render
from airjax.scene.task import RATES, refine_gaussians
from airjax.weights_file import save_weights
from eval import scenes
from eval.scene.baseline import at_points, random_points
from eval.scenes import SCRATCH, Curve, SceneRefinement, SceneStart, measure, run, summary, table, tasks

CONFIG = PredictorConfig(planes=8, matching=16, widths=(16, 16, 16, 16))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, random_weights(CONFIG), {"predictor": config_to_text(CONFIG)})
    return path


def config_of(*starts, **fields):
    small = {"photographs": None, "num_scenes": 2, "image_size": (32, 32), "steps": (0, 10), "compared": (10,)}
    return SceneRefinement("s", "d", starts, **{**small, **fields})


@pytest.fixture(scope="module")
def task():
    return next(tasks(config_of(SceneStart("scratch", (SCRATCH,)))))


def test_a_curve_is_what_the_library_does(weights, task):
    model = load(weights)
    curve = measure(model, RATES, task, config_of(SceneStart("one", (str(weights),)), seconds=(0.001,)))
    start = model.predict(task.images, task.cameras, task.near, task.far)
    assert curve.num_gaussians == start.num_slots == 2 * 16 * 16
    options = {"unit": task.near, "background": np.zeros(3, np.float32)}
    for i, gaussians in enumerate((start, refine_gaussians(start, task.images, task.cameras, num_steps=10, **options))):
        views = [render(gaussians, task.judged_cameras[j], image_size=(32, 32)).image for j in range(2)]
        values = [psnr(image, to_8bit(view)) for image, view in zip(task.judged_images, views, strict=True)]
        assert curve.psnr[i] == pytest.approx(float(np.mean(values)), abs=1e-3)
    # One look after a millisecond: the prediction alone takes longer, and no step was taken.
    assert curve.psnr_by_seconds == (pytest.approx(curve.psnr[0], abs=1e-3),)


def test_test_scenes_are_always_the_same(task):
    again = next(tasks(config_of(SceneStart("x", (SCRATCH,)))))
    np.testing.assert_array_equal(task.images, again.images)
    np.testing.assert_array_equal(task.points, again.points)
    assert task.judged_images.shape == (2, 32, 32, 3) and not np.array_equal(task.images, task.judged_images)


def test_a_start_from_scratch(task):
    """Points lie on the pixels whose colour they have, between near and far; sizes by hand for a regular grid."""
    points, colors = random_points(np.random.default_rng(0), task.images, task.cameras, task.near, task.far, 50)
    seen = [project_points(task.cameras[i], points) for i in (0, 1)]
    pixels, depths = (np.stack(part) for part in zip(*seen, strict=True))
    on_pixel = np.abs(pixels % 1 - 0.5).max(axis=-1) < 1e-2
    assert np.all(on_pixel.any(axis=0))
    view = np.argmax(on_pixel, axis=0)
    cell = np.floor(pixels[view, np.arange(50)]).astype(int)
    np.testing.assert_array_equal(task.images[view, cell[:, 1], cell[:, 0]], colors)
    own = np.where(on_pixel, depths, np.nan)
    assert np.nanmin(own) > 0.99 * task.near and np.nanmax(own) < 1.01 * task.far
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    gaussians = at_points(2 * grid, np.full(grid.shape, 0.25))
    np.testing.assert_allclose(gaussians.scales[:, 1], 2.0)
    assert np.ptp(gaussians.scales, axis=1).min() > 0 and np.all(gaussians.opacities == np.float32(0.1))
    np.testing.assert_allclose(gaussians.harmonics[:, 0] * 0.2820948 + 0.5, 0.25, rtol=1e-5)


def test_means_differences_and_their_errors():
    """Two starts, two seeds, two scenes, three points, by hand."""
    config = config_of(SceneStart("a", ("x", "y")), SceneStart("b", ("x", "y")), steps=(0, 10, 100))
    curves = np.zeros((2, 2, 2, 3))
    curves[0] = [20, 30, 40]
    curves[1] = [[[21, 32, 43], [20, 30, 40]], [[23, 34, 45], [20, 30, 40]]]
    report = summary(config, curves)
    np.testing.assert_allclose(report["difference"]["b"], [1, 1.5, 2])
    np.testing.assert_allclose(report["difference_error"]["b"], [1, 1.5, 2])  # 2 and 0: half their difference
    np.testing.assert_allclose(report["per_seed"]["b"], [[20.5, 31, 41.5], [21.5, 32, 42.5]])
    np.testing.assert_allclose(report["steps_to_reach"]["a"], 100)
    np.testing.assert_allclose(report["steps_to_reach"]["b"], 10 + 90 * (40 - 31.5) / (42 - 31.5))
    report["ssim"] = report["psnr"]
    assert "+1.500 +- 1.500" in table(config, report)
    curves[1] -= 10
    assert summary(config, curves)["steps_to_reach"]["b"] is None


def test_reports_and_an_interrupted_run(weights, tmp_path, capsys, monkeypatch):
    """Curves made up, since another test measures one: 20 dB without weights, one more with, three after the steps."""
    calls = []

    def measured(model, rates, task, config):
        calls.append(task.name)
        first = 20.0 + (model is not None)
        return Curve(7, (first, first + 3), (0.5, 0.75), (first,))

    monkeypatch.setattr(scenes, "measure", measured)
    config = config_of(SceneStart("one", (str(weights),)), SceneStart("scratch", (SCRATCH,)), seconds=(0.001,))
    assert run(config, None, tmp_path) == 0
    report = json.loads((tmp_path / "scenes.json").read_text())
    assert report["psnr"] == {"one": [21, 24], "scratch": [20, 23]} and len(report["scenes"]) == 2
    assert report["difference"]["scratch"] == [-1, -1] and report["difference_error"]["scratch"] == [0, 0]
    assert report["num_gaussians"] == {"one": 7, "scratch": 7} and report["psnr_by_seconds"]["one"] == [21]
    assert report["per_scene"]["scratch"] == [[20, 23], [20, 23]]
    assert (tmp_path / "scenes.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "24.00" in said and "0.7500" in said and "-1.000 +- 0.000" in said
    assert len(calls) == 4
    assert run(config, None, tmp_path) == 0 and len(calls) == 4
    next(iter((tmp_path / "curves").iterdir())).write_text("{")
    assert run(config, None, tmp_path) == 0 and len(calls) == 5
    with pytest.raises(AirjaxError, match="--weights: not an option"):
        run(config, weights, tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": (5, 10)}, "steps: expected"),
        ({"seconds": (3, 2)}, "seconds: expected"),
        ({"compared": (7,)}, "compared: expected"),
        ({"starts": (SceneStart("a", ()),)}, "starts: expected"),
        ({"starts": (SceneStart("a", ("",)), SceneStart("b", ("", "")))}, "starts: expected"),
    ],
)
def test_settings_that_make_no_sense(fields, words):
    with pytest.raises(AirjaxError, match=words):
        config_of(*fields.pop("starts", (SceneStart("a", ("",)),)), **fields)
