"""The images of a scene by the names that a pose file gives them, as other programs and systems write names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.photographs import IMAGE_SUFFIXES

_ANY_SUFFIX = (*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))
_SMALLER = ("images_2", "images_4", "images_8")  # where downscaled photographs lie


def plain_path(name: str) -> str:
    """A path in a pose file with slashes, as on any system, and without a leading ./"""
    return name.replace("\\", "/").removeprefix("./")


def image_files(folder: Path, names: list[tuple[str, ...]]) -> tuple[list[Path | None], tuple[str, ...]]:
    """(the image of each name in a pose file, None where there is none; lines for the user).

    A photograph may have several names. Where none of all is there, those of images_2, images_4 or images_8 are taken.
    """
    files = [_first_file(folder, some) for some in names]
    for smaller in _SMALLER if not any(files) else ():
        moved = [[name.replace("images/", f"{smaller}/", 1) for name in map(plain_path, some)] for some in names]
        files = [_first_file(folder, [name for name in some if f"{smaller}/" in name]) for some in moved]
        if any(files):
            return files, (f"photographs of {smaller}/ used, as those of images/ are not there",)
    return files, ()


def _first_file(folder: Path, names: Sequence[str]) -> Path | None:
    return next((file for name in names if (file := image_file(folder, name)) is not None), None)


def image_file(folder: Path, name: str) -> Path | None:
    """The image of a name in a pose file; None where there is none.

    The name may have backslashes, lack the suffix, or have it in letters of the other case.
    """
    try:
        for path in dict.fromkeys((folder / name, folder / plain_path(name))):
            others = dict.fromkeys((path.suffix.lower(), path.suffix.upper()))
            cased = [path.with_name(path.stem + suffix) for suffix in others if path.name]
            added = [path.with_name(path.name + suffix) for suffix in _ANY_SUFFIX if path.name]
            for file in (path, *cased, *added):
                if file.is_file():
                    return file
    except (OSError, ValueError):  # no name that a file could have
        pass
    return None


def sorted_images(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """(images of the folder images/ by name, or of a smaller one where it is not there; lines for the user)."""
    if (folder / "images").is_dir():
        return _images_in(folder / "images"), ()
    for smaller in _SMALLER:
        if (folder / smaller).is_dir():
            return _images_in(folder / smaller), (f"photographs of {smaller}/ used, as images/ is not there",)
    raise AirjaxError(f"{display_name(folder / 'images')}: expected a folder of images, found none")


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def missing_images(count: int, listed: int, what: str) -> tuple[str, ...]:
    """A line for the user about images that a pose file lists and that are not there; none where all are."""
    return (f"{count} of {listed} images of the {what} are not there, and are left out",) if count else ()


def some(names: list[str], most: int = 5) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
