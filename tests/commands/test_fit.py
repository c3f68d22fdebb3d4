"""`airjax fit`: what it writes, what it says, how it is stopped and goes on.

Oracles: the library called directly, PSNR by its definition from 8-bit files, and for the interruption the file of a
run that was left alone.
"""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from airjax.commands import fit as fitting
from airjax.image import fit
from airjax.image.codec import air_file
from airjax.image.fit_file import load_fit
from airjax.photographs import read_image

pytestmark = pytest.mark.slow

SIZE = (32, 40)
SHORT = ("--gaussians", 40, "--steps", 40)
PARTIAL = Path("photo.air.partial")


@pytest.fixture
def run(run):
    """`run` of all commands with one photograph in the folder, and `fit` unless another command is named."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = np.stack([100 + 100 * (np.hypot(x - 25, y - 15) < 8), 3 * x, 5 * y], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save("photo.png")
    return lambda *arguments, command="fit": run(command, *arguments)


def interrupt_at(monkeypatch, call: int) -> None:
    """Ctrl-C in the given call of `advance`, counted from 1; later calls work again."""
    original, calls = fit.advance, []

    def advance(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(fit, "advance", advance)


def test_fit_and_decode(run):
    """Oracles: the library's fit; PSNR by definition from the two 8-bit files."""
    done = run("photo.png", *SHORT, "--seed", 5)
    assert done.status == 0 and done.err == []
    data = Path("photo.air").read_bytes()
    image = read_image("photo.png").pixels
    *_, last = fit.fit_states(image, fit.FitConfig(num_gaussians=40, num_steps=40), seed=5)
    assert data == air_file.encode(fit.finished(last, image))
    assert not PARTIAL.exists()
    info = air_file.info(data)
    assert info.profile.startswith("lossless") and info.stage_counts == (40,) and info.image_size == SIZE

    assert run("photo.air", "-o", "again.png", command="decode").status == 0
    a, b = (np.asarray(Image.open(name), np.float64) for name in ("photo.png", "again.png"))
    psnr = 10 * np.log10(255**2 / np.mean((a - b) ** 2))
    (line,) = done.out
    bpp = 8 * len(data) / (SIZE[0] * SIZE[1])
    start = f"photo.png -> photo.air: 40x32, 40 Gaussians in 1 stage, {len(data)} bytes, {bpp:.3f} bpp, "
    assert line.startswith(start)
    assert float(re.search(r", \d+ ms.*, PSNR ([\d.]+) dB$", line)[1]) == pytest.approx(psnr, abs=0.011)
    assert psnr > 25


def test_options_reach_the_fit(run, monkeypatch):
    """Each as the configuration that the library gets; the loop itself is left out."""
    seen = []

    def states(image, config, *, seed, resume=None):
        seen.append((config, seed))
        raise fitting.AirjaxError("enough")

    monkeypatch.setattr(fit, "fit_states", states)
    assert run("photo.png").status == 2
    assert run("photo.png", *SHORT, "--start", "random", "--form", "cholesky", "--seed", 7).status == 2
    assert seen == [
        (fit.FitConfig(10_000, 2_000, "content", "scale_rotation", 4), 0),
        (fit.FitConfig(40, 40, "random", "cholesky", 0), 7),
    ]


def test_other_start_and_form(run):
    done = run("photo.png", *SHORT, "--start", "random", "--form", "cholesky", "--solve-steps", 0, "-o", "x.air")
    assert done.status == 0 and done.err == []
    image = read_image("photo.png").pixels
    config = fit.FitConfig(40, 40, "random", "cholesky", 0)
    *_, last = fit.fit_states(image, config, seed=0)
    assert Path("x.air").read_bytes() == air_file.encode(fit.finished(last, image, solve_steps=0))


def test_target_stops_early(run, monkeypatch):
    """At the first of the looks, every 20 steps, at which the 8-bit image is good enough; the notice if none is."""
    steps = []
    original = fit.finished
    monkeypatch.setattr(fit, "finished", lambda state, *a, **k: steps.append(state.step) or original(state, *a, **k))
    assert run("photo.png", *SHORT, "--target-psnr", 15).err == []
    assert steps == [20]
    done = run("photo.png", *SHORT, "--target-psnr", 60, "--quiet", "--force")
    assert done.status == 3 and done.out == [] and steps == [20, 40]
    (line,) = done.err
    assert "a target of 60 dB is out of reach in 40 steps" in line


@pytest.mark.parametrize("form", ["scale-rotation", "cholesky"])
def test_interrupt_and_go_on(run, monkeypatch, form):
    """One line and status 130; the same command goes on and writes the file of a run that was left alone."""
    options = ("photo.png", *SHORT, "--form", form)
    assert run(*options, "-o", "whole.air").status == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        stopped = run(*options)
    assert stopped.status == 130 and stopped.out == [] and len(stopped.err) == 1
    assert "interrupted after step 20 of 40" in stopped.err[0] and str(PARTIAL) in stopped.err[0]
    assert load_fit(PARTIAL)[0].step == 20 and not Path("photo.air").exists()
    done = run(*options)
    assert done.status == 0 and done.err == [f"airjax: {PARTIAL}: goes on after step 20"]
    assert Path("photo.air").read_bytes() == Path("whole.air").read_bytes()
    assert sorted(map(str, Path().iterdir())) == ["photo.air", "photo.png", "whole.air"]


