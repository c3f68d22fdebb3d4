"""The cost of rounding: files of several qualities against the same Gaussians with nothing rounded.

Three images of each photograph are compared with it: the decoded file; the rows of the file before rounding, with as
many steps of the color solve; and the Gaussians that the same model makes at the same Stage Control threshold without
a quantizer (never rounded, and with the rows that a file drops).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.image.codec import air_file
from airjax.image.codec.compress import CompressOptions, compress_and_source, mse_threshold_of
from airjax.image.model import Model
from airjax.raster.draw import render
from eval.image.measures import bits_per_pixel, measure_images, prepare, score
from eval.report import format_table, number, write_report
from train.settings import check_at_least, where


@dataclass(frozen=True)
class Rounding:
    """What to measure."""

    # name, description: of the evaluation, for the report
    name: str
    description: str
    images: str = where("")  # a folder of images, or one image
    image_set: str = ""  # the one of `eval.image.sets` that `description` speaks of, or none
    qualities: tuple[float, ...] = (40.0, 50.0, 60.0, 66.0, 70.0)  # of the files, each in [0, 100]; of one pass
    solve_steps: int = 5  # of `compress`
    limit: int | None = None  # only the first images; None for all

    def __post_init__(self):
        if not self.qualities or any(not 0 <= quality <= 100 for quality in self.qualities):
            raise AirjaxError(f"qualities: expected numbers from 0 to 100, got {self.qualities}")
        check_at_least(self, 1, "solve_steps", "limit")


class RoundingResult(NamedTuple):
    """One file, with its PSNR in dB and the two without rounding."""

    psnr: float  # of the decoded file
    same_rows: float  # of the rows of the file before rounding
    unaware: float  # of the Gaussians that the model makes without a quantizer
    unaware_gaussians: int  # their number
    # num_gaussians, bits_per_gaussian, bpp: of the file, everything counted
    num_gaussians: int
    bits_per_gaussian: float
    bpp: float


def measure(model: Model, image: np.ndarray, quality: float, solve_steps: int) -> RoundingResult:
    """One image, (h, w, 3) in [0, 1], at one quality."""

    def psnr_of(gaussians) -> float:
        return score(image, np.asarray(render(gaussians, image_size=image.shape[:2]).image)).psnr

    quantized, source = compress_and_source(model, image, CompressOptions(quality, solve_steps=solve_steps, effort=0))
    data, count = air_file.encode(quantized), sum(quantized.stage_counts)
    threshold = mse_threshold_of(quality)
    unaware = model.encode(image, mse_threshold=threshold, ssim_threshold=2.0, solve_steps=2 * solve_steps)
    decibels = map(psnr_of, (air_file.decode(data).gaussians, source, unaware.gaussians))
    bits, bpp = 8 * len(data) / max(1, count), bits_per_pixel(len(data), image.shape[:2])
    return RoundingResult(*decibels, unaware.gaussians.num_slots, count, bits, bpp)


def table(qualities: tuple[float, ...], means: list[RoundingResult]) -> str:
    """One line per quality: means over the images."""
    head = ["quality", "PSNR", "same rows", "loss dB", "no quantizer", "Gaussians", "Gaussians", "bits each", "bpp"]
    rows = [
        (quality, m.psnr, m.same_rows, m.same_rows - m.psnr, *m[2:])  # from `unaware` on, as in the head
        for quality, m in zip(qualities, means, strict=True)
    ]
    return format_table(head, [list(map(number, row, (0, 2, 2, 2, 2, 0, 0, 1, 3))) for row in rows])


def run(config: Rounding, weights: Path | None, out: Path) -> int:
    """Measures all images, prints the table, writes `rounding.json`; see `eval.config`."""
    model, paths = prepare(config, weights)

    def measure_all(name: str, image: np.ndarray) -> tuple[str, list[RoundingResult]]:
        return name, [measure(model, image, quality, config.solve_steps) for quality in config.qualities]

    results: dict[str, list[RoundingResult]] = {}
    for name, files in measure_images(config.images, paths, measure_all):
        results[name] = files
        means = [RoundingResult(*np.mean(column, axis=0).tolist()) for column in zip(*results.values(), strict=True)]
        report = {
            "name": config.name,
            "description": config.description,
            "weights": model.name,
            "means": [mean._asdict() for mean in means],
            "images": {name: [file._asdict() for file in files] for name, files in results.items()},
        }
        write_report(out / "rounding.json", config, report)
    print(table(config.qualities, means))
    print(f"report: {out / 'rounding.json'}")
    return len(paths) - len(results)
