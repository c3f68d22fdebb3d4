"""Files: read and written whole or not at all, found in folders, named in messages."""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from airjax.errors import AirjaxError

WRITING = threading.Lock()  # held while a file is written: who ends the process waits for it


def read_bytes(path: str | os.PathLike) -> bytes:
    """The whole content of a regular, non-empty file; AirjaxError for any other."""
    check_regular(path)
    try:
        return Path(path).read_bytes()
    except (OSError, MemoryError) as error:
        raise AirjaxError(f"{display_name(path)}: cannot be read ({reason(error)})") from error


def atomic_write_bytes(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Writes a file of known content, see `atomic_write`."""
    atomic_write(path, lambda file: file.write(data))


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Lets `write` write a file under a temporary name in the same folder, then renames it.

    Nobody ever sees a part of it: when anything fails, or the program is interrupted, a file that was there
    before is untouched and the temporary one is gone. A link is followed, its target is what gets replaced.
    """
    name = display_name(path)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "a device or a pipe"
        raise AirjaxError(f"{name}: cannot be written, expected a file, got {kind}")
    temporary = target.with_name(f".airjax-{secrets.token_hex(8)}.tmp")
    try:
        with WRITING:
            try:
                with open(temporary, "xb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())  # a full disk or quota may only be noticed here
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise AirjaxError(f"{name}: cannot be written ({reason(error)})") from error


def find_images(paths: Iterable[str | os.PathLike], *, suffixes: Sequence[str]) -> list[Path]:
    """Replaces each folder by the files in it that end in one of `suffixes`, sorted by name; not recursive.

    Hidden files (names starting with a dot) are skipped. Anything that is not a folder is kept as it is, whatever
    its suffix and whether or not it exists, so that one bad name does not stop the others: reading it gives the
    error. A file named twice is kept once. AirjaxError for a folder that cannot be listed or holds no such file.
    """
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            files[path] = None
            continue
        try:
            inside = sorted(path.iterdir())
        except OSError as error:
            raise AirjaxError(f"{display_name(path)}: folder cannot be listed ({reason(error)})") from error
        wanted = [p for p in inside if p.suffix.lower() in suffixes and p.name[0] != "." and not p.is_dir()]
        if not wanted:
            raise AirjaxError(f"{display_name(path)}: expected a folder with {', '.join(suffixes)} files, got none")
        files.update(dict.fromkeys(wanted))
    return list(files)


def passed_over(path: str | os.PathLike, *, suffixes: Sequence[str]) -> list[str]:
    """What `find_images` does not take from a folder, in words: files that end in one of these, and folders."""
    if not os.path.isdir(path):
        return []
    try:
        inside = [entry for entry in Path(path).iterdir() if entry.name[0] != "."]
    except OSError:
        return []  # `find_images` says so
    folders = sorted(display_name(entry.name) for entry in inside if entry.is_dir())
    counts = Counter(entry.suffix.lower() for entry in inside if not entry.is_dir())
    lines = [
        f"{counts[suffix]} {suffix} {'file' if counts[suffix] == 1 else 'files'} passed over, as this format cannot be "
        "read; convert to JPEG or PNG"
        for suffix in suffixes
        if counts[suffix]
    ]
    if folders:
        some = ", ".join(folders[:4]) + (", .." if len(folders) > 4 else "")
        lines.append(f"folders inside passed over ({some}); name those that are to be read")
    return lines


def display_name(path: str | os.PathLike) -> str:
    """A path as it may appear in a one-line message: quoted and escaped when unprintable."""
    text = os.fspath(path)
    return text if isinstance(text, str) and text.isprintable() else repr(text)


def reason(error: BaseException) -> str:
    """An error in a few words, on one line, without the path that OSError repeats."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def check_regular(path: str | os.PathLike) -> None:
    """Raises AirjaxError for a missing or empty file and for anything else than a file: a pipe would hang."""
    name = display_name(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise AirjaxError(f"{name}: cannot be read ({reason(error)}), expected a file") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise AirjaxError(f"{name}: expected a file, got {kind}")
    if status.st_size == 0:
        raise AirjaxError(f"{name}: expected a file with content, got 0 bytes")
