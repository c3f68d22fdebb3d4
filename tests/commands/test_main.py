"""The command line: what it writes, what it says, and that nothing a user can cause ends in a traceback.

Oracles: the library called directly (same file content, same pixels), PSNR from the 8-bit files by its definition,
and for the errors the exit status, one line that names the file, and the folder as it was before.
"""

import errno
import os
import re
import subprocess
import sys
import tomllib
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import airjax
from airjax import weights_file
from airjax.commands import main
from airjax.gaussians import Gaussians2D
from airjax.image import presets
from airjax.image.codec import air_file, compress
from airjax.image.patches import PatchMap
from airjax.image.stages import StageConfig, init_params
from airjax.nn.air_stage import PredictorConfig
from airjax.photographs import read_image

ROOT = Path(__file__).resolve().parents[2]
STAGES = tuple(
    StageConfig(PatchMap(8, offset=0.75, min_scale=0.5, max_scale=4.2), PredictorConfig(features=8, blocks=1))
    for _ in range(2)
)
SIZE = (16, 24)  # (h, w): 2 x 3 patches, so 6 Gaussians a stage at most


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Random weights of two small stages; drawn by numpy, as the networks' own init would have to be compiled."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), STAGES))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    text = {"stages": presets.stages_to_text(STAGES)}
    weights_file.save_weights(path, params, text)
    return path


@pytest.fixture(scope="session")
def air_bytes() -> bytes:
    """A .air file with two stages of 2 and 1 Gaussians."""
    f = np.float32
    gaussians = Gaussians2D(
        means=f([[6, 4], [18, 12], [12, 8]]),
        scales=f([[3, 2], [2, 4], [1, 1]]),
        angles=f([0, 0.5, 0]),
        colors=f([[0.9, 0.2, 0.1], [0.1, 0.8, 0.3], [0.5, 0.5, 0.9]]),
        active=np.ones(3, bool),
    )
    return air_file.encode(air_file.Encoded(gaussians, (2, 1), SIZE))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, weights):
    """Runs the program in an empty folder and without the user's compilation cache; `encode` gets the tiny weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("airjax.commands.cache.enable_compilation_cache", lambda: None)

    def program(*arguments, weights=weights) -> SimpleNamespace:
        arguments = [str(argument) for argument in arguments]
        if arguments[0] == "encode" and weights:
            arguments += ["--weights", str(weights)]
        capsys.readouterr()
        status = main.main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        errors = [line for line in err.splitlines() if "the first image of a size" not in line]
        return SimpleNamespace(status=status, out=out.splitlines(), err=errors)

    return program


def photo(path, seed=0, mode="RGB") -> Path:
    """A small image of noise."""
    shape = SIZE if mode == "L" else (*SIZE, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return Path(path)


def listing() -> dict[str, bytes]:
    """Every file below the working folder and its content."""
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def assert_refused(result, before, *words) -> None:
    """Status 2, one line on stderr with all `words` in it, and not a file more, less or other."""
    assert result.status == 2
    assert len(result.err) == 1, result.err
    for word in words:
        assert str(word) in result.err[0]
    assert listing() == before


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


# --- what works ----------------------------------------------------------------------------------------------------


def test_encode_and_decode_beside_the_input(run, weights):
    """Oracles: `compress` for the file, airjax.render for the image, PSNR by definition from the two PNG files."""
    photo("photo.png")
    done = run("encode", "photo.png")
    assert done.status == 0 and done.err == []
    quantised = compress.compress(airjax.load(weights), read_image("photo.png").pixels)
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
    number = sum(expected.stage_counts)
    assert line.startswith(f"photo.png -> photo.air: 24x16, {number} Gaussians in 2 stages, {len(data)} bytes, ")
    assert f"{8 * len(data) / (16 * 24):.3f} bpp, " in line
    # The program's PSNR is a float32 mean: a few units in the last of its two decimals at most.
    assert float(re.search(r"PSNR ([\d.]+) dB$", line)[1]) == pytest.approx(psnr, abs=0.011)
    assert re.search(r", \d+ ms( \(\d+ compiling\))?, PSNR", line)
    assert re.match(r"photo\.air -> photo\.png: 24x16, \d+ Gaussians in 2 stages, \d+ ms", decoded.out[0])
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
    library = {(): partial(compress.compress, model), ("--lossless",): model.encode}
    for profile, encode in library.items():
        result = run("encode", "photo.png", "-o", "out.air", *profile, *options)
        assert result.status == 0
        assert bool(result.out) == ("--quiet" not in options)
        data = Path("out.air").read_bytes()
        assert data == air_file.encode(encode(pixels, **keywords))
        assert data != air_file.encode(encode(pixels))


def test_decode_options(run, air_bytes):
    """Oracle: airjax.render at that scale, of the first stage alone."""
    Path("a.air").write_bytes(air_bytes)
    assert run("decode", "a.air", "-o", "b.tiff", "--scale", 2, "--stages", 1).status == 0
    first = air_file.truncate_stages(air_file.decode(air_bytes), 1)
    image = np.asarray(airjax.render(first.gaussians, image_size=SIZE, scale=2.0).image)
    np.testing.assert_array_equal(np.asarray(Image.open("b.tiff")), np.rint(np.clip(image, 0, 1) * 255))
    assert image.shape == (32, 48, 3)


def test_notices_are_single_lines_and_quiet_is_quiet(run):
    photo("grey.png", mode="L")
    result = run("encode", "grey.png")
    assert result.status == 0
    assert result.err == ["airjax: grey.png: grey image read as RGB with three equal channels"]
    silent = run("encode", "grey.png", "--quiet")
    assert (silent.status, silent.out, silent.err) == (0, [], [])


def test_the_wait_for_the_compiler_is_announced(tmp_path, monkeypatch, capsys, weights):
    """Before the first call, with the folder of the cache, and where there is none."""
    photo(tmp_path / "a.png")
    for folder, words in ((tmp_path / "cache", f"is kept in {tmp_path / 'cache'}"), (None, "in every run")):
        monkeypatch.setattr("airjax.commands.cache.enable_compilation_cache", lambda folder=folder: folder)
        with monkeypatch.context() as patch:
            patch.setattr("airjax.image.model.load", failing(KeyboardInterrupt))
            assert main.main(["encode", str(tmp_path / "a.png"), "--weights", str(weights)]) == 130
        assert words in capsys.readouterr().err.splitlines()[0]


def test_clock_knows_the_compiler():
    """Oracle: a program that was not there before, and one that JAX's own events say took five seconds."""
    with main._Clock() as clock:
        jax.jit(lambda x: x * 3 + 1)(np.float32(1))
    assert 0 < clock._compiling < clock._seconds
    with main._Clock() as clock:
        jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 5.0)
    jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 5.0)  # no longer counted
    assert re.fullmatch(r"\d+ ms \(5000 compiling\)", str(clock))


