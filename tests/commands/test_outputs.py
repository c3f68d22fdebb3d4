"""The files of a command: bad ones beside good ones, names of outputs, and that nothing of the user is replaced."""

import errno
import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from command_line import SIZE, assert_refused, failing, listing, photo

from airjax.commands import outputs
from airjax.image.codec import air_file


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
    result = run("encode", "missing.png", "in", "empty", long, "-o", "out", "--effort", 0)
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
    result = run("encode", "in", "--effort", 0)
    assert result.status == 0
    assert sorted(os.listdir("in")) == ["a.png", "a.png.air", "a.tiff", "a.tiff.air", "b.air", "b.png"]
    assert len(result.err) == 2 and "in/a.png.air" in result.err[0] and "in/a.tiff.air" in result.err[1]
    contents = {Path(f"in/{name}").read_bytes() for name in ("a.png.air", "a.tiff.air", "b.air")}
    assert len(contents) == 3

    photo("other/b.png", seed=3)
    result = run("encode", "in/b.png", "other/b.png", "-o", "out", "--effort", 0, "--quiet")
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


def test_nothing_of_the_user_is_replaced_without_force(run, air_bytes):
    """A photograph beside the .air file stays; a .air file is replaced by `encode`, a foreign one is not."""
    original = photo("photo.png").read_bytes()
    Path("photo.air").write_bytes(air_bytes)
    before = listing()
    assert_refused(run("decode", "photo.air"), before, "photo.png", "--force")
    assert run("decode", "photo.air", "--force").status == 0
    assert Path("photo.png").read_bytes() != original

    assert run("encode", "photo.png", "--effort", 0).status == 0
    assert Path("photo.air").read_bytes() != air_bytes
    Path("photo.air").write_text("a letter about air")
    assert_refused(run("encode", "photo.png"), listing(), "photo.air", "--force")
    assert run("encode", "photo.png", "--effort", 0, "--force").status == 0
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
    for command in (("encode", "a.png", "--effort", 0), ("decode", "a.air", "-o", "c.png")):
        assert_refused(run(*command), before, "cannot be written", os.strerror(number))
    result = run("encode", "a.png", "b.png", "--effort", 0)
    assert len(result.err) == 2 and result.status == 2 and listing() == before


def test_an_output_that_is_gone_again_is_in_nobodys_way(tmp_path):
    """Two names without a file are not the same file."""
    work = outputs.guarded(lambda source, target: None, [], Namespace(force=False))
    work(tmp_path / "a.png", tmp_path / "a.air")
    work(tmp_path / "b.png", tmp_path / "b.air")
