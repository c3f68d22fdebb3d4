"""The files of a command: which it reads, which it writes, and that it replaces none that it must not.

What is written never replaces an input or an output of the same run. Another file that is there already is replaced
with --force only, or where its first bytes say that it is of the kind that the command writes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airjax.commands.session import Clock, Screen, progress_bar
from airjax.errors import AirjaxError, FormatError
from airjax.files import display_name, find_images, reason

if TYPE_CHECKING:
    import numpy as np

    from airjax.gaussians import Gaussians2D
    from airjax.image.codec.air_file import Encoded

Work = Callable[[Path, Path], None]  # of a source and its target


def convert(
    work: Work,
    options: argparse.Namespace,
    screen: Screen,
    *,
    reads: Sequence[str],
    writes: Sequence[str],
    ours: bytes | None = None,
) -> None:
    """`work(source, target)` for all inputs of a command, one after the other; each that fails is one error line.

    `reads` are the suffixes of inputs in folders, `writes` those that an output may have, the default first; files that
    begin with `ours` may be replaced without --force. An output that cannot serve these inputs is an AirjaxError.
    """
    sources = expand(options.inputs, reads, screen)
    jobs = plan(sources, options, writes, screen)
    each(jobs, guarded(work, sources, options, ours=ours), screen)


def expand(inputs: Iterable[str], suffixes: Sequence[str], screen: Screen) -> list[Path]:
    """The files named, those of folders included, each once; a folder that gives none is one error line."""
    files: dict[Path, None] = {}
    for name in inputs:
        try:
            files.update(dict.fromkeys(find_images([name], suffixes=suffixes)))
        except AirjaxError as error:
            screen.error(str(error))
        except OSError as error:
            screen.error(f"{display_name(name)}: cannot be read ({reason(error)}), expected a file or a folder")
    return list(files)


def plan(
    sources: list[Path], options: argparse.Namespace, suffixes: Sequence[str], screen: Screen
) -> list[tuple[Path, Path]]:
    """(source, target) for every source: beside it, or in or at `--output`; an AirjaxError where that cannot serve.

    `suffixes` are those that a target may have, the default first. Sources whose targets would be the same file keep
    their whole names: a.jpg and a.png become a.jpg.air and a.png.air.
    """
    several = len(sources) > 1 or any(os.path.isdir(name) for name in options.inputs)
    output = options.output
    if output is not None and not (several or os.path.isdir(output) or output.endswith(("/", os.sep))):
        if Path(output).suffix.lower() not in suffixes:
            raise AirjaxError(f"{display_name(output)}: expected a name ending in {', '.join(suffixes)}")
        return [(source, Path(output)) for source in sources]
    if output is not None and sources:
        _make_folder(output, suffixes)
    folders = [source.parent if output is None else Path(output) for source in sources]
    targets = [folder / (source.stem + suffixes[0]) for folder, source in zip(folders, sources, strict=True)]
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


def guarded(work: Work, sources: Iterable[Path], options: argparse.Namespace, *, ours: bytes | None = None) -> Work:
    """`work`, after a check that its target may be written, see `check_free`; sources and earlier targets may not."""
    taken = dict.fromkeys(map(_identity, sources), "an input")
    taken.pop(None, None)  # a name without a file is nobody's

    def guarded(source: Path, target: Path) -> None:
        name = display_name(target)
        if not os.path.isdir(target.parent):
            folder = display_name(target.parent)
            raise AirjaxError(f"{name}: cannot be written, expected an existing folder {folder}")
        if (owner := taken.get(_identity(target))) is not None:
            raise AirjaxError(f"{display_name(source)}: not written to {name}, which is {owner} of this run")
        check_free(target, options, ours=ours)
        work(source, target)
        if (identity := _identity(target)) is not None:
            taken[identity] = "an output"

    return guarded


def check_free(target: Path, options: argparse.Namespace, *, ours: bytes | None = None) -> None:
    """Raises AirjaxError where something else than a file is, or, without --force, a file that is not `ours`."""
    name = display_name(target)
    if not os.path.exists(target):
        return
    if not os.path.isfile(target):
        raise AirjaxError(f"{name}: cannot be written, expected a file, got a folder or a device")
    if not (options.force or (ours and _starts_with(target, ours))):
        raise AirjaxError(f"{name}: exists already and is kept, expected a new name (-o) or --force to replace it")


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common: links, and capital letters where the disk ignores them."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _starts_with(path: Path, start: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def each(jobs: Sequence[tuple[Path, ...]], work: Callable[..., None], screen: Screen) -> None:
    """`work(*job)` for every job; one that fails is one line with the name of its source, the first of the job."""
    with progress_bar(screen, total=len(jobs), unit="file", leave=True) as progress:
        for job in jobs:
            try:
                work(*job)
            except FormatError as error:  # knows the bytes, not the name
                screen.error(f"{display_name(job[0])}: {error}")
            except AirjaxError as error:
                screen.error(str(error))
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise  # XLA reports that memory is short by a RuntimeError of these words
                screen.error(f"{display_name(job[0])}: not enough memory for an image of this size; make it smaller")
            progress.update()


@contextlib.contextmanager
def named(source: Path) -> Iterator[None]:
    """Puts the name of a file before the message of an AirjaxError that comes from its content."""
    try:
        yield
    except AirjaxError as error:
        raise AirjaxError(f"{display_name(source)}: {error}") from error


def read_photograph(source: Path, screen: Screen) -> np.ndarray:
    """(h, w, 3) pixels in [0, 1]; what was done to them on the way in is said on the screen."""
    from airjax.photographs import read_image

    image = read_image(source)
    screen.notices(source, image.notices)
    return image.pixels


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
