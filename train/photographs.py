"""Photographs to train on: found in folders, never those of evaluations, or made up where there is no folder."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from airjax.errors import AirjaxError
from airjax.files import display_name, reason
from airjax.photographs import WRITTEN_SUFFIXES, read_image, to_8bit

_HASHES_FILE = Path(__file__).with_name("evaluation_hashes.txt")
_EVALUATION_NAME = re.compile("kodak|kodim|div2k|eval_1024", re.IGNORECASE)
# What Pillow raises for damaged headers; a decompression bomb is no OSError.
_HEADER_ERRORS = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_MADE_UP_SIZE = 192, 256  # (h, w)
Photo = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Photographs:
    """Photographs, decoded as far as memory was granted."""

    paths: tuple[Path, ...]  # one file each
    areas: tuple[int, ...]  # pixels of each
    decoded: dict[int, np.ndarray]  # number of a photograph -> its pixels (h, w, 3) uint8, for those held in memory

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Photo:
        held = self.decoded.get(index)
        return read_photograph(self.paths[index]) if held is None else held


def open_photographs(folders: Iterable[str | os.PathLike], *, made_up: int, cache_mb: int = 4096) -> Photographs:
    """The photographs under the folders, or so many that are made up where no folder is given.

    Raises AirjaxError: neither is given; otherwise as `load_photographs`.
    """
    folders = tuple(folders)
    if folders or not made_up:
        return load_photographs(folders, cache_mb=cache_mb)
    pictures = dict(enumerate(make_up(made_up)))
    names = tuple(Path(f"made up {i}") for i in pictures)
    return Photographs(names, (_MADE_UP_SIZE[0] * _MADE_UP_SIZE[1],) * made_up, pictures)


def make_up(count: int) -> list[Photo]:
    """Pictures of soft light, overlapping shapes and grain, (192, 256, 3): what a run without photographs trains on.

    Picture i is a function of i.
    """
    return [_made_up(np.random.default_rng(i)) for i in range(count)]


def _made_up(rng: np.random.Generator) -> Photo:
    height, width = _MADE_UP_SIZE
    corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.uint8)
    picture = Image.fromarray(corners).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(24):
        color = tuple(rng.integers(0, 256, 3).tolist())
        x, y = rng.uniform(0, (2 * width, 2 * height))
        side = np.exp(rng.uniform(*np.log((8, 160)), 2))
        box = x - side[0], y - side[1], x + side[0], y + side[1]
        points = [(x, y) + side * rng.uniform(-1, 1, 2) for _ in range(3)]
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse(box, fill=color)
        elif kind == 1:
            draw.rectangle(box, fill=color)
        elif kind == 2:
            draw.polygon([tuple(point) for point in points], fill=color)
        else:
            draw.line([tuple(point) for point in points], fill=color, width=int(rng.integers(1, 9)))
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float32)
    grain = ndimage.gaussian_filter(rng.normal(0, 1, (height, width)), rng.uniform(0.5, 2))
    return np.clip(np.rint(pixels + 12 * grain[..., None] / grain.std()), 0, 255).astype(np.uint8)


def content(folders: Iterable[str | os.PathLike], files: Iterable[Path]) -> str:
    """Hash of the names of files, from their folders on, and of their sizes: the same wherever the folders lie."""
    digest, roots = hashlib.sha256(), [Path(folder) for folder in folders]
    for file in files:
        name = next(file.relative_to(root).as_posix() for root in roots if file.is_relative_to(root))
        digest.update(f"{name} {file.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def find_photographs(folders: Iterable[str | os.PathLike]) -> tuple[Path, ...]:
    """All photographs under the folders, recursively, hidden ones left out.

    The order is that of the folders and then of the relative paths, so it does not depend on where a folder
    lies. Raises AirjaxError: a folder is missing or holds no photograph, or there is no folder.
    """
    paths: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            kind = "a file" if folder.exists() else "nothing"
            raise AirjaxError(f"{display_name(folder)}: expected a folder of photographs, found {kind}")
        names = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in WRITTEN_SUFFIXES]
        names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        found = [folder / name for name in sorted(names, key=Path.as_posix) if (folder / name).is_file()]
        if not found:
            kinds = " ".join(WRITTEN_SUFFIXES)
            raise AirjaxError(f"{display_name(folder)}: no photographs in this folder (expected {kinds})")
        paths += found
    if not paths:
        raise AirjaxError("expected a folder of photographs, or several, got none; give --data.folders PHOTOGRAPHS")
    return tuple(paths)


def read_photograph(path: str | os.PathLike) -> Photo:
    """A photograph as 8-bit sRGB; see `read_image` for other kinds of pixels, and for errors."""
    return to_8bit(read_image(path).pixels)


def _read_area(path: Path) -> int:
    """Pixels, from the header alone."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "TIFF")) as image:
            return image.width * image.height
    except _HEADER_ERRORS as error:
        raise AirjaxError(f"{display_name(path)}: not a readable image ({reason(error)})") from error


def load_photographs(folders: Iterable[str | os.PathLike], *, cache_mb: int = 4096) -> Photographs:
    """Find and decode the photographs under the folders, after `check_not_evaluation`.

    Those held in memory are the first that fit in `cache_mb`; they are decoded completely here, so a damaged
    one is reported before training starts. Of the others only the header is read. Raises AirjaxError: as
    `find_photographs`, `check_not_evaluation`, `read_photograph`.
    """
    paths = find_photographs(folders)
    check_not_evaluation(paths)
    areas = tuple(_read_area(path) for path in paths)
    num_bytes = 3 * np.cumsum(areas, dtype=np.int64)
    num_held = int(np.searchsorted(num_bytes, cache_mb * 10**6, side="right"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = dict(enumerate(pool.map(read_photograph, paths[:num_held])))
    return Photographs(paths, areas, decoded)


def check_not_evaluation(paths: Iterable[str | os.PathLike]) -> None:
    """Refuse images on which results are reported.

    A file is refused if a part of its path, links followed, begins with kodak, kodim, div2k or eval_1024 (in any case),
    or if its bytes are those of a file in `evaluation_hashes.txt`. Raises AirjaxError: names the first such file.
    """
    hashes = _evaluation_hashes()
    for path in map(Path, paths):
        for part in {*path.absolute().parts, *path.resolve().parts}:
            if _EVALUATION_NAME.match(part):
                why = f"{part!r} is the name of an evaluation set"
                raise AirjaxError(f"{display_name(path)}: refused for training, {why}")
        try:
            # The size is looked at first, so that a large folder need not be read.
            names = hashes.get(path.stat().st_size, {})
            name = names.get(hashlib.sha256(path.read_bytes()).hexdigest()[:16]) if names else None
        except OSError as error:
            raise AirjaxError(f"{display_name(path)}: not a readable image ({reason(error)})") from error
        if name is not None:
            raise AirjaxError(f"{display_name(path)}: refused for training, it is the evaluation image {name}")


@cache
def _evaluation_hashes() -> dict[int, dict[str, str]]:
    """File size in bytes -> first 16 hex digits of the SHA-256 -> name."""
    hashes: dict[int, dict[str, str]] = {}
    for line in _HASHES_FILE.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            prefix, size, name = line.split()
            hashes.setdefault(int(size), {})[prefix] = name
    return hashes
