"""`airjax encode`: what it writes, what it says, and one line for what is wrong.

Oracles: the library called directly (same file content), PSNR from the 8-bit files by its definition, and for the
errors the exit status, one line that names the file, and the folder as it was before.
"""

import os
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import SIZE, assert_refused, failing, listing, photo
from PIL import Image

import airjax
from airjax import metrics, weights_file
from airjax.image.codec import air_file
from airjax.image.codec.compress import CompressOptions, compress
from airjax.photographs import read_image


def test_encode_and_decode_beside_the_input(run, weights):
    """Oracles: `compress` for the file, airjax.render for the image, PSNR by definition from the two PNG files."""
    photo("photo.png")
    done = run("encode", "photo.png")
    assert done.status == 0 and done.err == []
    quantised = compress(airjax.load(weights), read_image("photo.png").pixels)
    expected = air_file.dequantised(quantised)
    data = Path("photo.air").read_bytes()
    assert data == air_file.encode(quantised)

    Path("photo.png").rename("original.png")
    decoded = run("decode", "photo.air")
    assert decoded.status == 0 and decoded.err == []
    got, original = (np.asarray(Image.open(name), np.float64) for name in ("photo.png", "original.png"))
    image = airjax.render(expected.gaussians, image_size=SIZE).image
    np.testing.assert_array_equal(got, np.rint(np.clip(np.asarray(image), 0, 1) * 255))
    psnr = 10 * np.log10(255**2 / np.mean((got - original) ** 2))

    (line,) = done.out
    number, stages = sum(expected.stage_counts), len(expected.stage_counts)
    assert line.startswith(f"photo.png -> photo.air: 24x16, {number} Gaussians in {stages} stages, {len(data)} bytes, ")
    assert f"{8 * len(data) / (16 * 24):.3f} bpp, " in line
    # The program's PSNR is a float32 mean: a few units in the last of its two decimals at most.
    assert float(re.search(r"PSNR ([\d.]+) dB$", line)[1]) == pytest.approx(psnr, abs=0.011)
    assert re.search(r", \d+ ms( \(\d+ compiling\))?, PSNR", line)
    assert re.match(rf"photo\.air -> photo\.png: 24x16, \d+ Gaussians in {stages} stages, \d+ ms", decoded.out[0])
    assert sorted(os.listdir()) == ["original.png", "photo.air", "photo.png"]


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        (["--stages", 1, "--solve-steps", 0], {"num_stages": 1, "solve_steps": 0}),
        (["--max-gaussians", 3], {"max_gaussians": 3}),
        (["--mse-threshold", 1, "--ssim-threshold", 2], {"mse_threshold": 1.0, "ssim_threshold": 2.0}),
        (["--max-gaussians", 0, "--quiet"], {"max_gaussians": 0}),
        (["--refine", 12], {"refine_steps": 12}),
    ],
)
def test_encode_options_reach_the_model(run, weights, options, keywords):
    """Oracle: the library with the same options, which must also differ from the result without them."""
    photo("photo.png")
    model, pixels = airjax.load(weights), read_image("photo.png").pixels

    def compact(pixels, **keywords):
        return compress(model, pixels, CompressOptions(effort=0, **keywords))

    for profile, encode in {("--effort", 0): compact, ("--exact-gaussians",): model.encode}.items():
        result = run("encode", "photo.png", "-o", "out.air", "--force", *profile, *options)
        assert result.status == 0
        assert bool(result.out) == ("--quiet" not in options)
        data = Path("out.air").read_bytes()
        assert data == air_file.encode(encode(pixels, **keywords))
        assert data != air_file.encode(encode(pixels))


def test_an_effort_is_for_files_that_are_rounded(run, weights):
    """Oracle: the library with the same effort, which must also differ from the result without it."""
    photo("photo.png")
    assert_refused(run("encode", "photo.png", "--exact-gaussians", "--effort", 2), listing(), "expected --refine K")
    assert run("encode", "photo.png", "--effort", 2).status == 0
    model, pixels = airjax.load(weights), read_image("photo.png").pixels
    expected, plain = (air_file.encode(compress(model, pixels, CompressOptions(effort=effort))) for effort in (2, 0))
    assert Path("photo.air").read_bytes() == expected != plain


