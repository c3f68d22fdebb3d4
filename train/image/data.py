"""Random crops of photographs for training: endless, deterministic, addressed by the number of the step.

Batch k is a pure function of the configuration, the photographs and k, so a run that was killed after step k
and started again with `start_step=k` sees what it would have seen. Two facts about grain carry this: a
`MapDataset` is addressed by index, and `random_map` hands every element a counter-based generator keyed by
(seed, index), where the index keeps counting through the epochs. Randomness is therefore fresh in every crop
of every epoch, and nothing is re-seeded. (Batches also depend on how Pillow decodes and resizes; between
Pillow versions a level may differ.)

Every pixel is about equally likely to be drawn, not every photograph: one epoch takes about area / crop^2
crops from each. Photographs narrower than the crop are continued by mirroring, since enlarging them would
teach blur.

    with contextlib.closing(batches(DataConfig("photos"), start_step=step)) as stream:
        for step, images in enumerate(stream, start=step): ...
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import grain
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from airjax.errors import AirjaxError
from airjax.files import display_name, reason
from airjax.photographs import IMAGE_SUFFIXES, read_image, to_8bit
from train.settings import free

_HASHES_FILE = Path(__file__).with_name("evaluation_hashes.txt")
_EVALUATION_NAME = re.compile("kodak|kodim|div2k|eval_1024", re.IGNORECASE)
# What Pillow raises for damaged headers; a decompression bomb is no OSError.
_HEADER_ERRORS = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high], and NaN."""
    if not low <= value <= high:
        raise AirjaxError(f"{name}: expected a number in [{low:g}, {high:g}], got {value!r}")


def _check_range(name: str, value: tuple[float, float], low: float, high: float) -> None:
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise AirjaxError(f"{name}: expected (low, high) with {low:g} <= low <= high <= {high:g}, got {value!r}")


@dataclass(frozen=True)
class Augment:
    """How often and how strongly a crop is changed. The changed crop is also the target of the network.

    The first three fields and `blur`, `noise`, `jitter`, `jpeg` are probabilities in [0, 1], drawn
    independently for each crop; at 0 the step is skipped and costs nothing. Every range is (low, high).

    Fields:
      flip: of a left-right mirror image.
      turn: of a rotation by one, two or three quarter turns.
      downscale: of a reduction, by a factor uniform in `downscale_factor` (>= 1, less where the photograph is
        too small), with a Lanczos or a box filter; it varies the scale and dissolves the 8x8 blocks of JPEG
        sources.
      blur: of a Gaussian blur with a standard deviation uniform in `blur_sigma`, pixels.
      noise: of shot noise with `noise_photons` photons at white (log-uniform): the variance is intensity /
        photons.
      jitter: of gain, contrast and saturation, each uniform in 1 +- `jitter_strength`, and a hue rotation by
        at most `jitter_hue` full turns.
      jpeg: of JPEG compression at a quality uniform in `jpeg_quality` (whole numbers, both ends included).

    Raises:
      AirjaxError: a probability outside [0, 1], or a range that is not ordered or not possible.
    """

    flip: float = 0.5
    turn: float = 0.75
    downscale: float = 0.5
    downscale_factor: tuple[float, float] = (1.0, 2.0)
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.3, 1.5)
    noise: float = 0.0
    noise_photons: tuple[float, float] = (200.0, 5000.0)
    jitter: float = 0.0
    jitter_strength: float = 0.2
    jitter_hue: float = 0.02
    jpeg: float = 0.0
    jpeg_quality: tuple[int, int] = (40, 95)

    def __post_init__(self):
        for name in ("flip", "turn", "downscale", "blur", "noise", "jitter", "jpeg"):
            check_within(name, getattr(self, name), 0.0, 1.0)
        check_within("jitter_strength", self.jitter_strength, 0.0, 1.0)
        check_within("jitter_hue", self.jitter_hue, 0.0, 0.5)
        _check_range("downscale_factor", self.downscale_factor, 1.0, 16.0)
        _check_range("blur_sigma", self.blur_sigma, 0.05, 16.0)
        _check_range("noise_photons", self.noise_photons, 1.0, 1e9)
        _check_range("jpeg_quality", self.jpeg_quality, 1, 100)


