"""One run of the program: its screen, its clock, and JAX with a cache of compiled programs.

Results go to stdout, notices, errors and progress bars to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from airjax.files import display_name

if TYPE_CHECKING:
    from tqdm import tqdm


_CACHE_FOLDER = "jax_compilation_cache_dir"  # an option of JAX


class Fatal(Exception):
    """Aborts the whole run: the files still to come would fail in the same way. The message is the user's line."""


class Screen:
    """What the user sees: results on stdout, notices and errors on stderr, each at once and above the progress bar."""

    def __init__(self):
        self.quiet = False
        self.num_errors = self.num_shortfalls = 0
        self.output_is_taken = False  # stdout is a file that the command writes

    def result(self, line: str) -> None:
        if not self.quiet:
            _print(line, error=self.output_is_taken)

    def notice(self, line: str) -> None:
        if not self.quiet:
            _print(_one_line(line), error=True)

    def notices(self, source: str | os.PathLike, lines: Iterable[str]) -> None:
        for line in lines:
            self.notice(f"{display_name(source)}: {line}")

    def error(self, line: str) -> None:
        self.num_errors += 1
        _print(_one_line(line), error=True)

    def shortfall(self, line: str) -> None:
        """What was written is not what was asked for: said even with --quiet, and in the exit status."""
        self.num_shortfalls += 1
        _print(_one_line(line), error=True)


def progress_bar(
    screen: Screen, *, total: int, unit: str, desc: str | None = None, initial: int = 0, leave: bool = False
) -> tqdm:
    """A progress bar; hidden where nobody looks: --quiet, no terminal, a single step.

    `total`, `unit` and `initial` are the number of steps, what one is called, and how many an earlier run did; `desc`
    is the text before the bar, and `leave` whether it stays on the screen at its end.
    """
    from tqdm import tqdm

    hidden = screen.quiet or total < 2 or not sys.stderr.isatty()
    return tqdm(total=total, unit=unit, desc=desc, initial=initial, leave=leave, disable=hidden, file=sys.stderr)


class Bars:
    """A progress bar at a time, one for each stage; closed at the end of a `with` block.

    `units` tells what one step of each stage is called.
    """

    def __init__(self, screen: Screen, units: Mapping[str, str]):
        self._screen, self._units, self._stage = screen, units, ""
        self._bar: tqdm | None = None

    def show(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` in a stage, whose bar replaces that of another."""
        if self._bar is None or stage != self._stage:
            self._close()
            unit = self._units[stage]
            self._stage, self._bar = stage, progress_bar(self._screen, total=total, unit=unit, desc=stage)
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_) -> None:
        self._close()


class Clock:
    """Wall time of a `with` block, and how much of it XLA spent on compiling, in the thread that entered it; `str` of
    it is for the screen.
    """

    def __enter__(self) -> Clock:
        import jax

        self.compiling, self._thread = 0.0, threading.get_ident()
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        import jax

        self.seconds = time.perf_counter() - self._start
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and threading.get_ident() == self._thread:
            self.compiling += duration_secs

    def __str__(self) -> str:
        share = f" ({1000 * self.compiling:.0f} compiling)" if self.compiling > 0.1 * self.seconds else ""
        return f"{1000 * self.seconds:.0f} ms{share}"


@functools.cache  # once for a screen, which is once for a process
def start_jax(screen: Screen) -> None:
    """Turns the compilation cache on, and says that there may be something to wait for; only the first call does."""
    folder = enable_compilation_cache()
    where = "is done in every run (no cache folder can be written)" if folder is None else f"is kept in {folder}"
    screen.notice(f"the first image of a size takes longer: its programs are compiled, which {where}")


def enable_compilation_cache() -> Path | None:
    """Keeps compiled programs in the folder returned, $XDG_CACHE_HOME/airjax (default ~/.cache/airjax).

    JAX keeps them there for its compiler, and `airjax.programs` in a folder inside. A folder that the user has set
    (JAX_COMPILATION_CACHE_DIR) is left as it is; None where none can be made or written.
    """
    from airjax.programs import keep_programs

    folder = _cache_folder()
    keep_programs(None if folder is None else folder / "programs")
    return folder


def _cache_folder() -> Path | None:
    """The folder of JAX's cache, named to JAX where the user has not."""
    import jax

    if chosen := getattr(jax.config, _CACHE_FOLDER):
        return Path(chosen)
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "airjax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    jax.config.update(_CACHE_FOLDER, str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # even small programs load faster than that
    return folder


def discard_output() -> None:
    """Sends what Python still holds for stdout nowhere: writing it again when the program ends would fail again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(text: str) -> str:
    return "airjax: " + " ".join(text.splitlines())


def _print(line: str, *, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = line.encode(encoding, "backslashreplace").decode(encoding)  # names that the terminal cannot show
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)  # where nobody has imported it, there is no bar
    with tqdm.external_write_mode(file=stream) if tqdm else contextlib.nullcontext():
        print(line, file=stream, flush=True)
