"""The files of a command: bad ones beside good ones, names of outputs, and that nothing of the user is replaced."""

import errno
import io
import logging
import os
import re
import struct
import sys
import threading
from argparse import Namespace
from pathlib import Path

import pytest
from command_line import SIZE, assert_refused, failing, listing, photo
from PIL import Image

from airjax.commands import outputs, session
from airjax.image.codec import air_file


def test_bad_files_do_not_stop_the_others(run):
    """One line for each bad file, the good ones done, status 2."""
    Path("in").mkdir()
    whole = photo("in/a.png").read_bytes()
    Path("in/b.png").write_bytes(b"")
    Path("in/c.png").write_bytes(whole[: len(whole) // 2])
    Path("in/d.jpg").write_text("no image")
    Path("in/e.png").mkdir()
    Path("in/notes.txt").write_text("passed over, as it is no picture")
    photo("in/z.png", seed=1)
    Path("empty").mkdir()
    long = "x" * 300 + ".png"
    result = run("encode", "missing.png", "in", "empty", long, "-o", "out", "--effort", 0)
    assert result.status == 2
    assert sorted(os.listdir("out")) == ["a.air", "z.air"]
    assert [line.split(" -> ")[0] for line in result.out] == ["in/a.png", "in/z.png"]
    assert len(result.err) == 7
    assert "airjax: in: folders inside passed over (e.png); name those that are to be read" in result.err
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


def test_a_folder_as_a_telephone_leaves_it(run):
    """What can be read is; of the other pictures there is a line for each kind, and one for the folders inside."""
    Path("in/sub").mkdir(parents=True)
    (Path("in") / ".hidden").mkdir()
    photo("in/a.png"), photo("in/b.gif"), photo("in/c.bmp"), photo("in/sub/f.png")
    Image.open("in/a.png").save("in/d.jfif", "JPEG")
    for name in ("e.HEIC", "f.heic", "g.dng", "h.json", "a.air", ".x.heic"):
        Path("in", name).write_bytes(b"anything")
    result = run("encode", "in", "-o", "out", "--effort", 0)
    assert result.status == 0 and sorted(os.listdir("out")) == ["a.air", "b.air", "c.air", "d.air"]
    assert result.err == [
        "airjax: in: 2 .heic files passed over, as this format cannot be read; convert to JPEG or PNG",
        "airjax: in: 1 .dng file passed over, as this format cannot be read; convert to JPEG or PNG",
        "airjax: in: folders inside passed over (sub); name those that are to be read",
    ]
    only = run("encode", "in/sub", "in/.hidden", "--quiet", "-o", "out2", "--effort", 0)
    assert only.status == 2 and len(only.err) == 1


def test_reading_and_writing_in_overlap(run, monkeypatch):
    """While one is worked on the next is read; results, notices and errors come in the order of the inputs."""
    Path("in").mkdir()
    photo("in/a.png"), photo("in/b.png", mode="L"), photo("in/d.png", seed=2)
    Path("in/c.png").write_bytes(b"damaged")
    events, lock = [], threading.Lock()

    def noted(name, function):
        def call(first, *rest, **options):
            with lock:
                events.append((name, Path(first).stem))
            return function(first, *rest, **options)

        return call

    monkeypatch.setattr(outputs, "read_bytes", noted("read", outputs.read_bytes))
    monkeypatch.setattr(outputs, "atomic_write_bytes", noted("write", outputs.atomic_write_bytes))
    lines = []
    monkeypatch.setattr(session, "_print", lambda line, error=False: lines.append(line))
    assert run("encode", "in", "-o", "out", "--effort", 0).status == 2
    told = [line for line in lines if "in/" in line]
    assert [re.findall(r"in/(.)", line)[0] for line in told] == ["a", "b", "b", "c", "d"]
    assert "grey" in told[1] and "in/c.png: expected" in told[3]
    assert [name for kind, name in events if kind == "read"] == ["a", "b", "c", "d"]
    assert [name for kind, name in events if kind == "write"] == ["a", "b", "d"]
    assert events.index(("read", "b")) < events.index(("write", "a"))


def test_names_come_back(run, air_bytes):
    """a.png.air becomes a.png, and only what would be written twice gets a longer name."""
    Path("in").mkdir()
    for name in ("a.png.air", "b.jpg.air", "b.air", "c.PNG.air"):
        Path("in", name).write_bytes(air_bytes)
    assert run("decode", "in", "-o", "out").status == 0
    assert sorted(os.listdir("out")) == ["a.png", "b.jpg.png", "b.png", "c.PNG"]


def test_standard_input_and_output(run, air_bytes, monkeypatch):
    """The same bytes as with files; what is said goes to stderr."""
    data = photo("a.png").read_bytes()
    assert run("encode", "a.png", "--effort", 0).status == 0
    assert run("decode", "a.air", "-o", "b.png").status == 0
    before = listing()

    def piped(*arguments, content):
        stdin, stdout = (io.TextIOWrapper(io.BytesIO(part)) for part in (content, b""))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stdin), patch.setattr(sys, "stdout", stdout)
            result = run(*arguments)
        assert result.out == [] and listing() == before
        return result, stdout.buffer.getvalue()

    result, encoded = piped("encode", "-", "--effort", 0, content=data)
    assert result.status == 0 and encoded == Path("a.air").read_bytes()
    assert len(result.err) == 1 and result.err[0].startswith("- -> -: 24x16")
    result, decoded = piped("decode", "-", "-o", "-", "--quiet", content=encoded)
    assert (result.status, result.err) == (0, []) and decoded == Path("b.png").read_bytes()
    assert piped("encode", "a.png", "-o", "-", "--effort", 0, content=b"")[1] == encoded
    result, text = piped("info", "-", content=encoded)
    assert result.status == 0 and text.startswith(b"-: 24x16")
    for words, arguments, content in (
        ("got 0 bytes", ("encode", "-"), b""),
        ("-: expected a PNG", ("encode", "-"), b"no picture"),
        ("standard input alone", ("encode", "-", "a.png"), data),
        ("expected one input", ("decode", "a.air", ".", "-o", "-"), b""),
        ("as standard input has none", ("encode", "-", "-o", "./"), data),
        ("expected a file's name (-o)", ("fit", "-"), data),
    ):
        result, written = piped(*arguments, content=content)
        assert (result.status, written, len(result.err)) == (2, b"", 1) and words in result.err[0]
    assert run("decode", "-", "-o", "c.jpg").status == 2  # pytest's own stdin cannot be read
    terminal = io.TextIOWrapper(io.BytesIO())
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    assert_refused(run("encode", "a.png", "-o", "-"), before, "got a terminal")


def test_the_wrong_command_says_the_right_one(run, air_bytes):
    photo("p.png")
    Path("a.air").write_bytes(air_bytes)
    before = listing()
    assert_refused(run("encode", "a.air"), before, "a.air: expected a PNG", "got a .air file; airjax decode draws it")
    for command in ("decode", "info"):
        assert_refused(run(command, "p.png"), before, "p.png: not a .air file", "airjax encode makes")


def test_what_pillow_logs_is_not_for_users(run, monkeypatch):
    """A TIFF file of more samples than Pillow takes: it logs an error, which would be a second line."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's, instead of which Python would print it
    ifd = {256: 1, 257: 1, 258: 8, 259: 1, 262: 2, 273: 200, 277: 9, 278: 1, 279: 9}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in ifd.items())
    Path("a.tif").write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(ifd)) + entries + bytes(100))
    assert_refused(run("encode", "a.tif"), listing(), "a.tif: expected")


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
    """A photograph beside the .air file stays, and so does a .air file, which may have taken long to make."""
    original = photo("photo.png").read_bytes()
    Path("photo.air").write_bytes(air_bytes)
    before = listing()
    assert_refused(run("decode", "photo.air"), before, "photo.png", "--force")
    assert run("decode", "photo.air", "--force").status == 0
    assert Path("photo.png").read_bytes() != original

    for command in ("encode", "fit"):
        assert_refused(run(command, "photo.png"), listing(), "photo.air", "exists already and is kept", "--force")
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
    for command in (("encode", "a.png", "--effort", 0, "--force"), ("decode", "a.air", "-o", "c.png")):
        assert_refused(run(*command), before, "cannot be written", os.strerror(number))
    result = run("encode", "a.png", "b.png", "--effort", 0, "--force")
    assert len(result.err) == 2 and result.status == 2 and listing() == before


def test_an_output_that_is_gone_again_is_in_nobodys_way(tmp_path):
    """Two names without a file are not the same file."""
    work = outputs.guarded(lambda source, target: None, [], Namespace(force=False))
    work(tmp_path / "a.png", tmp_path / "a.air")
    work(tmp_path / "b.png", tmp_path / "b.air")