def test_interrupt_in_the_last_moment(run, monkeypatch):
    """While the colours are solved: all steps are kept, none is done again."""
    with monkeypatch.context() as patch:
        patch.setattr(fit, "solve", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped = run("photo.png", *SHORT, "--start", "random")
    assert stopped.status == 130 and "after step 40 of 40" in stopped.err[0]
    monkeypatch.setattr(fit, "advance", None)
    assert run("photo.png", *SHORT, "--start", "random").status == 0
    assert Path("photo.air").exists() and not PARTIAL.exists()


def test_interrupt_before_the_first_state(run, monkeypatch):
    interrupt_at(monkeypatch, 1)
    stopped = run("photo.png", *SHORT)
    assert stopped.status == 130 and len(stopped.err) == 1 and "interrupted" in stopped.err[0]
    assert list(Path().iterdir()) == [Path("photo.png")]


def test_the_state_is_kept_on_the_way(run, monkeypatch):
    """As for a process that is killed: what was saved last is what the next run finds."""
    monkeypatch.setattr(fitting, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(fit, "finished", lambda *_, **__: (_ for _ in ()).throw(fitting.AirjaxError("no more")))
    failed = run("photo.png", *SHORT)
    assert failed.status == 2 and failed.err == ["airjax: photo.png: no more"]
    assert load_fit(PARTIAL)[0].step == 40


def test_goes_on_with_another_target(run, monkeypatch):
    """A finished state that already reaches it takes no further step."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        run("photo.png", *SHORT)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        assert run("photo.png", *SHORT, "--target-psnr", 10, "--solve-steps", 0).status == 0
    assert not PARTIAL.exists()


def test_states_of_other_commands_are_kept(run, monkeypatch):
    """One line and status 2, the state as it was; --force starts anew."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        run("photo.png", *SHORT)
    kept = PARTIAL.read_bytes()
    for changes, words in (
        (("--seed", 1), "seed 0 instead of 1"),
        (("--gaussians", 41), "num_gaussians 40 instead of 41"),
        (("--start", "random"), "start content instead of random"),
    ):
        result = run("photo.png", *SHORT, *changes)
        assert result.status == 2 and len(result.err) == 1
        assert words in result.err[0] and str(PARTIAL) in result.err[0] and "--force" in result.err[0]
        assert PARTIAL.read_bytes() == kept and not Path("photo.air").exists()
    Image.open("photo.png").transpose(Image.Transpose.ROTATE_180).save("other.png")
    assert "another image" in run("other.png", *SHORT, "-o", "photo.air").err[0]
    assert run("photo.png", *SHORT, "--seed", 1, "--force").status == 0
    assert Path("photo.air").exists() and not PARTIAL.exists()


def test_the_same_command_goes_on_with_force_too(run, monkeypatch):
    """As it may have been given from the start, to replace an output; a damaged state is passed over."""
    Path("photo.air").write_bytes(b"mine")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert run("photo.png", *SHORT, "--force").status == 130
    kept = PARTIAL.read_bytes()
    done = run("photo.png", *SHORT, "--force")
    assert done.status == 0 and done.err == [f"airjax: {PARTIAL}: goes on after step 20"]
    whole = Path("photo.air").read_bytes()
    PARTIAL.write_bytes(kept[:-1])
    done = run("photo.png", *SHORT, "--force")
    assert done.status == 0 and done.err == [] and not PARTIAL.exists()
    assert Path("photo.air").read_bytes() == whole


def test_a_state_that_cannot_be_kept_does_not_end_the_fit(run, monkeypatch):
    """One line each time, and the file all the same; when interrupted, the reason."""
    monkeypatch.setattr(fitting, "SAVE_SECONDS", 0.0)
    PARTIAL.mkdir()
    assert "--force" in run("photo.png", *SHORT).err[0]
    done = run("photo.png", *SHORT, "--force")
    assert done.status == 0 and len(done.err) == 4 and Path("photo.air").exists() and PARTIAL.is_dir()
    assert all(str(PARTIAL) in line and "the fit goes on" in line for line in done.err)
    Path("other.png").write_bytes(Path("photo.png").read_bytes())
    interrupt_at(monkeypatch, 3)
    stopped = run("photo.png", "other.png", *SHORT, "--force", "-o", ".")
    assert stopped.status == 130 and not Path("other.air").exists()
    assert str(PARTIAL) in stopped.err[-1] and "the state is lost" in stopped.err[-1]


def test_a_foreign_partial_is_kept(run):
    PARTIAL.write_bytes(b"notes of the user")
    result = run("photo.png", *SHORT)
    assert result.status == 2 and len(result.err) == 1
    assert str(PARTIAL) in result.err[0] and "--force" in result.err[0]
    assert PARTIAL.read_bytes() == b"notes of the user"


def test_nothing_of_the_user_is_replaced(run):
    Path("photo.air").write_bytes(b"mine")
    result = run("photo.png", *SHORT)
    assert result.status == 2 and "exists already" in result.err[0]
    assert Path("photo.air").read_bytes() == b"mine"


def test_bad_images_do_not_stop_the_others(run):
    Path("bad.png").write_bytes(b"no image")
    result = run("missing.png", "bad.png", "photo.png", *SHORT)
    assert result.status == 2 and len(result.err) == 2
    assert "missing.png" in result.err[0] and "bad.png" in result.err[1]
    assert Path("photo.air").exists()


def test_progress_bar_on_terminals_only(run, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = "".join(run("photo.png", *SHORT).err)
    assert "/40" in shown and "dB" in shown
    assert run("photo.png", *SHORT, "--quiet", "--force").err == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--gaussians", "0"],
        ["--steps", "0"],
        ["--steps", "many"],
        ["--start", "nowhere"],
        ["--form", "lu"],
        ["--solve-steps", "-1"],
        ["--target-psnr", "nan"],
        ["--seed", "-1"],
    ],
)
def test_bad_options(run, arguments):
    result = run("photo.png", *arguments)
    assert result.status == 2 and result.out == []
    assert re.match(r"airjax fit: error: argument ", result.err[-1])
    assert list(Path().iterdir()) == [Path("photo.png")]
