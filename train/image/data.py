"""Random crops of photographs for training: endless, deterministic, addressed by the number of the step.

Batch k is a pure function of the configuration, the photographs and k, so a run that was killed after step k and
started again with `start_step=k` sees what it would have seen: a `MapDataset` of grain is addressed by index, and
`random_map` hands every element a generator keyed by (seed, index), where the index keeps counting through the epochs.
(Batches also depend on how Pillow decodes and resizes; between Pillow versions a level may differ.)

Every pixel is about equally likely to be drawn, not every photograph: one epoch takes about area / crop^2 crops from
each. Photographs narrower than the crop are continued by mirroring, since enlarging them would teach blur.

    with contextlib.closing(batches(DataConfig("photos"), start_step=step)) as stream:
        for step, images in enumerate(stream, start=step): ...
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass, field
from functools import partial

import grain
import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy import ndimage

from airjax.errors import AirjaxError
from train.photographs import Photo, Photographs, content, find_photographs, open_photographs
from train.settings import check_divides, free, where

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
Pixels = Float[np.ndarray, "h w 3"]  # in [0, 1]


def _check_within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise AirjaxError(f"{name}: expected a number in [{low:g}, {high:g}], got {value!r}")


def _check_range(name: str, value: tuple[float, float], low: float, high: float) -> None:
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise AirjaxError(f"{name}: expected (low, high) with {low:g} <= low <= high <= {high:g}, got {value!r}")


@dataclass(frozen=True)
class Augment:
    """How often and how strongly a crop is changed. The changed crop is also the target of the network.

    `flip`, `turn`, `downscale`, `blur`, `noise`, `jitter` and `jpeg` are probabilities in [0, 1], drawn independently
    for each crop; at 0 the step is skipped and costs nothing. Every range is (low, high). Raises AirjaxError: a
    probability outside [0, 1], or a range that is not ordered or not possible.
    """

    flip: float = 0.5  # of a left-right mirror image
    turn: float = 0.75  # of a rotation by one, two or three quarter turns
    # of a reduction, by a factor uniform in `downscale_factor` (>= 1, less where the photograph is too small), with a
    # Lanczos or a box filter; it varies the scale and dissolves the 8x8 blocks of JPEG sources
    downscale: float = 0.5
    downscale_factor: tuple[float, float] = (1.0, 2.0)
    blur: float = 0.0  # of a Gaussian blur with a standard deviation uniform in `blur_sigma`, pixels
    blur_sigma: tuple[float, float] = (0.3, 1.5)
    # of shot noise with `noise_photons` photons at white (log-uniform): the variance is intensity / photons
    noise: float = 0.0
    noise_photons: tuple[float, float] = (200.0, 5000.0)
    # of gain, contrast and saturation, each uniform in 1 +- `jitter_strength`, and a hue rotation by at most
    # `jitter_hue` full turns
    jitter: float = 0.0
    jitter_strength: float = 0.2
    jitter_hue: float = 0.02
    jpeg: float = 0.0  # of JPEG compression at a quality uniform in `jpeg_quality` (whole numbers, both ends included)
    jpeg_quality: tuple[int, int] = (40, 95)

    def __post_init__(self):
        for name in ("flip", "turn", "downscale", "blur", "noise", "jitter", "jpeg", "jitter_strength"):
            _check_within(name, getattr(self, name), 0.0, 1.0)
        _check_within("jitter_hue", self.jitter_hue, 0.0, 0.5)
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
    """What a training run draws its batches from. Hashable; batch k depends on nothing else but k."""

    folders: tuple[str, ...] = where(())  # of photographs, PNG, JPEG, WebP and TIFF, searched recursively
    made_up: int = 0  # number of pictures that are made up where no folder is given
    crop_size: int = 128  # side of a crop, pixels
    batch_size: int = 8  # crops in a batch
    seed: int = 0  # in [0, 2^32)
    augment: Augment = field(default_factory=Augment)  # see `Augment`
    # memory for decoded photographs, MB; those that do not fit are decoded whenever they are drawn, which is slower
    cache_mb: int = free(4096)

    def __post_init__(self):
        folders = (self.folders,) if isinstance(self.folders, str | os.PathLike) else tuple(self.folders)
        object.__setattr__(self, "folders", tuple(os.fspath(folder) for folder in folders))
        limits = {"crop_size": (1, 2**15), "batch_size": (1, 2**20), "seed": (0, 2**32 - 1), "cache_mb": (0, 2**40)}
        limits["made_up"] = (0, 2**12)
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise AirjaxError(f"{name}: expected an int, got {value!r}")
            _check_within(name, value, low, high)

    def open(self) -> Photographs:
        """The photographs, or those made up; raises AirjaxError as `train.photographs.open_photographs`."""
        return open_photographs(self.folders, made_up=self.made_up, cache_mb=self.cache_mb)

    def content(self) -> str:
        """What is in the folders, wherever they lie; see `train.photographs.content`."""
        return content(self.folders, find_photographs(self.folders)) if self.folders else "made up"

    def check_divides(self, num_devices: int) -> None:
        """Refuse batches that do not divide among so many devices. Raises AirjaxError: names the flag."""
        check_divides(self.batch_size, num_devices, "--data.batch-size")


# One crop. Each step takes and returns (crop, crop, 3) float32 in [0, 1], except `cut`, which returns uint8.


def sample(photograph: Photo, rng: np.random.Generator, *, crop_size: int, augment: Augment) -> Pixels:
    """A random augmented crop, float32. The degradations follow the light: lens, sensor, development, file."""
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


def cut(photograph: Photo, rng: np.random.Generator, *, crop_size: int, augment: Augment) -> Photo:
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
    return np.asarray(Image.fromarray(np.ascontiguousarray(near)).resize((crop_size, crop_size), kernel, box=box))


def gaussian_blur(image: Pixels, *, sigma: float) -> Pixels:
    """Blur with a Gaussian of standard deviation `sigma` pixels, cut at 3 sigma; borders are mirrored."""
    radius = math.ceil(3 * sigma)
    return np.clip(ndimage.gaussian_filter(image, sigma, mode="reflect", radius=radius, axes=(0, 1)), 0, 1)


def shot_noise(image: Pixels, rng: np.random.Generator, *, photons: float) -> Pixels:
    """Noise of variance image / photons: a Poisson count in its normal limit, at a tenth of the time."""
    noise = rng.standard_normal(image.shape, np.float32)
    return np.clip(image + noise * np.sqrt(image / np.float32(photons)), 0, 1)


def color_jitter(image: Pixels, *, gain: float, contrast: float, saturation: float, hue: float) -> Pixels:
    """Saturation about the luma, hue (full turns) about the gray axis, contrast about the mean luma, then a gain.

    All four are linear, so they are one matrix and one offset. Grays stay gray. (1, 1, 1, 0) changes nothing.
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