def test_info_is_the_chunk_table(run, air_bytes):
    """Oracle: air_file.info, and the numbers of this file by hand: 32 bytes a row, 256 bits."""
    Path("a.air").write_bytes(air_bytes)
    result = run("info", "a.air")
    assert result.status == 0 and result.err == []
    size = len(air_bytes)
    assert result.out[0] == "a.air: 24x16, 3 Gaussians in 2 stages"
    assert "3 channels" in result.out[1] and "lossless" in result.out[1]
    assert result.out[2].strip() == f"{size} bytes, {8 * size / 384:.3f} bpp, {8 * size / 3:.1f} bits per Gaussian"
    assert result.out[3].strip() == "Gaussians per stage: 2 1"
    table = [line.split() for line in result.out[5:]]
    chunks = air_file.info(air_bytes).chunks
    assert table == [[c.tag, str(c.offset), str(c.length), "ok"] for c in chunks]
    assert [row[0] for row in table] == ["AHDR", "ROWS", "ROWS", "AEND"]


def test_help_and_version(run):
    assert run("--help").status == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert run("--version").out == [f"airjax {project['version']}"]


def test_names_of_the_package_and_light_start():
    """`--help` needs no JAX, and `airjax.render` stays the function after its folder's modules were imported."""
    code = (
        "import sys, airjax, airjax.commands.main\n"
        "assert airjax.commands.main.main(['--help']) == airjax.commands.main.main(['--version']) == 0\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert set(airjax.__all__) <= set(dir(airjax))\n"
        "import airjax.raster.tiles\n"
        "from airjax import render\n"
        "import airjax.raster.draw\n"
        "assert airjax.render is render is sys.modules['airjax.raster.draw'].render\n"
        "assert not hasattr(airjax, 'nothing')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- several files ---------------------------------------------------------------------------------------------------


def test_bad_files_do_not_stop_the_others(run):
    """One line for each bad file, the good ones done, status 2."""
    Path("in").mkdir()
    whole = photo("in/a.png").read_bytes()
    Path("in/b.png").write_bytes(b"")
    Path("in/c.png").write_bytes(whole[: len(whole) // 2])
    Path("in/d.jpg").write_text("no image")
    Path("in/e.png").mkdir()
    Path("in/notes.txt").write_text("passed over")
    photo("in/z.png", seed=1)
    Path("empty").mkdir()
    long = "x" * 300 + ".png"
    result = run("encode", "missing.png", "in", "empty", long, "-o", "out")
    assert result.status == 2
    assert sorted(os.listdir("out")) == ["a.air", "z.air"]
    assert [line.split(" -> ")[0] for line in result.out] == ["in/a.png", "in/z.png"]
    assert len(result.err) == 6
    for name in ("missing.png", "in/b.png", "in/c.png", "in/d.jpg", "empty", long):
        (line,) = [line for line in result.err if line.startswith(f"airjax: {name}: ")]
        assert "expected" in line


def test_damaged_air_files(run, air_bytes):
    """A flipped bit, half a file, another format and no bytes: one line with the name, and the good file done."""
    flipped = bytearray(air_bytes)
    flipped[60] ^= 1
    bad = {"flipped.air": bytes(flipped), "half.air": air_bytes[:50], "other.air": b"\x89PNG", "none.air": b""}
    for name, data in {**bad, "good.air": air_bytes}.items():
        Path(name).write_bytes(data)
    result = run("decode", ".")
    assert result.status == 2
    assert sorted(os.listdir()) == sorted([*bad, "good.air", "good.png"])
    assert sorted(line.split(": ")[1] for line in result.err) == sorted(bad)

    looked = run("info", "flipped.air", "half.air")  # the table of a damaged file is shown all the same
    assert looked.status == 2
    assert [line.split() for line in looked.out if "WRONG" in line] == [["ROWS", "34", "72", "WRONG"]]
    assert [line.split(": ")[1] for line in looked.err] == ["flipped.air", "half.air"]
    assert "ROWS at byte 34" in looked.err[0]


def test_equal_stems_do_not_overwrite_each_other(run):
    """Whole names for the two that meet; the first of what still meets wins and the second is refused."""
    for folder in ("in", "other"):
        Path(folder).mkdir()
    photo("in/a.png"), photo("in/a.tiff", seed=1), photo("in/b.png", seed=2)
    result = run("encode", "in")
    assert result.status == 0
    assert sorted(os.listdir("in")) == ["a.png", "a.png.air", "a.tiff", "a.tiff.air", "b.air", "b.png"]
    assert len(result.err) == 2 and "in/a.png.air" in result.err[0] and "in/a.tiff.air" in result.err[1]
    contents = {Path(f"in/{name}").read_bytes() for name in ("a.png.air", "a.tiff.air", "b.air")}
    assert len(contents) == 3

    photo("other/b.png", seed=3)
    result = run("encode", "in/b.png", "other/b.png", "-o", "out", "--quiet")
    assert result.status == 2 and os.listdir("out") == ["b.png.air"]
    assert Path("out/b.png.air").read_bytes() == Path("in/b.air").read_bytes()
    assert len(result.err) == 1 and "other/b.png: not written to out/b.png.air" in result.err[0]


def test_output_folder(run, air_bytes):
    """An existing folder, one to be made (name ending in a slash, or several inputs), and a file's name."""
    for name in ("a.air", "b.air"):
        Path(name).write_bytes(air_bytes)
    Path("there").mkdir()
    assert run("decode", "a.air", "-o", "there").status == 0
    assert run("decode", "a.air", "-o", "made/").status == 0
    assert run("decode", "a.air", "b.air", "-o", "both").status == 0
    assert {name: os.listdir(name) for name in ("there", "made")} == {"there": ["a.png"], "made": ["a.png"]}
    assert sorted(os.listdir("both")) == ["a.png", "b.png"]
    before = listing()
    assert_refused(run("decode", "a.air", "b.air", "-o", "c.png"), before, "c.png", "expected a folder")
    assert_refused(run("decode", "a.air", "b.air", "-o", "a.air"), before, "a.air", "expected a folder")
    assert_refused(run("decode", "a.air", "b.air", "-o", "no/such"), before, "no/such", "folder cannot be made")


def test_progress_bar_on_terminals_only(run, air_bytes, monkeypatch):
    """Oracle: tqdm's own count. Not shown for one file, nor where stderr is a file."""
    for name in ("a.air", "b.air"):
        Path(name).write_bytes(air_bytes)
    assert run("info", ".").err == []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run("info", "a.air").err == []
    assert "2/2" in "".join(run("info", ".").err)


def test_refinement_shows_its_steps_on_terminals(run, monkeypatch):
    """And the picture that comes out is closer to the photograph than without."""
    photo("a.png")
    plain = run("encode", "a.png", "-o", "plain.air", "--lossless")
    assert run("encode", "a.png", "-o", "b.air", "--lossless", "--refine", 12).err == []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    refined = run("encode", "a.png", "-o", "c.air", "--lossless", "--refine", 12)
    assert "0/12" in "".join(refined.err)  # and on, at most ten times a second
    assert Path("b.air").read_bytes() == Path("c.air").read_bytes()
    before, after = (float(re.search(r"PSNR ([\d.]+) dB", done.out[0])[1]) for done in (plain, refined))
    assert after > before + 0.1


# --- what is there already -------------------------------------------------------------------------------------------


def test_nothing_of_the_user_is_replaced_without_force(run, air_bytes):
    """A photograph beside the .air file stays; a .air file is replaced by `encode`, a foreign one is not."""
    original = photo("photo.png").read_bytes()
    Path("photo.air").write_bytes(air_bytes)
    before = listing()
    assert_refused(run("decode", "photo.air"), before, "photo.png", "--force")
    assert run("decode", "photo.air", "--force").status == 0
    assert Path("photo.png").read_bytes() != original

    assert run("encode", "photo.png").status == 0
    assert Path("photo.air").read_bytes() != air_bytes
    Path("photo.air").write_text("a letter about air")
    assert_refused(run("encode", "photo.png"), listing(), "photo.air", "--force")
    assert run("encode", "photo.png", "--force").status == 0
    assert air_file.info(Path("photo.air").read_bytes()).image_size == SIZE


def test_an_input_is_never_replaced(run, air_bytes):
    """Not even with --force, nor through a link."""
    Path("real.png").write_bytes(air_bytes)
    os.symlink("real.png", "link.png")
    before = listing()
    for output in ("real.png", "link.png"):
        result = run("decode", "real.png", "--force", "-o", output)
        assert_refused(result, before, output, "an input of this run")


def test_outputs_that_cannot_be_files(run, air_bytes):
    photo("a.png")
    Path("a.air").write_bytes(air_bytes)
    Path("d.air").mkdir()
    os.symlink(os.devnull, "device.png")
    before = listing()
    assert_refused(run("encode", "a.png", "-o", "no/such/a.air"), before, "no/such/a.air", "existing folder")
    assert_refused(run("encode", "a.png", "-o", "a.air/b.air"), before, "a.air/b.air", "existing folder")
    assert_refused(run("encode", "a.png", "-o", "a.txt"), before, "a.txt", "ending in .air")
    assert_refused(run("decode", "a.air", "-o", "a.gif"), before, "a.gif", "ending in .png")
    assert_refused(run("decode", "a.air", "-o", "device.png", "--force"), before, "device.png", "expected a file")
    Path("d.png").write_bytes(Path("a.png").read_bytes())
    assert_refused(run("encode", "d.png"), listing(), "d.air", "expected a file")


@pytest.mark.parametrize(
    ("function", "number"), [("fsync", errno.ENOSPC), ("replace", errno.EACCES), ("fsync", errno.EIO)]
)
def test_failed_writes_leave_nothing(run, air_bytes, monkeypatch, function, number):
    """A full disk, a folder that may not be written, a broken disk; an older output survives."""
    photo("a.png"), photo("b.png", seed=1)
    Path("a.air").write_bytes(air_bytes)
    before = listing()
    monkeypatch.setattr(os, function, failing(OSError(number, os.strerror(number))))
    for command in (("encode", "a.png"), ("decode", "a.air", "-o", "c.png")):
        assert_refused(run(*command), before, "cannot be written", os.strerror(number))
    result = run("encode", "a.png", "b.png")
    assert len(result.err) == 2 and result.status == 2 and listing() == before


# --- options, weights, content ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--nothing"],
        ["encode"],
        ["recode", "a.png"],
        ["encode", "a.png", "--stages", "0"],
        ["encode", "a.png", "--stages", "1.5"],
        ["encode", "a.png", "--max-gaussians", "-1"],
        ["encode", "a.png", "--max-gaussians", "9" * 30],
        ["encode", "a.png", "--solve-steps", "1001"],
        ["encode", "a.png", "--refine", "-1"],
        ["encode", "a.png", "--mse-threshold", "nan"],
        ["encode", "a.png", "--ssim-threshold", "inf"],
        ["decode", "a.air", "--scale", "0"],
        ["decode", "a.air", "--scale", "-1"],
        ["decode", "a.air", "--scale", "nan"],
        ["decode", "a.air", "--scale", "1e300"],
        ["decode", "a.air", "--scale", "two"],
        ["decode", "a.air", "--stages", "0"],
        ["info"],
        ["info", "a.air", "--quiet"],
    ],
)
def test_bad_options(tmp_path, monkeypatch, capsys, arguments):
    """Refused by argparse, whose last line says which; nothing is read or written."""
    monkeypatch.chdir(tmp_path)
    photo("a.png")
    assert main.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.match(r"airjax( \w+)?: error: ", err.splitlines()[-1])
    assert os.listdir() == ["a.png"]


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


def test_decode_refuses_what_it_cannot_draw(run, air_bytes, monkeypatch):
    """Too many stages asked for, two colour channels, too many pixels, numbers that are not finite."""
    Path("a.air").write_bytes(air_bytes)
    content = air_file.decode(air_bytes)
    two = content.gaussians.with_colors(content.gaussians.colors[:, :2])
    Path("two.air").write_bytes(air_file.encode(air_file.Encoded(two, (2, 1), SIZE)))
    before = listing()
    assert_refused(run("decode", "a.air", "--stages", 3), before, "a.air", "at most 2", "got 3")
    assert_refused(run("decode", "two.air"), before, "two.air", "1 or 3 colour channels", "got 2")
    assert_refused(run("decode", "a.air", "--scale", 2000), before, "a.air", "48000x32000", "--scale")
    not_finite = SimpleNamespace(image=np.full((*SIZE, 3), np.nan, np.float32))
    monkeypatch.setattr(import_module("airjax.raster.draw"), "render", lambda *_, **__: not_finite)
    assert_refused(run("decode", "a.air"), before, "a.air", "NaN")


def test_result_beyond_the_format(run, monkeypatch):
    """What the .air file cannot hold is an error of that image, with its name."""
    photo("a.png")
    monkeypatch.setattr(air_file, "MAX_VALUE", 1e-6)
    assert_refused(run("encode", "a.png", "--lossless"), listing(), "a.png", "Gaussian 0")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory, 9 bytes")])
def test_short_memory(run, monkeypatch, error):
    """Python's error and XLA's: one line for each image."""
    photo("a.png"), photo("b.png")
    before = listing()
    monkeypatch.setattr("airjax.image.codec.compress.compress", failing(error))
    result = run("encode", "a.png", "b.png")
    assert result.status == 2 and listing() == before
    assert [line.split(": ")[1:] for line in result.err] == [
        [name, "not enough memory, expected a smaller image"] for name in ("a.png", "b.png")
    ]


def test_faults_of_the_program_are_not_hidden(run, monkeypatch):
    photo("a.png")
    monkeypatch.setattr("airjax.image.codec.compress.compress", failing(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        run("encode", "a.png")


def test_names_that_break_lines(run):
    """A line break in a name does not break the message."""
    assert_refused(run("info", "two\nlines.air"), {}, r"two\nlines.air")


# --- interruption and output -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["airjax.image.codec.compress.compress", "os.fsync"])
def test_interrupt(run, monkeypatch, where):
    """Ctrl-C while computing and while writing: one line, 130, no file of any name left behind."""
    photo("a.png"), photo("b.png")
    before = listing()
    monkeypatch.setattr(where, failing(KeyboardInterrupt))
    result = run("encode", "a.png", "b.png")
    assert result.status == 130 and len(result.err) == 1 and "interrupted" in result.err[0]
    assert listing() == before


# --- qualities and targets -------------------------------------------------------------------------------------------


def test_quality_is_that_of_the_library(run, weights):
    """Oracle: `compress`; a higher quality is a larger file."""
    photo("a.png")
    pixels, model, sizes = read_image("a.png").pixels, airjax.load(weights), []
    for quality in (0, 90):
        assert run("encode", "a.png", "-q", quality).status == 0
        data = Path("a.air").read_bytes()
        assert data == air_file.encode(compress.compress(model, pixels, quality=quality))
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
    """The nearest file is written all the same."""
    photo("a.png")
    result = run("encode", "a.png", option, target)
    assert result.status == 0 and Path("a.air").exists()
    assert len(result.err) == 1 and "out of reach" in result.err[0] and f"{target:g}" in result.err[0]


@pytest.mark.parametrize(
    "options", [("-q", 5, "--lossless"), ("--target-psnr", 30, "--target-bpp", 1), ("-q", 5, "--target-bpp", 1)]
)
def test_one_goal_at_a_time(run, options):
    photo("a.png")
    assert_refused(run("encode", "a.png", *options), listing(), "expected one of them")


def test_a_file_that_is_cut_short(run, weights):
    """Refused with a hint; with --partial the complete stages are drawn. Oracle: airjax.render of the first stage."""
    photo("a.png")
    assert run("encode", "a.png", "-q", 80).status == 0
    data = Path("a.air").read_bytes()
    second = air_file.info(data).chunks[2]
    Path("cut.air").write_bytes(data[: second.offset + second.length])
    assert_refused(run("decode", "cut.air"), listing(), "cut.air", "--partial")
    done = run("decode", "cut.air", "--partial")
    assert done.status == 0 and "in 1 stage" in done.out[0]
    first = air_file.truncate_stages(air_file.decode(data), 1)
    image = np.asarray(airjax.render(first.gaussians, image_size=SIZE).image)
    np.testing.assert_array_equal(np.asarray(Image.open("cut.png")), np.rint(np.clip(image, 0, 1) * 255))


def test_info_of_a_compact_file(run):
    """The parts add up to the whole."""
    photo("a.png")
    assert run("encode", "a.png", "-q", 80).status == 0
    lines = run("info", "a.air").out
    total = float(next(line for line in lines if "bits per Gaussian" in line).split(", ")[2].split()[0])
    parts = next(line for line in lines if "bits per Gaussian:" in line).split(": ")[1].split(", ")
    assert [part.rsplit(" ", 1)[0] for part in parts][-1] == "heads and chunks" and len(parts) == 8
    assert abs(sum(float(part.rsplit(" ", 1)[1]) for part in parts) - total) < 0.1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's device that is always full")
def test_real_program(tmp_path, weights, air_bytes):
    """Exit status and screen of real processes: a bad file beside a good one, a closed pipe, a full disk."""
    photo(tmp_path / "a.png")
    (tmp_path / "a.jpg").write_bytes(b"damaged")
    (tmp_path / "b.air").write_bytes(air_bytes)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)

    def program(*arguments, **keywords):
        command = [sys.executable, "-m", "airjax", *map(str, arguments)]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, **keywords)

    small = ("--weights", weights, "--stages", 1, "--solve-steps", 0)  # little to compile
    encode = program("encode", "a.jpg", "a.png", *small, stdout=subprocess.DEVNULL)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        closed = program("info", "b.air", stdout=pipe)
    with open("/dev/full", "w") as device:
        full = program("info", "b.air", stdout=device)
    errors = [process.communicate(timeout=120)[1] for process in (encode, closed, full)]
    assert [process.returncode for process in (encode, closed, full)] == [2, 141, 2]
    assert not any("Traceback" in text or "Exception ignored" in text for text in errors)
    assert errors[0].count("a.jpg: expected") == 1
    assert f"is kept in {tmp_path / 'cache' / 'airjax'}" in errors[0]
    assert errors[1] == ""
    assert len(errors[2].splitlines()) == 1 and os.strerror(errno.ENOSPC) in errors[2]
    assert air_file.info((tmp_path / "a.png.air").read_bytes()).image_size == SIZE
    assert any((tmp_path / "cache" / "airjax").iterdir())
