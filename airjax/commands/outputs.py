"""The files of a command: which it reads, which it writes, and that it replaces none that it must not.

What is written never replaces an input or an output of the same run; another file that is there already is replaced
with --force only. `-` is standard input or output.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from airjax.commands.session import Clock, Screen, progress_bar
from airjax.errors import AirjaxError, FormatError
from airjax.files import atomic_write_bytes, display_name, find_images, passed_over, read_bytes, reason

if TYPE_CHECKING:
    import numpy as np

    from airjax.gaussians import Gaussians2D
    from airjax.image.codec.air_file import Encoded

STANDARD = Path("-")  # standard input or output

Work = Callable[[Path, Path], None]  # of a source and its target


class Read(NamedTuple):
    """The content of an input, and what a user should know of how it was read."""

    content: Any
    notices: tuple[str, ...] = ()


def convert(
    read: Callable[[Path], Read],
    work: Callable[[Path, Path, Any], Callable[[], None]],
    options: argparse.Namespace,
    screen: Screen,
    *,
    reads: Sequence[str],
    writes: Sequence[str],
    others: Sequence[str] = (),
) -> None:
    """All inputs of a command: `read(source)`, `work(source, target, content)`, and what that returns, which writes.

    While one is worked on, the next is read and the one before is written; what is said keeps the order of the inputs,
    and each that fails is one error line. `reads` are the suffixes of inputs in folders, `writes` those that an output
    may have, the default first; `others` are those of files in folders whose being passed over is said. An output that
    cannot serve these inputs is an AirjaxError.
    """
    sources = expand(options.inputs, reads, screen, others=others)
    jobs = plan(sources, options, writes, screen)
    guard = Guard(sources, options)
    screen.output_is_taken = any(target == STANDARD for _, target in jobs)
    with (
        progress_bar(screen, total=len(jobs), unit="file", leave=True) as bar,
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
    ):

        def computed(source: Path, target: Path, found: Future[Read]) -> Callable[[], None]:
            content, notices = found.result()
            writer.submit(screen.notices, source, notices)
            guard.check(source, target)
            return partial(guard.write, source, target, work(source, target, content))

        def finish(source: Path, write: Callable[[], None]) -> None:
            with reported(source, screen):
                write()
            bar.update()

        coming = [reader.submit(read, source) for source in sources[:1]]
        writing: list[Future[None]] = []
        for (source, target), following in zip(jobs, [*sources[1:], None], strict=True):
            found = coming.pop()
            if following is not None:
                coming.append(reader.submit(read, following))
            try:
                write = computed(source, target, found)
            except (AirjaxError, MemoryError, RuntimeError) as error:
                write = partial(_raise, error)
            while writing:  # one at a time
                writing.pop().result()
            writing.append(writer.submit(finish, source, write))
        while writing:
            writing.pop().result()


def _raise(error: Exception) -> None:
    raise error


def expand(inputs: Iterable[str], suffixes: Sequence[str], screen: Screen, *, others: Sequence[str] = ()) -> list[Path]:
    """The files named, those of folders included, each once; a folder that gives none is one error line.

    What is passed over in folders is said: those within, and files that end in one of `others`.
    """
    files: dict[Path, None] = {}
    for name in inputs:
        try:
            screen.notices(name, passed_over(name, suffixes=others))
            files.update(dict.fromkeys(find_images([name], suffixes=suffixes)))
        except AirjaxError as error:
            screen.error(str(error))
        except OSError as error:
            screen.error(f"{display_name(name)}: cannot be read ({reason(error)}), expected a file or a folder")
    if STANDARD in files and len(files) > 1:
        raise AirjaxError("-: expected standard input alone, got other files beside it")
    return list(files)


def plan(
    sources: list[Path], options: argparse.Namespace, suffixes: Sequence[str], screen: Screen
) -> list[tuple[Path, Path]]:
    """(source, target) for every source: beside it, or in or at `--output`; an AirjaxError where that cannot serve.

    `suffixes` are those that a target may have, the default first. Sources whose targets would be the same file keep
    their whole names: a.jpg and a.png become a.jpg.air and a.png.air; back, a.png.air becomes a.png.
    """
    several = len(sources) > 1 or any(os.path.isdir(name) for name in options.inputs)
    output = options.output
    if output == str(STANDARD) or (output is None and sources == [STANDARD]):
        if several:
            raise AirjaxError("-: expected one input, whose output standard output can hold, got several")
        if sys.stdout.isatty():
            raise AirjaxError("-: expected standard output to go to a file or a program (> FILE), got a terminal")
        return [(source, STANDARD) for source in sources]
    if output is not None and not (several or os.path.isdir(output) or output.endswith(("/", os.sep))):
        if Path(output).suffix.lower() not in suffixes:
            raise AirjaxError(f"{display_name(output)}: expected a name ending in {', '.join(suffixes)}")
        return [(source, Path(output)) for source in sources]
    if STANDARD in sources:
        raise AirjaxError(f"{display_name(output)}: expected a file's name, as standard input has none, got a folder")
    if output is not None and sources:
        _make_folder(output, suffixes)
    folders = [source.parent if output is None else Path(output) for source in sources]
    targets = [folder / _renamed(source, suffixes[0]) for folder, source in zip(folders, sources, strict=True)]
    counts = Counter(targets)
    for i, source in enumerate(sources):
        if counts[targets[i]] > 1:
            whole = targets[i].with_name(source.name + suffixes[0])
            screen.notice(
                f"{display_name(source)}: another input would be written to {display_name(targets[i])} too; "
                f"this one goes to {display_name(whole)}"
            )
            targets[i] = whole
    return list(zip(sources, targets, strict=True))


def _renamed(source: Path, suffix: str) -> str:
    """The name of an output: a.air for a.png, a.png for a.air and for a.png.air."""
    return source.stem if Path(source.stem).suffix.lower() == suffix else source.stem + suffix


def _make_folder(output: str, suffixes: Sequence[str]) -> None:
    """The folder `--output`, made if only its last part is missing."""
    name = display_name(output)
    if os.path.isdir(output):
        return
    if os.path.lexists(output) or Path(output).suffix.lower() in suffixes:
        raise AirjaxError(f"{name}: expected a folder for the outputs of several files, got a file's name")
    try:
        os.mkdir(output)
    except OSError as error:
        raise AirjaxError(f"{name}: folder cannot be made ({reason(error)})") from error


class Guard:
    """Which targets of a run may be written: not its inputs nor its earlier outputs, and none that is not free."""

    def __init__(self, sources: Iterable[Path], options: argparse.Namespace):
        self._options = options
        self._taken = dict.fromkeys(map(_identity, sources), "an input")
        self._taken.pop(None, None)  # a name without a file is nobody's

    def check(self, source: Path, target: Path) -> None:
        """Raises AirjaxError for a target that may not."""
        if target == STANDARD:
            return
        name = display_name(target)
        if not os.path.isdir(target.parent):
            folder = display_name(target.parent)
            raise AirjaxError(f"{name}: cannot be written, expected an existing folder {folder}")
        if (owner := self._taken.get(_identity(target))) is not None:
            raise AirjaxError(f"{display_name(source)}: not written to {name}, which is {owner} of this run")
        check_free(target, self._options)

    def write(self, source: Path, target: Path, write: Callable[[], None]) -> None:
        """`write()`, after `check`."""
        self.check(source, target)
        write()
        if (identity := _identity(target)) is not None:
            self._taken[identity] = "an output"


def guarded(work: Work, sources: Iterable[Path], options: argparse.Namespace) -> Work:
    """`work`, after a check that its target may be written, see `Guard`."""
    guard = Guard(sources, options)
    return lambda source, target: guard.write(source, target, partial(work, source, target))


def check_free(target: Path, options: argparse.Namespace) -> None:
    """Raises AirjaxError where something else than a file is, or, without --force, a file."""
    name = display_name(target)
    if not os.path.exists(target):
        return
    if not os.path.isfile(target):
        raise AirjaxError(f"{name}: cannot be written, expected a file, got a folder or a device")
    if not options.force:
        raise AirjaxError(f"{name}: exists already and is kept, expected a new name (-o) or --force to replace it")


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common: links, and capital letters where the disk ignores them."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def each(jobs: Sequence[tuple[Path, ...]], work: Callable[..., None], screen: Screen) -> None:
    """`work(*job)` for every job; one that fails is one line with the name of its source, the first of the job."""
    with progress_bar(screen, total=len(jobs), unit="file", leave=True) as progress:
        for job in jobs:
            with reported(job[0], screen):
                work(*job)
            progress.update()


@contextlib.contextmanager
def reported(source: Path, screen: Screen) -> Iterator[None]:
    """An error of one file is one line with its name."""
    try:
        yield
    except FormatError as error:  # knows the bytes, not the name
        screen.error(f"{display_name(source)}: {error}")
    except AirjaxError as error:
        screen.error(str(error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise  # XLA reports that memory is short by a RuntimeError of these words
        screen.error(f"{display_name(source)}: not enough memory for an image of this size; make it smaller")


@contextlib.contextmanager
def named(source: Path) -> Iterator[None]:
    """Puts the name of a file before the message of an AirjaxError that comes from its content."""
    try:
        yield
    except AirjaxError as error:
        raise AirjaxError(f"{display_name(source)}: {error}") from error


def read_input(source: Path) -> bytes:
    """The content of a file, or of standard input."""
    if source != STANDARD:
        return read_bytes(source)
    if not (data := sys.stdin.buffer.read()):
        raise AirjaxError("-: expected a file on standard input, got 0 bytes")
    return data


def write_output(target: Path, data: bytes | memoryview) -> None:
    """A file that appears whole or not at all, or standard output."""
    if target != STANDARD:
        return atomic_write_bytes(target, data)
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def read_photograph(source: Path) -> Read:
    """(h, w, 3) pixels in [0, 1], and what was done to them on the way in."""
    from airjax.image.codec.chunks import SIGNATURE
    from airjax.photographs import READABLE, parse_image

    data = read_input(source)
    if data.startswith(SIGNATURE):
        raise AirjaxError(f"{display_name(source)}: expected {READABLE}, got a .air file; airjax decode draws it")
    image = parse_image(data, name=display_name(source))
    return Read(image.pixels, image.notices)


def content(image_size: tuple[int, int], stage_counts: tuple[int, ...]) -> str:
    """Size and number of Gaussians in words."""
    stages = "1 stage" if len(stage_counts) == 1 else f"{len(stage_counts)} stages"
    return f"{image_size[1]}x{image_size[0]}, {sum(stage_counts)} Gaussians in {stages}"


def psnr_of(gaussians: Gaussians2D, pixels: np.ndarray) -> float:
    """PSNR in dB of the 8-bit image that decoding gives."""
    from airjax.metrics import psnr_8bit
    from airjax.raster.draw import render

    return psnr_8bit(pixels, render(gaussians, image_size=pixels.shape[:2]).image)


def air_file_line(source: Path, target: Path, encoded: Encoded, num_bytes: int, clock: Clock, psnr: float) -> str:
    """The result of a photograph: what is in its .air file, its size, the time it took and the PSNR in dB."""
    height, width = encoded.image_size
    return (
        f"{display_name(source)} -> {display_name(target)}: {content(encoded.image_size, encoded.stage_counts)}, "
        f"{num_bytes} bytes, {8 * num_bytes / (height * width):.3f} bpp, {clock}, PSNR {psnr:.2f} dB"
    )
