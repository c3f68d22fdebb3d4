"""The sets of photographs on which results are reported: which files they are, and where to get them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from airjax.errors import AirjaxError
from airjax.files import find_images
from airjax.photographs import IMAGE_SUFFIXES

PHOTOGRAPH = str(Path(__file__).parents[2] / "docs" / "images" / "kodim23.png")  # of the demonstration


class ImageSet(NamedTuple):
    """A set of photographs."""

    names: tuple[str, ...]  # of its files, without their endings
    source: str  # what to look for, in words


SETS = {
    "kodak": ImageSet(
        tuple(f"kodim{i:02}" for i in range(1, 25)),
        "the Kodak photographs, 24 files kodim01.png to kodim24.png (https://r0k.us/graphics/kodak/)",
    ),
    "div2k_valid_x2": ImageSet(
        ("0829x2", "0844x2"),
        "the DIV2K validation images 0829x2.png and 0844x2.png, bicubic x2 (https://data.vision.ee.ethz.ch/cvl/DIV2K/)",
    ),
    "div2k_512": ImageSet(
        tuple(f"{part}_{i:02}" for part in ("test", "train") for i in range(16)),
        "32 DIV2K crops, test_00.png to test_15.png and train_00.png to train_15.png "
        "(data/div2k of https://github.com/liuzhen0212/FINER)",
    ),
}


def find_set(images: str, image_set: str = "", *, limit: int | None = None) -> list[Path]:
    """The files of an evaluation's `images`, a folder or one image; `image_set` is the set that it speaks of, or "".

    Raises AirjaxError: none are given, which says where to get those of the set; no such folder, or no image in it.
    """
    if not images:
        expected = SETS[image_set].source if image_set else "a folder of photographs"
        raise AirjaxError(f"expected {expected}, got none; give the folder with --images FOLDER")
    if not Path(images).exists():
        raise AirjaxError(f"{images}: expected a folder of images or an image, found none")
    return find_images([images], suffixes=IMAGE_SUFFIXES)[:limit]


def is_set(images: str, image_set: str) -> bool:
    """Whether a folder holds the files of a set, all of them and no others."""
    return {path.stem for path in find_set(images)} == set(SETS[image_set].names)