def test_notices_are_single_lines_and_quiet_is_quiet(run):
    photo("grey.png", mode="L")
    result = run("encode", "grey.png", "--effort", 0)
    assert result.status == 0
    assert result.err[0] == "airjax: grey.png: grey image read as RGB with three equal channels"
    silent = run("encode", "grey.png", "--effort", 0, "--quiet", "--force")
    assert (silent.status, silent.out, silent.err) == (0, [], [])


def test_refinement_shows_its_steps_on_terminals(run, monkeypatch):
    """And the picture that comes out is closer to the photograph than without."""
    photo("a.png")
    plain = run("encode", "a.png", "-o", "plain.air", "--exact-gaussians")
    assert run("encode", "a.png", "-o", "b.air", "--exact-gaussians", "--refine", 12).err == []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    refined = run("encode", "a.png", "-o", "c.air", "--exact-gaussians", "--refine", 12)
    assert "0/12" in "".join(refined.err)  # and on, at most ten times a second
    assert Path("b.air").read_bytes() == Path("c.air").read_bytes()
    before, after = (float(re.search(r"PSNR ([\d.]+) dB", done.out[0])[1]) for done in (plain, refined))
    assert after > before + 0.1


def test_quality_is_that_of_the_library(run, weights):
    """Oracle: `compress`; a higher quality is a larger file."""
    photo("a.png")
    pixels, model, sizes = read_image("a.png").pixels, airjax.load(weights), []
    for quality in (0, 90):
        assert run("encode", "a.png", "-q", quality, "--effort", 0, "--force").status == 0
        data = Path("a.air").read_bytes()
        assert data == air_file.encode(compress(model, pixels, CompressOptions(quality, effort=0)))
        sizes.append(len(data))
    assert sizes[0] < sizes[1]


def test_target_bpp(run):
    """The file is not above the target, what it came to is printed, and one step of quality more would be above it."""
    photo("a.png")
    result = run("encode", "a.png", "--target-bpp", 8.0)
    bpp = 8 * Path("a.air").stat().st_size / (SIZE[0] * SIZE[1])
    assert result.status == 0 and bpp <= 8.0
    assert len(result.err) == 1 and f"gives {bpp:.3f} bpp" in result.err[0]


@pytest.mark.parametrize(("option", "target"), [("--target-psnr", 90), ("--target-bpp", 0.01)])
def test_a_target_out_of_reach_says_so(run, option, target):
    """The nearest file is written all the same; a line even with --quiet, and a status of its own."""
    photo("a.png")
    result = run("encode", "a.png", option, target, "--effort", 0, "--quiet")
    assert result.status == 3 and Path("a.air").exists() and result.out == []
    assert len(result.err) == 1 and f"a target of {target:g} " in result.err[0]
    nearest = "quality 100 gives" if option == "--target-psnr" else "quality 0, 1 stage gives"
    assert f"is out of reach; the nearest, {nearest}" in result.err[0]
    Path("b.png").write_bytes(b"damaged")
    assert run("encode", "a.png", "b.png", option, target, "--effort", 0, "--force").status == 2


def test_what_is_no_photograph_is_said(run):
    """Text is larger than its PNG file and looks worse: one line that names what serves better."""
    Image.fromarray(np.random.default_rng(0).integers(0, 2, SIZE).astype(bool)).save("text.png")
    (line,) = run("encode", "text.png", "-q", 60).err[1:]
    assert "text.png: larger than the image file" in line and "PNG or WebP" in line and "--effort" in line
    assert len(run("encode", "text.png", "--exact-gaussians", "--force").err) == 1  # who asks for all of it, gets it


def test_an_old_name_is_still_taken(run):
    """And says what it means."""
    photo("a.png")
    assert run("encode", "a.png", "-o", "b.air", "--exact-gaussians").err == []
    (line,) = run("encode", "a.png", "--lossless").err
    assert "the Gaussians are kept, not the pixels" in line and "--exact-gaussians" in line
    assert Path("a.air").read_bytes() == Path("b.air").read_bytes()
    assert "--lossless" not in " ".join(run("encode", "--help", weights=None).out)


