"""Refinement curves of images and scenes; oracles: the library's own refinement, curves by hand, an interrupted run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import write_run
from tiny import random_weights

from airjax.errors import AirjaxError
from airjax.image.cases import middle
from airjax.image.task import Coordinates, ImageTask
from airjax.inner.task import run as refine
from airjax.metrics import psnr, ssim, to_8bit
from airjax.raster.draw import render
from airjax.scene.cameras import project_points
from airjax.scene.model import load as load_scene_model
from airjax.scene.points import at_points
from airjax.scene.predictor import PredictorConfig, config_to_text
from airjax.scene.render import render as render_scene
from airjax.scene.task import RATES, SceneTask
from airjax.weights_file import save_weights
from eval import curves
from eval.curves import SCRATCH, Curve, Curves, Start, all_starts, measure, run, steps_to_reach, summary, table
from eval.image.subjects import Images
from eval.main import main
from eval.scene.baseline import random_points
from eval.scene.subjects import ProceduralScenes

pytestmark = pytest.mark.slow

CONFIG = PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16))
SHIPPED = (Start("shipped", ("",)),)
TWO = (Start("a", ("x", "y")), Start("b", ("x", "y")))
SCENES = ProceduralScenes(made_up=10, num_scenes=2, image_size=(32, 32))


def config_of(subjects, starts=SHIPPED, **fields) -> Curves:
    return Curves("r", "d", subjects, starts, **{"steps": (0, 5, 10), "compared": (0, 10), **fields})


@pytest.fixture(scope="module")
def scene_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "scene.safetensors"
    save_weights(path, random_weights(CONFIG), {"predictor": config_to_text(CONFIG)})
    return path


@pytest.fixture(scope="module")
def scene():
    return next(iter(SCENES))()


# --- starts of runs --------------------------------------------------------------------------------------------------


def study(folder: Path, runs: dict[str, tuple[int, ...]], **phase) -> str:
    """Run folders by estimator and seed."""
    for name, seeds in runs.items():
        for seed in seeds:
            parts = {"kind": "Meta", "estimator": {"kind": name}, "trained": "head", "learn_rates": False, **phase}
            write_run(folder / f"{name}_{seed}", seed=seed, name=f"{name}_{seed}", phase=parts)
    return str(folder)


def test_runs_are_found_and_paired_by_their_seeds(tmp_path, capsys):
    """A seed that not all have, and a run without weights, are left out with a line; one file serves all seeds."""
    folder = study(tmp_path, {"Budget": (0, 1, 2), "Es": (1, 2)})
    write_run(tmp_path / "late", seed=3, finished=False, phase={"kind": "Meta", "estimator": {"kind": "Late"}})
    config = config_of(SCENES, SHIPPED, runs=(folder,), reference="estimator=es")
    assert all_starts(config) == (
        Start("estimator=Es", tuple(f"{folder}/Es_{seed}/weights.safetensors" for seed in (1, 2))),
        Start("shipped", ("", "")),
        Start("estimator=Budget", tuple(f"{folder}/Budget_{seed}/weights.safetensors" for seed in (1, 2))),
    )
    said = capsys.readouterr().out
    assert f"without weights yet: {folder}/late" in said and "seeds [0] of estimator=Budget" in said
    with pytest.raises(
        AirjaxError, match=r"reference: expected a part of one of shipped, estimator=Budget, .* got 'x'"
    ):
        all_starts(replace(config, reference="x"))


def test_learned_rates_are_measured_beside_those_by_hand(tmp_path):
    """What trained the rates alone has the shipped start: with other rates it would be that again."""
    rates = (("", RATES), ("its rates", None))
    for name, phase, expected in (
        ("heads", {}, [("run", RATES)]),
        ("learned", {"learn_rates": True}, [("run", RATES), ("run, its rates", None)]),
        ("alone", {"learn_rates": True, "trained": "rates"}, [("run, its rates", None)]),
    ):
        folder = study(tmp_path / name, {"run": (0,)}, **phase)
        starts = all_starts(config_of(SCENES, (), runs=(folder,), rates=rates))
        assert [(start.name.replace("run_0", "run"), start.rates) for start in starts] == expected


def test_runs_without_a_common_seed(tmp_path):
    with pytest.raises(AirjaxError, match="expected trained weights of a seed that all have, found none"):
        all_starts(config_of(SCENES, runs=(study(tmp_path, {"A": (0,), "B": (1,)}),)))
    with pytest.raises(AirjaxError, match=r"starts: expected one file or 3, got \[2, 3\]"):
        all_starts(config_of(SCENES, (Start("a", ("x", "y")), Start("b", ("x", "y", "z")))))
    with pytest.raises(AirjaxError, match="no such folder: expected a run folder, found nothing"):
        all_starts(config_of(SCENES, runs=("no such folder",)))


# --- measuring -------------------------------------------------------------------------------------------------------


def test_a_curve_of_an_image_is_what_the_library_does(model, image, photo):
    """Start and end of the curve are the prediction, and the same after as many steps of `run`."""
    (open_subject,) = Images(str(photo), max_gaussians=28_000)
    curve = measure(open_subject(), model, model.rates, config_of(None))
    predicted = model.encode(image, max_gaussians=round(28_000 * 32 * 48 / (768 * 512)), solve_steps=0).gaussians
    assert curve.num_gaussians == predicted.num_slots <= 110 and curve.psnr_by_seconds == ()
    ends = (predicted, refine(ImageTask(image, model.rates), predicted, num_steps=10))
    for place, gaussians in zip((0, -1), ends, strict=True):
        picture = to_8bit(render(gaussians, image_size=(32, 48)).image)
        np.testing.assert_allclose(curve.psnr[place], psnr(image, picture), rtol=1e-4)
        np.testing.assert_allclose(curve.ssim[place], ssim(image, picture), rtol=1e-4)


def test_a_curve_of_a_scene_is_what_the_library_does(scene_weights, scene):
    model = load_scene_model(scene_weights)
    curve = measure(scene, model, RATES, config_of(SCENES, steps=(0, 10), compared=(), seconds=(0.001,)))
    start = model.predict(scene.images, scene.cameras, scene.near, scene.far)
    assert curve.num_gaussians == start.num_slots <= 2 * 32 * 32
    task = SceneTask(scene.images, scene.cameras, scene.near)
    for i, gaussians in enumerate((start, refine(task, start, num_steps=10))):
        views = [render_scene(gaussians, scene.judged_cameras[j], image_size=(32, 32)).image for j in range(2)]
        values = [psnr(image, to_8bit(view)) for image, view in zip(scene.judged_images, views, strict=True)]
        assert curve.psnr[i] == pytest.approx(float(np.mean(values)), abs=1e-3)
    # One look after a millisecond: the prediction alone takes longer, and no step was taken.
    assert curve.psnr_by_seconds == (pytest.approx(curve.psnr[0], abs=1e-3),)


def test_test_scenes_are_always_the_same(scene):
    again = next(iter(SCENES))()
    np.testing.assert_array_equal(scene.images, again.images)
    np.testing.assert_array_equal(scene.points, again.points)
    assert scene.judged_images.shape == (2, 32, 32, 3) and not np.array_equal(scene.images, scene.judged_images)
    assert len(SCENES) == len(list(SCENES)) == 2 and len(replace(SCENES, limit=1)) == 1


def test_a_start_from_scratch(scene):
    """Points lie on the pixels whose colour they have, between near and far; sizes by hand for a regular grid."""
    points, colors = random_points(np.random.default_rng(0), scene.images, scene.cameras, scene.near, scene.far, 50)
    seen = [project_points(scene.cameras[i], points) for i in (0, 1)]
    pixels, depths = (np.stack(part) for part in zip(*seen, strict=True))
    on_pixel = np.abs(pixels % 1 - 0.5).max(axis=-1) < 1e-2
    assert np.all(on_pixel.any(axis=0))
    view = np.argmax(on_pixel, axis=0)
    cell = np.floor(pixels[view, np.arange(50)]).astype(int)
    np.testing.assert_array_equal(scene.images[view, cell[:, 1], cell[:, 0]], colors)
    own = np.where(on_pixel, depths, np.nan)
    assert np.nanmin(own) > 0.99 * scene.near and np.nanmax(own) < 1.01 * scene.far
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    gaussians = at_points(2 * grid, np.full(grid.shape, 0.25))
    np.testing.assert_allclose(gaussians.scales[:, 1], 2.0)
    assert np.ptp(gaussians.scales, axis=1).min() > 0 and np.all(gaussians.opacities == np.float32(0.1))
    np.testing.assert_allclose(gaussians.harmonics[:, 0] * 0.2820948 + 0.5, 0.25, rtol=1e-5)


def test_the_middle_of_an_image():
    image = np.arange(5 * 9).reshape(5, 9)
    np.testing.assert_array_equal(middle(image, 3), image[1:4, 3:6])
    assert middle(image, 7).shape == (5, 7) and middle(image, None) is image


# --- the report ------------------------------------------------------------------------------------------------------


def test_means_differences_and_both_errors():
    """Two starts, two seeds, two cases, three points, by hand."""
    config = Curves("r", "d", SCENES, TWO, steps=(0, 10, 100), compared=(10,))
    psnr = np.array(
        [
            [[[20, 30, 40], [22, 32, 42]], [[20, 30, 40], [22, 32, 42]]],
            [[[21, 32, 43], [23, 34, 45]], [[21, 31, 41], [23, 33, 47]]],
        ],
        float,
    )
    report = summary(config, psnr)
    np.testing.assert_allclose(report["psnr"]["a"], [21, 31, 41])
    np.testing.assert_allclose(report["psnr_error_over_cases"]["a"], 1)  # two images 2 dB apart
    np.testing.assert_allclose(report["psnr_error_over_seeds"]["a"], 0)
    np.testing.assert_allclose(report["psnr_by_seed"]["b"], [[22, 33, 44], [22, 32, 44]])
    np.testing.assert_allclose(report["psnr_by_case"]["b"], [[21, 31.5, 42], [23, 33.5, 46]])
    np.testing.assert_allclose(report["difference"]["b"], [1, 1.5, 3])
    # Standard errors of two numbers: half their difference. By seed 2 and 1 at 10 steps, by image 1.5 twice.
    np.testing.assert_allclose(report["difference_error_over_seeds"]["b"], [0, 0.5, 0])
    np.testing.assert_allclose(report["difference_error_over_cases"]["b"], [0, 0, 1])
    np.testing.assert_allclose(report["difference"]["a"], 0)
    # b goes from 32.5 dB at 10 steps to 44 at 100 and is at a's last 41 on the way; a itself at its last step.
    np.testing.assert_allclose(report["steps_to_reach"]["a"], 100)
    np.testing.assert_allclose(report["steps_to_reach"]["b"], 10 + 90 * (41 - 32.5) / (44 - 32.5))
    report["ssim"] = report["psnr"]
    assert "+1.500 (0.500; 0.000)" in table(config, report)
    single = summary(replace(config, starts=(Start("a", ("x",)), Start("b", ("x",)))), psnr[:, :1])
    assert np.isnan(single["difference_error_over_seeds"]["b"]).all()


def test_steps_to_reach():
    """Linear in the step; the first crossing counts; at once, and never."""
    assert steps_to_reach((0, 10, 30), (20, 30, 40), 35) == 20
    assert steps_to_reach((0, 10, 30, 50), (20, 30, 25, 30), 29) == 9
    assert steps_to_reach((0, 10), (20, 30), 20) == 0
    assert steps_to_reach((0, 10), (20, 30), 30.5) is None


def test_reports_and_an_interrupted_run(weights, photo, tmp_path, capsys, monkeypatch):
    """A second run measures nothing again, other settings do, and a cut-off note of a curve is measured again."""
    starts = (Start("one", (str(weights),)), Start("two", (str(weights),)))
    config = config_of(Images(str(photo)), starts)
    assert run(config, None, tmp_path) == 0
    report = json.loads((tmp_path / "curves.json").read_text())
    assert report["psnr"]["one"][2] > report["psnr"]["one"][0]
    assert report["psnr"]["one"] == report["psnr"]["two"] and report["difference"]["two"] == [0, 0, 0]
    assert report["settings"]["subjects"]["max_gaussians"] == 14_000 and report["settings"]["steps"] == [0, 5, 10]
    assert report["cases"] == ["waves.png"] and report["difference_error_over_cases"]["two"] == [None] * 3
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"{report['psnr']['one'][2]:.2f}" in capsys.readouterr().out
    calls = []
    real = curves.measure
    monkeypatch.setattr(curves, "measure", lambda *args: calls.append(1) or real(*args))
    assert run(config, None, tmp_path) == 0 and not calls
    (kept,) = (tmp_path / "curves").iterdir()
    kept.write_text("{")
    assert run(config, None, tmp_path) == 0 and len(calls) == 1


def test_reports_of_scenes(scene_weights, tmp_path, capsys, monkeypatch):
    """Curves made up, since another test measures one: 20 dB without weights, one more with, three after the steps."""
    calls = []

    def measured(subject, model, rates, config):
        calls.append(subject.name)
        first = 20.0 + (model is not None)
        return Curve(7, (first, first + 3), (0.5, 0.75), (first,))

    monkeypatch.setattr(curves, "measure", measured)
    starts = (Start("one", (str(scene_weights),)), Start("scratch", (SCRATCH,)))
    config = config_of(SCENES, starts, steps=(0, 10), seconds=(0.001,), compared=(10,))
    assert run(config, None, tmp_path) == 0
    report = json.loads((tmp_path / "curves.json").read_text())
    assert report["psnr"] == {"one": [21, 24], "scratch": [20, 23]} and len(report["cases"]) == 2
    assert report["difference"]["scratch"] == [-1, -1] and report["difference_error_over_cases"]["scratch"] == [0, 0]
    assert report["num_gaussians"] == {"one": 7, "scratch": 7} and report["psnr_by_seconds"]["one"] == [21]
    assert report["psnr_by_case"]["scratch"] == [[20, 23], [20, 23]]
    assert report["weights"]["scratch"] == ["scratch"]
    said = capsys.readouterr().out
    assert "24.00" in said and "0.7500" in said and "-1.000 (-; 0.000)" in said
    assert len(calls) == 4
    assert run(config, None, tmp_path) == 0 and len(calls) == 4
    with pytest.raises(AirjaxError, match="--weights: not an option"):
        run(config, scene_weights, tmp_path)


def test_other_rates(weights, photo, tmp_path):
    """With rates of 0 nothing moves."""
    still = Start("still", (str(weights),), Coordinates(0.0, 0.0, 0.0, 0.0))
    config = config_of(Images(str(photo)), (Start("one", (str(weights),)), still))
    assert run(config, None, tmp_path) == 0
    report = json.loads((tmp_path / "curves.json").read_text())
    assert len(set(report["psnr"]["still"])) == 1 and report["difference"]["still"][2] < 0


def test_what_cannot_be_read(weights, photo, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(photo.read_bytes())
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    config = config_of(Images(str(tmp_path / "in")), (Start("one", (str(weights),)),))
    assert run(config, None, tmp_path) == 1
    assert "b.png" in capsys.readouterr().err
    (tmp_path / "in" / "a.png").unlink()
    with pytest.raises(AirjaxError, match="can be read"):
        run(config, None, tmp_path)
    with pytest.raises(AirjaxError, match="--weights"):
        run(config, weights, tmp_path)
    with pytest.raises(AirjaxError, match="nowhere"):
        run(config_of(Images("nowhere")), None, tmp_path)


def test_an_image_has_no_start_from_scratch(photo, tmp_path):
    config = config_of(Images(str(photo)), (Start("scratch", (SCRATCH,)),))
    with pytest.raises(AirjaxError, match=r"waves\.png: expected weights to start from"):
        run(config, None, tmp_path)


def test_the_study_without_its_training_is_one_line(capsys, tmp_path, monkeypatch):
    path = Path(curves.__file__).parent / "configs" / "metagrad_kodak.py"
    monkeypatch.chdir(tmp_path)
    assert main([str(path)]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and errors.startswith("error: runs/metagrad_*: expected a run folder")


@pytest.mark.parametrize(
    "make",
    [
        lambda: config_of(SCENES, steps=()),
        lambda: config_of(SCENES, steps=(5, 10)),
        lambda: config_of(SCENES, seconds=(3, 2)),
        lambda: config_of(SCENES, compared=(0, 7)),
        lambda: config_of(SCENES, ()),
        lambda: config_of(SCENES, (Start("a", ()),)),
        lambda: config_of(SCENES, (Start("a", ("x",)), Start("b", ()))),
        lambda: config_of(SCENES, ()),
        lambda: Images("x", max_gaussians=0),
        lambda: Images("x", crop=8),
        lambda: ProceduralScenes(num_scenes=0),
    ],
)
def test_bad_settings(make):
    with pytest.raises(AirjaxError, match="expected"):
        make()