def jpeg_artifacts(image: Pixels, *, quality: int) -> Pixels:
    """The image after JPEG compression (Pillow's default subsampling) at a quality in 1..100."""
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(buffer := io.BytesIO(), "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), np.float32) / np.float32(255)


class _Entries:
    """A source for grain: each photograph as often as crops fit into its area, at least once."""

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

    `photographs` are those of `config.open()`, where several data sets share them.
    """
    photographs = config.open() if photographs is None else photographs
    crops = grain.MapDataset.source(_Entries(photographs, config.crop_size)).seed(config.seed).shuffle().repeat()
    # Behind `repeat`, the index that keys the generator runs on through the epochs.
    crops = crops.random_map(partial(sample, crop_size=config.crop_size, augment=config.augment))
    # Rounding the endless length up would overflow Python's index type.
    return crops.batch(config.batch_size, drop_remainder=True)


def batches(
    config: DataConfig, *, start_step: int = 0, photographs: Photographs | None = None, num_threads: int = 1
) -> grain.DatasetIterator:
    """Iterate over the batches of `dataset` from `start_step` >= 0 on, without end.

    They are prepared by background threads, which change no batch (0: by the caller); `close()` stops them. Raises
    AirjaxError: as `DataConfig.open`, and while iterating for a damaged photograph that is not held in memory.
    """
    if start_step < 0:
        raise ValueError(f"start_step: expected at least 0, got {start_step}")
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2)
    stream = iter(dataset(config, photographs).to_iter_dataset(options))
    stream.set_state({"next_index": start_step})
    return stream
