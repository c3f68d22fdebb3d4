"""The program as a whole: help without JAX, options, and real processes."""

import argparse
import errno
import inspect
import os
import re
import subprocess
import sys

import pytest
from command_line import ROOT, SIZE, photo

from airjax.commands import encode, fit, main, render
from airjax.image.codec import air_file
from airjax.image.codec.compress import CompressOptions
from airjax.image.fit import FitConfig, finished
from airjax.image.model import Model
from airjax.scene.project import PRESETS


def test_help(run):
    assert run("--help").status == 0


def test_names_of_the_package_and_light_start():
    """Help needs no JAX, and `airjax.render` stays the function after its folder's modules were imported.

    Nor does any use of the package need what trains.
    """
    code = (
        "import sys, airjax\n"
        "from airjax.commands.main import COMMANDS, main\n"
        "assert main(['--help']) == 0\n"
        "assert all(main([command, '--help']) == 0 for command in COMMANDS)\n"
        "assert not {'jax', 'numpy', 'tqdm'} & set(sys.modules)\n"
        "assert set(airjax.__all__) <= set(dir(airjax))\n"
        "import airjax.raster.tiles\n"
        "from airjax import render\n"
        "import airjax.raster.draw\n"
        "assert airjax.render is render is sys.modules['airjax.raster.draw'].render\n"
        "assert not hasattr(airjax, 'nothing')\n"
        "assert all(hasattr(airjax, name) for name in airjax.__all__)\n"
        "assert not {'orbax', 'tensorstore', 'grain'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_defaults_are_those_of_the_library(run):
    """In what is computed and in what help says."""

    def defaults(command):
        parser = argparse.ArgumentParser(prog="airjax")
        command.add_arguments(parser)
        return parser.parse_args(["x"]), " ".join(parser.format_help().split())

    options, text = defaults(encode)
    library = CompressOptions()
    assert (options.solve_steps, options.refine) == (library.solve_steps, library.refine_steps)
    assert f"0 (smallest file) to 100 (default: {library.quality:g})" in text
    exact = {name: p.default for name, p in inspect.signature(Model.encode).parameters.items()}
    assert f"with --exact-gaussians {exact['mse_threshold']:g}, 40 dB)" in text
    assert f"with --exact-gaussians {exact['ssim_threshold']:g})" in text
    options, text = defaults(fit)
    library = FitConfig()
    assert (options.gaussians, options.steps) == (library.num_gaussians, library.num_steps)
    assert (options.start, options.form.replace("-", "_")) == (library.start, library.form)
    assert options.solve_steps == inspect.signature(finished).parameters["solve_steps"].default
    assert f"steps of Adam (default: {library.num_steps})" in text
    options, text = defaults(render)
    assert tuple(PRESETS) == render.PRESETS and options.preset == render.PRESETS[0]
    assert f"{render.FRAMES} for a circle" in text


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

    small = ("--weights", weights, "--stages", 1, "--solve-steps", 0, "--effort", 0)  # little to compile
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
