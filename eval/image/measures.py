"""What all evaluations of images share: which images, how an encoded file is measured, means as CompressAI lists them.

All metrics are taken on what a user gets: the image clipped to [0, 1] and rounded to 8 bits. MS-SSIM of a small image
uses as many of its five scales as the image can hold (`airjax.metrics.ms_ssim`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from airjax import metrics
from airjax.errors import AirjaxError
from airjax.image.codec import air_file
from airjax.image.model import Model, load
from airjax.photographs import read_image, to_8bit
from airjax.raster.draw import render
from eval.image.sets import find_set
from eval.report import finite_mean
from eval.timing import Timing, time_warm

METRICS = ("psnr-rgb", "ssim-rgb", "ms-ssim-rgb")
Result = TypeVar("Result")


class Scores(NamedTuple):
    """PSNR in dB (infinite when perfect), SSIM and MS-SSIM of one image."""

    psnr: float
    ssim: float
    ms_ssim: float


class FileResult(NamedTuple):
    """One encoded file."""

    scores: Scores  # of the decoded image
    # num_bytes, bpp: size of the file, with its headers
    num_bytes: int
    bpp: float
    # encode, decode: warm times
    encode: Timing
    decode: Timing
    num_gaussians: int | None = None  # None for other codecs than ours


def as_written(rendered: np.ndarray) -> np.ndarray:
    """The float pixels that an 8-bit image file of `rendered` is read back as."""
    return np.divide(to_8bit(rendered), np.float32(255))


def score(image: np.ndarray, rendered: np.ndarray) -> Scores:
    """Scores of a rendered image after rounding to 8 bits, (h, w, 3) float32 both."""
    return Scores(*map(float, _score(image, as_written(rendered))))


@jax.jit
def _score(image, rendered):
    return metrics.psnr(image, rendered), metrics.ssim(image, rendered), metrics.ms_ssim(image, rendered)


def bits_per_pixel(num_bytes: int, image_size: tuple[int, int]) -> float:
    """8 * bytes / pixels."""
    return 8 * num_bytes / (image_size[0] * image_size[1])


def decode_pixels(data: bytes, *, partial: bool = False) -> np.ndarray:
    """Bytes of a .air file, or of its beginning (`partial`), to (h, w, c) pixels, not clipped."""
    encoded = air_file.decode(data, partial=partial)
    return np.asarray(render(encoded.gaussians, image_size=encoded.image_size).image)


def measure_file(
    image: np.ndarray,
    encode: Callable[[], bytes],
    decode: Callable[[bytes], Any],
    *,
    repetitions: int,
    finish: Callable[[Any], np.ndarray] = np.asarray,
) -> tuple[FileResult, bytes]:
    """Encodes and decodes an image (h, w, 3) in [0, 1], warm and timed: (numbers, the file).

    `finish` turns what was decoded into float32 pixels, which is not part of the time of `decode`.
    """
    encode_time, data = time_warm(encode, repetitions)
    decode_time, decoded = time_warm(lambda: decode(data), repetitions)
    bpp = bits_per_pixel(len(data), image.shape[:2])
    return FileResult(score(image, finish(decoded)), len(data), bpp, encode_time, decode_time), data


def operating_points(groups: Sequence[Sequence[FileResult]]) -> dict[str, list]:
    """CompressAI's lists: an operating point for each group of files, the mean over the group."""
    columns: dict[str, Callable[[FileResult], float]] = {
        "psnr-rgb": lambda file: file.scores.psnr,
        "ssim-rgb": lambda file: file.scores.ssim,
        "ms-ssim-rgb": lambda file: file.scores.ms_ssim,
        "bpp": lambda file: file.bpp,
        "encoding_time": lambda file: file.encode.median,
        "decoding_time": lambda file: file.decode.median,
        "num_bytes": lambda file: file.num_bytes,
    }
    if all(file.num_gaussians is not None for group in groups for file in group):
        columns["num_gaussians"] = lambda file: file.num_gaussians
    return {key: [finite_mean(value(file) for file in group) for group in groups] for key, value in columns.items()}


def num_perfect(files: Iterable[FileResult]) -> int:
    """How many have an infinite PSNR, which a mean leaves out."""
    return sum(not math.isfinite(file.scores.psnr) for file in files)


def prepare(config: Any, weights: Path | None) -> tuple[Model, list[Path]]:
    """The model and the files of an evaluation with `images`, `image_set`, `limit` and `description`.

    Raises AirjaxError: no such weights, no such folder, or no image in it.
    """
    model = load(weights)
    paths = find_set(config.images, config.image_set, limit=config.limit)
    print(f"{config.description}: {len(paths)} images, weights {model.name}; each new image size compiles once")
    return model, paths


def measure_images(
    folder: str, paths: Sequence[Path], measure: Callable[[str, np.ndarray], Result]
) -> Iterator[Result]:
    """Results of `measure` (file name, pixels) for one image after another, those in `folder`.

    An image that cannot be read or measured is one line on the screen. Raises AirjaxError: there is no result at all.
    """
    num_results = 0
    with tqdm(paths, unit="image", disable=None) as progress:
        for path in progress:
            progress.set_postfix_str(path.name)
            try:
                result = _measured(path, measure)
            except AirjaxError as error:
                tqdm.write(f"error: {error}", file=sys.stderr)
                continue
            num_results += 1
            yield result
    if not num_results:
        raise AirjaxError(f"{folder}: expected images that can be read, found none")


def _measured(path: Path, measure: Callable[[str, np.ndarray], Result]) -> Result:
    """One result; errors of `measure` get the file's name, which those of reading have."""
    image = read_image(path).pixels
    try:
        return measure(path.name, image)
    except AirjaxError as error:
        raise AirjaxError(f"{path}: {error}") from error
