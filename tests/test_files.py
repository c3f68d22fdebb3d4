"""Files: read whole, written whole or not at all, found in folders; one line for every failure."""

import os

import pytest
from messages import one_line

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, find_images, read_bytes
from airjax.photographs import IMAGE_SUFFIXES


def written(path, data: bytes):
    path.write_bytes(data)
    return path


# --- reading ------------------------------------------------------------------------------------------------


def test_read_bytes(tmp_path):
    assert read_bytes(written(tmp_path / "a.air", b"\x00\r\n\xff")) == b"\x00\r\n\xff"


def test_unreadable_paths(tmp_path, monkeypatch):
    """Each message names the file and what was expected."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    cases = {"missing": "No such file", "folder": "got a folder", "empty": "got 0 bytes"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        cases["pipe"] = "got a device or a pipe"
    for name, words in cases.items():
        with pytest.raises(AirjaxError) as error:
            read_bytes(tmp_path / name)
        assert words in one_line(error, tmp_path / name) and "expected" in str(error.value)
    path = written(tmp_path / "a", b"x")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    # Replaced rather than chmod-ed: root, as in many containers, may read everything.
    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(AirjaxError) as error:
        read_bytes(path)
    assert one_line(error, path).startswith("cannot be read (Permission denied)")


# --- writing ------------------------------------------------------------------------------------------------


def test_atomic_write(tmp_path):
    """New, replaced, and through a link, whose target is what changes."""
    path = tmp_path / "a.air"
    atomic_write_bytes(path, b"one")
    assert path.read_bytes() == b"one"
    (tmp_path / "link").symlink_to(path)
    atomic_write_bytes(tmp_path / "link", memoryview(b"two"))
    assert path.read_bytes() == b"two" and (tmp_path / "link").is_symlink()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert sorted(os.listdir(tmp_path)) == ["a.air", "link"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, function, raised):
    """Whatever fails and when: the old content, no temporary file, one line."""
    path = written(tmp_path / "a.air", b"old")

    def fail(*args):
        raise raised

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(AirjaxError) as error:
        atomic_write_bytes(path, b"new")
    assert one_line(error, path) == f"cannot be written ({raised.strerror})"
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.air"]


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    """Ctrl-C goes through, but cleans up on its way."""
    path = written(tmp_path / "a.air", b"old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.air"]


def test_unwritable_targets(tmp_path):
    """A missing folder, a file in place of a folder, a folder as the target, and a pipe."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    cases = {"missing/a.air": "No such file", "file/a.air": "Not a directory", "folder": "got a folder"}
    for name, words in cases.items():
        with pytest.raises(AirjaxError) as error:
            atomic_write_bytes(tmp_path / name, b"x")
        assert words in one_line(error, tmp_path / name)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(AirjaxError, match="got a device or a pipe"):
            atomic_write_bytes(tmp_path / "pipe", b"x")
        assert not (tmp_path / "pipe").is_file()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


# --- finding images -----------------------------------------------------------------------------------------


def test_find_images(tmp_path):
    """Oracle: a list by hand: sorted, known suffixes, not hidden, not recursive, each once."""
    for name in ("b.PNG", "a.jpg", "c.webp", "notes.txt", ".hidden.png", "noend", "d.air"):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "sub.png" / "deep.png").touch()
    folder = [tmp_path / name for name in ("a.jpg", "b.PNG", "c.webp")]
    assert find_images([tmp_path], suffixes=IMAGE_SUFFIXES) == folder
    missing = tmp_path / "missing.png"
    assert find_images([str(tmp_path / "notes.txt"), missing, folder[2], tmp_path], suffixes=IMAGE_SUFFIXES) == [
        tmp_path / "notes.txt",
        missing,
        folder[2],
        *folder[:2],
    ]
    assert find_images([tmp_path], suffixes=(".air",)) == [tmp_path / "d.air"]
    assert find_images([], suffixes=IMAGE_SUFFIXES) == []


def test_find_images_in_bad_folders(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(AirjaxError) as error:
        find_images([tmp_path], suffixes=IMAGE_SUFFIXES)
    assert one_line(error, tmp_path).startswith("expected a folder with .png, ")

    def denied(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", denied)
    with pytest.raises(AirjaxError) as error:
        find_images([tmp_path], suffixes=IMAGE_SUFFIXES)
    assert one_line(error, tmp_path) == "folder cannot be listed (Permission denied)"