# Crops exactly as they lie in the photograph.
PLAIN = Augment(flip=0.0, turn=0.0, downscale=0.0)
# The four kinds of AIR, each rare: the aim is to reconstruct clean photographs, not to model degraded ones.
PHOTOMETRIC = Augment(blur=0.05, noise=0.05, jitter=0.2, jpeg=0.05)


@dataclass(frozen=True)
class DataConfig:
    """What a training run draws its batches from. Hashable; batch k depends on nothing else but k.

    Fields:
      folders: a folder of photographs, or several; searched recursively for `IMAGE_SUFFIXES`.
      crop_size: side of a crop, pixels.
      batch_size: crops in a batch.
      seed: in [0, 2^32).
      augment: see `Augment`.
      cache_mb: memory for decoded photographs, MB. Those that do not fit are decoded whenever they are drawn,
        which is slower and changes no batch.
    """

    folders: tuple[str, ...]
    crop_size: int = 128
    batch_size: int = 8
    seed: int = 0
    augment: Augment = field(default_factory=Augment)
    cache_mb: int = free(4096)

    def __post_init__(self):
        folders = (self.folders,) if isinstance(self.folders, str | os.PathLike) else tuple(self.folders)
        object.__setattr__(self, "folders", tuple(os.fspath(folder) for folder in folders))
        for name, low, high in (
            ("crop_size", 1, 2**15),
            ("batch_size", 1, 2**20),
            ("seed", 0, 2**32 - 1),
            ("cache_mb", 0, 2**40),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise AirjaxError(f"{name}: expected an int, got {value!r}")
            check_within(name, value, low, high)


# Files


def find_photographs(folders: Iterable[str | os.PathLike]) -> tuple[Path, ...]:
    """All photographs under the folders, recursively, hidden ones left out.

    The order is that of the folders and then of the relative paths, so it does not depend on where a folder
    lies.

    Raises:
      AirjaxError: a folder is missing or holds no photograph, or there is no folder.
    """
    paths: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise AirjaxError(f"{display_name(folder)}: expected a folder of photographs, found {_kind(folder)}")
        names = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
        names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        found = [folder / name for name in sorted(names, key=Path.as_posix) if (folder / name).is_file()]
        if not found:
            raise AirjaxError(
                f"{display_name(folder)}: no photographs in this folder (expected {' '.join(IMAGE_SUFFIXES)})"
            )
        paths += found
    if not paths:
        raise AirjaxError("no folder of photographs given")
    return tuple(paths)


def _kind(path: Path) -> str:
    return "a file" if path.exists() else "nothing"


def read_photograph(path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph as 8-bit sRGB; `read_image` says what becomes of other kinds of pixels.

    Raises:
      AirjaxError: as `read_image`.
    """
    return to_8bit(read_image(path).pixels)


def _read_area(path: Path) -> int:
    """Pixels, from the header alone."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "TIFF")) as image:
            return image.width * image.height
    except _HEADER_ERRORS as error:
        raise AirjaxError(f"{display_name(path)}: not a readable image ({reason(error)})") from error


@dataclass(frozen=True)
class Photographs:
    """Photographs, decoded as far as memory was granted.

    Fields:
      paths: one file each.
      areas: pixels of each.
      decoded: number of a photograph -> its pixels (h, w, 3) uint8, for those held in memory.
    """

    paths: tuple[Path, ...]
    areas: tuple[int, ...]
    decoded: dict[int, np.ndarray]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        held = self.decoded.get(index)
        return read_photograph(self.paths[index]) if held is None else held


def load_photographs(folders: Iterable[str | os.PathLike], *, cache_mb: int = 4096) -> Photographs:
    """Find and decode the photographs under the folders, after `check_not_evaluation`.

    Those held in memory are the first that fit in `cache_mb`; they are decoded completely here, so a damaged
    one is reported before training starts. Of the others only the header is read.

    Raises:
      AirjaxError: as `find_photographs`, `check_not_evaluation`, `read_photograph`.
    """
    paths = find_photographs(folders)
    check_not_evaluation(paths)
    areas = tuple(_read_area(path) for path in paths)
    num_bytes = 3 * np.cumsum(areas, dtype=np.int64)
    num_held = int(np.searchsorted(num_bytes, cache_mb * 10**6, side="right"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = dict(enumerate(pool.map(read_photograph, paths[:num_held])))
    return Photographs(paths, areas, decoded)


# The guard


def check_not_evaluation(paths: Iterable[str | os.PathLike]) -> None:
    """Refuse images on which results are reported.

    A file is refused if a part of its path, links followed, begins with kodak, kodim, div2k or eval_1024
    (upper or lower case), or if its bytes are those of a file in `evaluation_hashes.txt`.

    Raises:
      AirjaxError: names the first such file.
    """
    hashes = _evaluation_hashes()
    for path in map(Path, paths):
        for part in {*path.absolute().parts, *path.resolve().parts}:
            if _EVALUATION_NAME.match(part):
                raise AirjaxError(
                    f"{display_name(path)}: refused for training, {part!r} is the name of an evaluation set"
                )
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


# One crop. Each step takes and returns (crop, crop, 3) float32 in [0, 1], except `cut`, which returns uint8.


def sample(
    photograph: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, *, crop_size: int, augment: Augment
) -> Float[np.ndarray, "crop crop 3"]:
    """A random augmented crop, float32 in [0, 1].

    The degradations follow the light: lens, sensor, development, file.
    """
    image = cut(photograph, rng, crop_size=crop_size, augment=augment)
    if rng.random() < augment.flip:
        image = image[:, ::-1]
    if rng.random() < augment.turn:
        image = np.rot90(image, rng.integers(1, 4))
    image = np.ascontiguousarray(image, np.float32) / np.float32(255)
    if rng.random() < augment.blur:
        image = gaussian_blur(image, sigma=rng.uniform(*augment.blur_sigma))
    if rng.random() < augment.noise:
        image = shot_noise(image, rng, photons=math.exp(rng.uniform(*np.log(augment.noise_photons))))
    if rng.random() < augment.jitter:
        gain, contrast, saturation = rng.uniform(1 - augment.jitter_strength, 1 + augment.jitter_strength, 3)
        hue = rng.uniform(-augment.jitter_hue, augment.jitter_hue)
        image = color_jitter(image, gain=gain, contrast=contrast, saturation=saturation, hue=hue)
    if rng.random() < augment.jpeg:
        low, high = augment.jpeg_quality
        image = jpeg_artifacts(image, quality=int(rng.integers(low, high, endpoint=True)))
    return image


def cut(
    photograph: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, *, crop_size: int, augment: Augment
) -> UInt8[np.ndarray, "crop crop 3"]:
    """A square at a uniformly random place, reduced with probability `augment.downscale`."""
    height, width = photograph.shape[:2]
    if min(height, width) < crop_size:
        missing = [(0, max(crop_size - side, 0)) for side in (height, width)]
        photograph = np.pad(photograph, (*missing, (0, 0)), mode="symmetric")
        height, width = photograph.shape[:2]

    if rng.random() >= augment.downscale:
        top, left = rng.integers(0, (height - crop_size, width - crop_size), endpoint=True)
        return photograph[top : top + crop_size, left : left + crop_size]

    side = min(rng.uniform(*augment.downscale_factor) * crop_size, height, width)
    top, left = rng.uniform(0.0, (height - side, width - side))
    kernel = Image.Resampling.LANCZOS if rng.random() < 0.5 else Image.Resampling.BOX
    # Pillow gets only the neighborhood: the square and the reach of the filter, 3 target pixels, around it.
    reach = math.ceil(3 * side / crop_size) + 1
    y0, x0 = max(int(top) - reach, 0), max(int(left) - reach, 0)
    y1, x1 = math.ceil(top + side) + reach, math.ceil(left + side) + reach
    near = photograph[y0:y1, x0:x1]
    # A sum of fractions may pass the border by a rounding error, which Pillow refuses.
    right, bottom = min(left - x0 + side, near.shape[1]), min(top - y0 + side, near.shape[0])
    box = (left - x0, top - y0, right, bottom)
    resized = Image.fromarray(np.ascontiguousarray(near)).resize((crop_size, crop_size), kernel, box=box)
    return np.asarray(resized)


def gaussian_blur(image: Float[np.ndarray, "h w 3"], *, sigma: float) -> Float[np.ndarray, "h w 3"]:
    """Blur with a Gaussian of standard deviation `sigma` pixels, cut at 3 sigma; borders are mirrored."""
    radius = math.ceil(3 * sigma)
    return np.clip(ndimage.gaussian_filter(image, sigma, mode="reflect", radius=radius, axes=(0, 1)), 0, 1)


def shot_noise(
    image: Float[np.ndarray, "h w 3"], rng: np.random.Generator, *, photons: float
) -> Float[np.ndarray, "h w 3"]:
    """Noise of variance image / photons: a Poisson count in its normal limit, at a tenth of the time."""
    noise = rng.standard_normal(image.shape, np.float32)
    return np.clip(image + noise * np.sqrt(image / np.float32(photons)), 0, 1)


def color_jitter(
    image: Float[np.ndarray, "h w 3"], *, gain: float, contrast: float, saturation: float, hue: float
) -> Float[np.ndarray, "h w 3"]:
    """Saturation about the luma, hue as a rotation about the gray axis, contrast about the mean luma, then a
    gain.

    All four are linear, so they are one matrix and one offset. Grays stay gray. (1, 1, 1, 0) changes nothing.

    Args:
      gain, contrast, saturation: factors, >= 0.
      hue: full turns.
    """
    to_luma = np.tile(_LUMA[:, None], (1, 3))
    saturate = saturation * np.eye(3) + (1 - saturation) * to_luma
    # Rodrigues' formula about (1, 1, 1) / sqrt(3); pixels are rows, hence the transpose.
    angle = 2 * math.pi * hue
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotate = (np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)).T
    matrix = gain * contrast * (saturate @ rotate)
    offset = gain * (1 - contrast) * float(image.mean((0, 1)) @ _LUMA)
    return np.clip(image @ matrix.astype(np.float32) + np.float32(offset), 0, 1)


def jpeg_artifacts(image: Float[np.ndarray, "h w 3"], *, quality: int) -> Float[np.ndarray, "h w 3"]:
    """The image after JPEG compression (Pillow's default subsampling) at a quality in 1..100."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), np.float32) / np.float32(255)


# The pipeline


class _Entries:
    """A source for grain: each photograph as often as squares of the crop's size fit into its area, at least
    once."""

    def __init__(self, photographs: Photographs, crop_size: int):
        self._photographs = photographs
        counts = np.rint(np.array(photographs.areas) / crop_size**2).astype(np.int64)
        self._owners = np.repeat(np.arange(len(photographs)), np.maximum(counts, 1))

    def __len__(self) -> int:
        return len(self._owners)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._photographs[int(self._owners[index])]


def dataset(config: DataConfig, photographs: Photographs | None = None) -> grain.MapDataset:
    """The endless list of batches: element k is batch k, (b, crop, crop, 3) float32 in [0, 1].

    Args:
      photographs: what `load_photographs(config.folders)` returned, where several data sets share it.

    Raises:
      AirjaxError: as `load_photographs`.
    """
    if photographs is None:
        photographs = load_photographs(config.folders, cache_mb=config.cache_mb)
    crops = grain.MapDataset.source(_Entries(photographs, config.crop_size)).seed(config.seed).shuffle().repeat()
    # Behind `repeat`, the index that keys the generator runs on through the epochs.
    crops = crops.random_map(partial(sample, crop_size=config.crop_size, augment=config.augment))
    # Rounding the endless length up would overflow Python's index type.
    return crops.batch(config.batch_size, drop_remainder=True)


def batches(
    config: DataConfig,
    *,
    start_step: int = 0,
    photographs: Photographs | None = None,
    num_threads: int = 1,
    prefetch: int = 2,
) -> grain.DatasetIterator:
    """Iterate over the batches from `start_step` on, without end.

    Each batch is (b, crop, crop, 3) float32 in [0, 1], prepared in background threads; `close()` stops them.

    Args:
      start_step: number of the first batch, >= 0.
      photographs: see `dataset`.
      num_threads: threads that prepare batches; the number changes no batch. 0 prepares them in the caller.
      prefetch: batches kept ready.

    Raises:
      AirjaxError: as `load_photographs`; while iterating, for a damaged photograph that is not held in
        memory.
      ValueError: a negative `start_step`.
    """
    if start_step < 0:
        raise ValueError(f"start_step: expected at least 0, got {start_step}")
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    stream = iter(dataset(config, photographs).to_iter_dataset(options))
    stream.set_state({"next_index": start_step})
    return stream
