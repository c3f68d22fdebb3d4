"""The files of a command: which it reads, which it writes, and that it replaces none that it must not.

What is written never replaces an input or an output of the same run. Another file that is there already is replaced
with --force only, or where its first bytes say that it is of the kind that the command writes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from airjax.commands.session import Screen, reason
from airjax.errors import AirjaxError, FormatError


def expand(inputs: Iterable[str], suffixes: Sequence[str], screen: Screen) -> list[Path]:
    """The files named, those of folders included, each once; a folder that gives none is one error line."""
    from airjax.files import display_name, find_images

    found: dict[Path, None] = {}
    for name in inputs:
        try:
            found.update(dict.fromkeys(find_images([name], suffixes=suffixes)))
        except AirjaxError as error:
            screen.error(str(error))
        except OSError as error:
            screen.error(f"{display_name(name)}: cannot be read ({reason(error)}), expected a file or a folder")
    return list(found)


def plan(
    sources: list[Path],
    options: argparse.Namespace,
    suffix: str,
    allowed: Sequence[str],
    screen: Screen,
) -> list[tuple[Path, Path]]:
    """(source, target) for every source: beside it, in the folder `--output`, or the file `--output`.

    Sources whose targets would be the same file keep their whole names: a.jpg and a.png become a.jpg.air and a.png.air.

    Raises:
      AirjaxError: an output that cannot serve these sources.
    """
    from airjax.files import display_name

    several = len(sources) > 1 or any(os.path.isdir(name) for name in options.inputs)
    output = options.output
    if output is not None and not _is_folder_name(output, several):
        if Path(output).suffix.lower() not in allowed:
            raise AirjaxError(f"{display_name(output)}: expected a name ending in {', '.join(allowed)}")
        return [(source, Path(output)) for source in sources]
    if output is not None and sources:
        _make_folder(output, allowed)
    folders = [source.parent if output is None else Path(output) for source in sources]
    targets = [folder / (source.stem + suffix) for folder, source in zip(folders, sources, strict=True)]
    counts = Counter(targets)
    for i, source in enumerate(sources):
        if counts[targets[i]] > 1:
            whole = targets[i].with_name(source.name + suffix)
            screen.notice(
                f"{display_name(source)}: another input would be written to {display_name(targets[i])} too; "
                f"this one goes to {display_name(whole)}"
            )
            targets[i] = whole
    return list(zip(sources, targets, strict=True))


def _is_folder_name(output: str, several: bool) -> bool:
    return several or os.path.isdir(output) or output.endswith(("/", os.sep))


def _make_folder(output: str, allowed: Sequence[str]) -> None:
    """The folder `--output`, made if only its last part is missing."""
    from airjax.files import display_name

    name = display_name(output)
    if os.path.isdir(output):
        return
    if os.path.lexists(output) or Path(output).suffix.lower() in allowed:
        raise AirjaxError(f"{name}: expected a folder for the outputs of several files, got a file's name")
    try:
        os.mkdir(output)
    except OSError as error:
        raise AirjaxError(f"{name}: folder cannot be made ({reason(error)})") from error


def guarded(
    work: Callable[[Path, Path], None],
    sources: Iterable[Path],
    options: argparse.Namespace,
    *,
    ours: bytes | None,
) -> Callable[[Path, Path], None]:
    """`work`, after a check that its target may be written.

    Args:
      work: called with a source and its target.
      sources: files that must not be replaced whatever happens, and neither must what `work` has written.
      options: with `force`.
      ours: first bytes of files that may be replaced without `force`.
    """
    from airjax.files import display_name

    taken = {identity: "an input" for source in sources if (identity := _identity(source))}

    def guarded(source: Path, target: Path) -> None:
        name = display_name(target)
        if not os.path.isdir(target.parent):
            folder = display_name(target.parent)
            raise AirjaxError(f"{name}: cannot be written, expected an existing folder {folder}")
        if (owner := taken.get(_identity(target))) is not None:
            raise AirjaxError(f"{display_name(source)}: not written to {name}, which is {owner} of this run")
        check_free(target, options, ours=ours)
        work(source, target)
        taken[_identity(target)] = "an output"

    return guarded


def check_free(target: Path, options: argparse.Namespace, *, ours: bytes | None = None) -> None:
    """Raises AirjaxError where something else than a file is, or a file that must not be replaced (see `guarded`)."""
    from airjax.files import display_name

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
    from airjax.files import display_name

    hidden = screen.quiet or len(jobs) < 2 or not sys.stderr.isatty()
    with tqdm(jobs, unit="file", disable=hidden, file=sys.stderr) as bar:
        for job in bar:
            try:
                work(*job)
            except FormatError as error:  # knows the bytes, not the name
                screen.error(f"{display_name(job[0])}: {error}")
            except AirjaxError as error:
                screen.error(str(error))
            except MemoryError:
                screen.error(f"{display_name(job[0])}: not enough memory, expected a smaller image")
            except RuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):  # how XLA reports that memory is short
                    raise
                screen.error(f"{display_name(job[0])}: not enough memory, expected a smaller image")
