"""Evaluation of images; oracles: files written and read again, the plain renderer, textbook PSNR in numpy."""

import json
import math

import numpy as np
import pytest
from dense import render_dense

from airjax.errors import AirjaxError
from airjax.image.codec import air_file
from airjax.image.codec.air_file import truncate_stages
from airjax.photographs import read_image, write_image
from eval.image.measures import as_written, score
from eval.image.quality import ImageEvaluation, evaluate_file, images_after_stages, run
from eval.report import environment
from train.settings import settings_of


def test_scores_are_those_of_the_written_file(image, tmp_path):
    rendered = image + np.random.default_rng(1).normal(0, 0.2, image.shape).astype(np.float32)
    write_image(tmp_path / "x.png", rendered)
    back = read_image(tmp_path / "x.png").pixels
    np.testing.assert_array_equal(as_written(rendered), back)
    psnr = -10 * np.log10(np.mean((image.astype(np.float64) - back) ** 2))
    assert score(image, rendered).psnr == pytest.approx(psnr, abs=1e-3)  # float32 means of 4,608 numbers


def test_scores_of_a_perfect_image(image):
    assert score(image, image) == (math.inf, 1.0, 1.0)


def test_images_after_stages_are_those_of_the_cut_files(model, image):
    encoded = model.encode(image, num_stages=2, solve_steps=0)
    assert min(encoded.stage_counts) > 0
    images = list(images_after_stages(encoded))
    assert len(images) == 2
    for stage, rendered in enumerate(images):
        prefix = truncate_stages(encoded, stage + 1).gaussians
        expected = render_dense(prefix, image_size=(32, 48))
        np.testing.assert_allclose(rendered, expected, atol=2e-5)  # the renderer's promise


def test_a_file_and_its_numbers(model, image):
    result = evaluate_file(model, image, max_gaussians=30, solve_steps=0, repetitions=2)
    encoded = model.encode(image, max_gaussians=30, solve_steps=0)
    data = air_file.encode(encoded)
    assert result.num_gaussians == encoded.gaussians.num_slots == 30
    assert result.num_bytes == len(data)
    assert result.bpp == 8 * len(data) / (32 * 48)
    assert result.encode.repetitions == result.decode.repetitions == 2
    expected = score(image, np.asarray(render_dense(encoded.gaussians, image_size=(32, 48))))
    np.testing.assert_allclose(result.scores, expected, rtol=1e-3)  # a pixel may round the other way


@pytest.fixture(scope="module")
def reports(weights, photo, tmp_path_factory):
    """One run over a folder with a photograph, a black image (perfect without a Gaussian) and a broken file."""
    root = tmp_path_factory.mktemp("run")
    (root / "photos").mkdir()
    (root / "photos" / "a.png").write_bytes(photo.read_bytes())
    write_image(root / "photos" / "black.png", np.zeros((32, 48, 3)))
    (root / "photos" / "broken.png").write_bytes(b"no image")
    config = ImageEvaluation("test", "three files", str(root / "photos"), solve_steps=(0, 2), repetitions=1)
    return config, root / "out", run


@pytest.fixture(scope="module")
def finished(reports, weights):
    config, out, run = reports
    return out, run(config, weights, out)


def test_a_broken_file_does_not_stop_the_others(finished):
    out, failures = finished
    assert failures == 1
    for codec in ("airjax-networks", "airjax-solve2", "airjax-stages"):
        assert sorted(p.name for p in (out / codec).iterdir()) == ["a.png.json", "black.png.json"]


def test_reports_of_images_and_their_mean(finished):
    out, _ = finished
    for codec in ("airjax-networks", "airjax-solve2"):
        mean = json.loads((out / f"{codec}.json").read_text())
        photo, black = (json.loads((out / codec / name).read_text()) for name in ("a.png.json", "black.png.json"))
        assert mean["name"] == photo["name"] == codec
        assert photo["source"] == "a.png" and photo["image_size"] == [32, 48]
        keys = {"psnr-rgb", "ssim-rgb", "ms-ssim-rgb", "bpp", "encoding_time", "decoding_time"}
        assert keys <= mean["results"].keys() == photo["results"].keys()
        # The perfect image has no PSNR in JSON and is left out of its mean, and of nothing else.
        assert black["results"]["psnr-rgb"] == [None] and black["results"]["num_gaussians"] == [0]
        assert mean["results"]["psnr-rgb"] == photo["results"]["psnr-rgb"] and mean["perfect_images"] == 1
        for key in ("ms-ssim-rgb", "bpp"):
            both = photo["results"][key][0], black["results"][key][0]
            assert mean["results"][key] == [pytest.approx(np.mean(both))]


def test_every_report_holds_its_settings_and_environment(finished, reports):
    out, _ = finished
    paths = [path for path in out.rglob("*") if path.is_file()]
    assert len(paths) == 3 + 3 * 2
    for path in paths:
        report = json.loads(path.read_text())
        assert report["settings"] == settings_of(reports[0]) and report["environments"] == [environment()]


def test_stages_are_points_of_a_curve(finished):
    out, _ = finished
    points = json.loads((out / "airjax-stages" / "a.png.json").read_text())["results"]
    final = json.loads((out / "airjax-networks" / "a.png.json").read_text())["results"]
    assert len(points["psnr-rgb"]) == 2
    assert points["num_gaussians"] == [24.0, 48.0]
    # Files have finer stages besides.
    assert final["num_gaussians"][0] > 48 and points["psnr-rgb"][-1] < final["psnr-rgb"][0]
    assert points["bpp"][0] < points["bpp"][1] < final["bpp"][0]


def test_the_screen_shows_every_image_and_the_mean(reports, weights, capsys, tmp_path):
    config, _, run = reports
    assert run(config, weights, tmp_path) == 1
    output, errors = capsys.readouterr()
    assert errors.startswith("error: ") and "broken.png" in errors and errors.count("\n") == 1
    for word in ("PSNR", "MS-SSIM", "stage 2", "solve2", "Gaussians", "bpp", "encode ms", "peak memory", "inf"):
        assert word in output
    # Three metrics and two sizes: five tables, each with two images and a mean.
    assert output.count("\nblack.png") == output.count("\nmean of 2") == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("solve_steps", ()),
        ("solve_steps", (-1,)),
        ("solve_steps", (5, 5)),
        ("max_gaussians", -1),
        ("repetitions", 0),
        ("limit", 0),
    ],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(AirjaxError, match=f"{field}: expected"):
        ImageEvaluation("test", "none", "photos", **{field: value})


def test_a_folder_without_a_readable_image(weights, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(AirjaxError, match="expected images that can be read, found none"):
        run(ImageEvaluation("test", "none", str(tmp_path)), weights, tmp_path / "out")
