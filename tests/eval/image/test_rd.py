"""Rate and distortion; oracles: Pillow's own files, files that the library writes, means taken here."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, features

from airjax.errors import AirjaxError
from airjax.image.codec import air_file, compress
from airjax.photographs import read_image, write_image
from eval.image import rd
from eval.image.codecs import PILLOW, airjax_codec, airjax_name, is_available, pillow_codec
from eval.image.measures import FileResult, Scores, decode_pixels, score
from eval.image.rd import (
    ImageCurves,
    RateDistortion,
    bd_rates,
    compare,
    curve,
    make_codecs,
    measure,
    plot,
    run,
    tables,
)
from eval.report import environment
from eval.timing import Timing
from train.settings import settings_of

pytestmark = pytest.mark.slow

LADDERS = {
    "airjax_qualities": (20, 50.5),
    "jpeg_qualities": (10, 60, 90),
    "webp_qualities": (10, 80),
    "jpeg2000_ratios": (20, 5.5),
    "avif_qualities": (20, 70),
}
SIZE = (24, 40)
AVAILABLE = [name for name in PILLOW if is_available(name)]
EFFORTS = (0, 1)
OURS = ("airjax-effort-0", "airjax-effort-1")


@pytest.fixture(scope="module")
def small(image):
    """(24, 40, 3) of the photograph."""
    return image[: SIZE[0], : SIZE[1]]


def pillow_file(image, format_name, **options):
    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 * image).astype(np.uint8)).save(buffer, format_name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("jpeg-420", {"subsampling": 2, "optimize": True}),
        ("jpeg-444", {"subsampling": 0, "optimize": True}),
        ("jpeg-420-default", {}),
    ],
)
def test_jpeg_files_and_pixels_are_pillows_own(small, name, options):
    codec = pillow_codec(name, (60,))
    data = codec.encode(codec.prepare(small), 60)
    assert data == pillow_file(small, "JPEG", quality=60, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)), np.float32) / np.float32(255)
    pixels = codec.finish(codec.decode(data))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, expected)
    (point,) = measure(codec, small, 1)
    assert point.scores == score(small, expected)
    assert point.num_bytes == len(data) and point.bpp == 8 * len(data) / (24 * 40)


def test_chroma_subsampling_of_the_files(small):
    """The component heads of the frame (SOF0) hold the sampling factors."""
    for name, factors in (("jpeg-420", 0x22), ("jpeg-444", 0x11)):
        codec = pillow_codec(name, (60,))
        data = codec.encode(codec.prepare(small), 60)
        head = data.index(b"\xff\xc0")
        assert data[head + 11] == factors


@pytest.mark.parametrize("name", AVAILABLE)
def test_larger_files_are_better(small, name):
    settings = LADDERS[PILLOW[name].ladder]
    points = measure(pillow_codec(name, settings), small, 1)
    assert len(points) == len(settings)
    assert (np.diff([p.num_bytes for p in points]) > 0).all()
    assert (np.diff([p.scores.psnr for p in points]) > 0).all()


@pytest.mark.parametrize("name", AVAILABLE)
def test_the_default_ladder_is_accepted_by_the_codec(small, name):
    settings = getattr(RateDistortion("test", "", ""), PILLOW[name].ladder)
    codec = pillow_codec(name, settings)
    prepared = codec.prepare(small)
    for setting in (settings[0], settings[-1]):
        assert codec.finish(codec.decode(codec.encode(prepared, setting))).shape == (*SIZE, 3)


@pytest.mark.parametrize("effort", EFFORTS)
def test_airjax_files_are_those_of_the_library(model, small, effort):
    (point,) = measure(airjax_codec(model, (40,), effort=effort), small, 1)
    data = air_file.encode(compress.compress(model, small, compress.CompressOptions(40, effort=effort)))
    assert point.num_bytes == len(data) and point.bpp == 8 * len(data) / (24 * 40)
    np.testing.assert_allclose(point.scores, score(small, decode_pixels(data)), rtol=1e-6)


def test_an_image_that_a_format_cannot_hold():
    wide = np.zeros((1, 70_000, 3), np.float32)
    with pytest.raises(AirjaxError, match="JPEG 4:2:0 cannot hold a 70000x1 image"):
        measure(pillow_codec("jpeg-420", (60,)), wide, 1)


@pytest.mark.skipif("jpeg2000" not in AVAILABLE, reason="this Pillow has no JPEG 2000")
def test_jpeg_2000_uses_its_colour_transform(small):
    """The coding style (COD): marker, length, style, progression, layers, then 1 where the transform is on."""
    codec = pillow_codec("jpeg2000", (20,))
    data = codec.encode(codec.prepare(small), 20)
    assert data[data.index(b"\xff\x52") + 8] == 1


# --- curves ----------------------------------------------------------------------------------------------


def point(psnr, num_bytes):
    bpp = 8 * num_bytes / 1000
    return FileResult(Scores(psnr, 0.9, 0.95), num_bytes, bpp, Timing.of([2.0]), Timing.of([1.0]))


def codecs_of(*names, settings=(10, 20, 30)):
    return [pillow_codec(name, settings) for name in names]


def codec_points(factor, shift=0.0, levels=(20, 60, 200)):
    return tuple(point(p + shift, round(factor * n)) for p, n in zip((25.0, 30.0, 35.0), levels, strict=True))


def test_a_curve_is_the_mean_of_each_setting():
    (codec,) = codecs_of("webp", settings=(10, 20))
    images = [(point(30.0, 100), point(35.0, 200)), (point(32.0, 140), point(np.inf, 400))]
    lists = curve([ImageCurves("x.png", SIZE, {"webp": files}) for files in images], codec)
    assert lists["setting"] == [10, 20]
    assert lists["psnr-rgb"] == [31.0, 35.0]  # the perfect one has no PSNR to add
    assert lists["num_bytes"] == [120, 300] and lists["bpp"] == pytest.approx([0.96, 2.4])
    assert lists["encoding_time"] == [2.0, 2.0] and lists["decoding_time"] == [1.0, 1.0]


def test_delta_rates_are_against_jpeg_420():
    anchor = {"bpp": [0.1, 0.5, 2.0], "psnr-rgb": [25.0, 30.0, 35.0]}
    half = {**anchor, "bpp": [0.05, 0.25, 1.0]}
    perfect = {**anchor, "psnr-rgb": [None, None, None]}
    rates = bd_rates({"airjax": half, "jpeg-420": anchor, "webp": perfect}, "jpeg-420", (0.2, 1.0))
    assert set(rates) == {"airjax", "webp"}
    assert rates["airjax"].percent == pytest.approx(-50) and rates["webp"].percent is None
    assert bd_rates({"airjax": half}, "jpeg-420", (0.2, 1.0)) == {}


def test_the_table_says_what_was_compared():
    codecs = codecs_of("jpeg-420", "jpeg-444", "webp")
    points = {"jpeg-420": codec_points(1), "jpeg-444": codec_points(1.5), "webp": codec_points(1, 40)}
    text = tables([ImageCurves("x.png", SIZE, points)], codecs, RateDistortion("test", "", ""))
    rows = {line[:10].strip(): line[10:].split() for line in text[text.index("BD-rate:") :].splitlines()}
    assert rows["JPEG 4:4:4"][:2] == ["+50.0", "%"] and rows["JPEG 4:4:4"][3] == "to"
    assert rows["WebP"] == ["-", "no", "overlap", "-", "0"]


def test_the_mean_over_images_is_that_of_their_own_delta_rates():
    """Files of half the size on one image, of 1.2 times on another; a third has no PSNR in common."""
    levels = (2000, 6000, 20_000)
    pairs = [(0.5, 0.0), (1.2, 0.0), (1.0, 40.0)]
    results = [
        ImageCurves(
            f"{i}.png", SIZE, {"jpeg-420": codec_points(1, levels=levels), "webp": codec_points(*pair, levels=levels)}
        )
        for i, pair in enumerate(pairs)
    ]
    comparison = compare(results, codecs_of("jpeg-420", "webp"), "jpeg-420", (20.0, 100.0))["webp"]
    assert comparison.mean_percent == pytest.approx((-50 + 20) / 2) and comparison.num_images == 2


# --- a run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(image, tmp_path_factory):
    """A folder with two small photographs and a broken file."""
    photos = tmp_path_factory.mktemp("photos")
    write_image(photos / "a.png", image[: SIZE[0], : SIZE[1]])
    write_image(photos / "b.png", image[: SIZE[0], : SIZE[1]][:, ::-1])
    (photos / "broken.png").write_bytes(b"no image")
    return RateDistortion("test", "three files", str(photos), efforts=EFFORTS, **LADDERS)


@pytest.fixture(scope="module")
def finished(config, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, run(config, weights, out)


def test_a_broken_file_does_not_stop_the_others(finished):
    out, failures = finished
    assert failures == 1
    for name in (*OURS, *AVAILABLE):
        assert sorted(path.name for path in (out / name).iterdir()) == ["a.png.json", "b.png.json"]


@pytest.mark.parametrize("name", [*OURS, *AVAILABLE])
def test_reports(finished, config, name):
    out, _ = finished
    ladder = getattr(config, "airjax_qualities" if name in OURS else PILLOW[name].ladder)
    mean = json.loads((out / f"{name}.json").read_text())
    images = [json.loads((out / name / f"{source}.json").read_text()) for source in mean["images"]]
    assert mean["images"] == [report["source"] for report in images] == ["a.png", "b.png"]
    for report in (mean, *images):
        assert report["name"] == name and "three files" in report["description"]
        keys = {"psnr-rgb", "ms-ssim-rgb", "bpp", "encoding_time", "decoding_time"}
        assert keys <= report["results"].keys()
        assert {len(values) for values in report["results"].values()} == {len(ladder)}
        assert report["results"]["setting"] == list(ladder)
    for report in images:
        assert report["image_size"] == list(SIZE)
        assert report["results"]["bpp"] == [8 * n / (24 * 40) for n in report["results"]["num_bytes"]]
    for key in ("psnr-rgb", "ms-ssim-rgb", "bpp", "encoding_time"):
        np.testing.assert_allclose(mean["results"][key], np.mean([r["results"][key] for r in images], axis=0))


def test_delta_rates_and_the_plot_are_written(finished, config):
    out, _ = finished
    rates = json.loads((out / "bd_rate.json").read_text())
    assert rates["anchor"] == "jpeg-420" and rates["anchor_bpp"] == [0.2, 1.0]
    assert set(rates["codecs"]) == {*OURS, *AVAILABLE} - {"jpeg-420"}
    with Image.open(out / "rd.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000
    for report in (out / "bd_rate.json", out / f"{OURS[0]}.json", out / OURS[1] / "a.png.json"):
        content = json.loads(report.read_text())
        assert content["settings"] == settings_of(config) and content["settings"]["jpeg_qualities"] == [10, 60, 90]
        assert content["environments"] == [environment()]


def test_a_plot_of_a_perfect_image():
    codecs = codecs_of("jpeg-420", settings=(10, 20))
    perfect = FileResult(Scores(np.inf, 1.0, 1.0), 50, 0.4, Timing.of([1.0]), Timing.of([1.0]))
    results = [ImageCurves("black.png", SIZE, {"jpeg-420": (perfect, perfect)})]
    config = RateDistortion("test", "black", "")
    assert plot(results, codecs, config).startswith(b"\x89PNG")
    psnr, ms_ssim = rd._panels(results, codecs)
    assert not np.isfinite(psnr.lines[0].y).any()
    np.testing.assert_allclose(ms_ssim.lines[0].y, 10 * np.log10(2.0**24))
    assert "2 files are perfect" in tables(results, codecs, config)


def test_the_plot_leaves_out_points_far_away():
    """1/12 to 3 bits per pixel are shown; MS-SSIM 0.95 is 13 dB."""
    files = (point(20.0, 10), point(25.0, 50), point(30.0, 200), point(40.0, 400))
    psnr, ms_ssim = rd._panels([ImageCurves("x", SIZE, {"webp": files})], codecs_of("webp", settings=(1, 2, 3, 4)))
    np.testing.assert_allclose(psnr.lines[0].x, [0.4, 1.6])
    np.testing.assert_allclose(psnr.lines[0].y, [25, 30])
    np.testing.assert_allclose(ms_ssim.lines[0].y, -10 * np.log10(0.05), rtol=1e-6)
    assert psnr.log2_x and psnr.lines[0].name == "WebP"


def test_reports_are_there_when_a_run_is_interrupted(config, weights, tmp_path, monkeypatch):
    def read(path):
        if path.name == "b.png":
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr("eval.image.measures.read_image", read)
    with pytest.raises(KeyboardInterrupt):
        run(replace(config, efforts=(0,)), weights, tmp_path)
    assert json.loads((tmp_path / f"{OURS[0]}.json").read_text())["images"] == ["a.png"]
    assert (tmp_path / "jpeg-420" / "a.png.json").is_file()


def test_the_screen(config, weights, tmp_path, capsys):
    assert run(replace(config, efforts=(0,), codecs=("airjax", "jpeg-420", "jpeg-444")), weights, tmp_path) == 1
    output, errors = capsys.readouterr()
    assert errors.startswith("error: ") and "broken.png" in errors and errors.count("\n") == 1
    head = ("bpp", "PSNR", "MS-SSIM", "encode ms", "decode ms")
    for word in ("airjax, compact profile", "JPEG 4:4:4", *head, "BD-rate"):
        assert word in output


def test_a_codec_that_pillow_lacks_is_one_line(config, model, monkeypatch, capsys):
    check = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "avif" and check(name))
    names = [codec.name for codec in make_codecs(config, model)]
    assert names == [*OURS, *(name for name in AVAILABLE if name != "avif")]
    assert [line for line in capsys.readouterr().out.splitlines() if "AVIF" in line] == [
        "AVIF: this Pillow comes without it; left out"
    ]


def test_an_evaluation_chooses_its_codecs(model):
    config = RateDistortion("test", "none", "photos", codecs=("jpeg-420-default", "airjax"), anchor="jpeg-420-default")
    assert [codec.name for codec in make_codecs(config, model)] == [
        "airjax-effort-0",
        "airjax-effort-3",
        "jpeg-420-default",
    ]
    with pytest.raises(AirjaxError, match=r"codecs: expected some of airjax, jpeg-420, .* got 'jpg'"):
        RateDistortion("test", "none", "photos", codecs=("jpg",))
    ours = RateDistortion("test", "none", "photos", efforts=(6,), anchor="airjax-effort-6")
    assert ours.anchor == airjax_name(6)
    with pytest.raises(AirjaxError, match=r"anchor: expected one of airjax-effort-0, .* got 'airjax-effort-6'"):
        RateDistortion("test", "none", "photos", anchor="airjax-effort-6")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("airjax_qualities", ()),
        ("airjax_qualities", (-1,)),
        ("airjax_qualities", (50, 101)),
        ("airjax_qualities", (50, 50)),
        ("airjax_qualities", ("high",)),
        ("airjax_qualities", (float("nan"),)),
        ("jpeg_qualities", (0, 50)),
        ("jpeg_qualities", (50, 40)),
        ("jpeg_qualities", (50.5,)),
        ("webp_qualities", (-1, 50)),
        ("avif_qualities", (101,)),
        ("jpeg2000_ratios", (10, 20)),
        ("jpeg2000_ratios", (10, 1)),
        ("jpeg2000_ratios", ()),
        ("anchor_bpp", (1.0, 0.2)),
        ("anchor_bpp", (0.0, 1.0)),
        ("repetitions", -1),
        ("efforts", (-1,)),
        ("efforts", (3, 0)),
        ("efforts", ()),
        ("limit", 0),
    ],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(AirjaxError, match=f"{field}: expected"):
        RateDistortion("test", "none", "photos", **{field: value})


def test_a_folder_without_a_readable_image(weights, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(AirjaxError, match="expected images that can be read, found none"):
        run(RateDistortion("test", "none", str(tmp_path)), weights, tmp_path / "out")