@pytest.mark.parametrize(
    "options", [("-q", 5, "--exact-gaussians"), ("--target-psnr", 30, "--target-bpp", 1), ("-q", 5, "--target-bpp", 1)]
)
def test_one_goal_at_a_time(run, options):
    photo("a.png")
    assert_refused(run("encode", "a.png", *options), listing(), "expected one of them")


def test_bad_weights_end_the_run_with_one_line(run, weights, tmp_path_factory):
    """Said once, however many images wait; nothing is written."""
    folder = tmp_path_factory.mktemp("bad_weights")
    params, metadata = weights_file.load_weights(weights)
    bad = {name: folder / f"{name}.safetensors" for name in ("none", "cut", "silent", "other", "odd", "zero")}
    bad["cut"].write_bytes(weights.read_bytes()[:-7])
    weights_file.save_weights(bad["silent"], params)
    weights_file.save_weights(bad["other"], {"stage0": params["stage0"]}, metadata)
    odd = metadata["stages"].replace('"features": 8', '"features": "eight"')
    weights_file.save_weights(bad["odd"], params, {"stages": odd})
    weights_file.save_weights(bad["zero"], params, {"stages": "[]"})
    photo("a.png"), photo("b.png")
    before = listing()
    for name, path in bad.items():
        result = run("encode", "a.png", "b.png", weights=path)
        assert_refused(result, before, f"{name}.safetensors", "expected")
    assert_refused(run("encode", "a.png", "b.png", "--stages", 3), before, "--stages", "at most 2")
    assert_refused(run("encode", "missing.png", weights=bad["none"]), before, "missing.png")


def test_result_beyond_the_format(run, monkeypatch):
    """What the .air file cannot hold is an error of that image, with its name."""
    photo("a.png")
    monkeypatch.setattr(air_file, "MAX_VALUE", 1e-6)
    assert_refused(run("encode", "a.png", "--exact-gaussians"), listing(), "a.png", "Gaussian 0")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory, 9 bytes")])
def test_short_memory(run, monkeypatch, error):
    """Python's error and XLA's: one line for each image."""
    photo("a.png"), photo("b.png")
    before = listing()
    monkeypatch.setattr("airjax.image.codec.compress.compress", failing(error))
    result = run("encode", "a.png", "b.png")
    assert result.status == 2 and listing() == before
    assert [line.split(": ")[1:] for line in result.err] == [
        [name, "not enough memory for an image of this size; make it smaller"] for name in ("a.png", "b.png")
    ]


def test_faults_of_the_program_are_not_hidden(run, monkeypatch):
    photo("a.png")
    monkeypatch.setattr("airjax.image.codec.compress.compress", failing(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        run("encode", "a.png")


@pytest.mark.parametrize("where", ["airjax.image.codec.compress.compress", "os.fsync"])
def test_interrupt(run, monkeypatch, where):
    """Ctrl-C while computing and while writing: one line, 130, no file of any name left behind."""
    photo("a.png"), photo("b.png")
    before = listing()
    monkeypatch.setattr(where, failing(KeyboardInterrupt))
    result = run("encode", "a.png", "b.png", "--effort", 0)
    assert result.status == 130 and len(result.err) == 1 and "interrupted" in result.err[0]
    assert listing() == before


def test_files_of_one_size_share_all_programs(run):
    """The second is traced and compiled nowhere, and the PSNR of both is one program."""
    photo("a.png")
    Path("b.png").write_bytes(Path("a.png").read_bytes())
    metrics._mse_8bit.jitted.clear_cache()
    assert run("encode", "a.png").status == 0
    events = []
    jax.monitoring.register_event_duration_secs_listener(listener := lambda name, *_, **__: events.append(name))
    try:
        assert run("encode", "b.png").status == 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert [name for name in events if "/compile/" in name] == []
    assert metrics._mse_8bit.jitted._cache_size() == 1
