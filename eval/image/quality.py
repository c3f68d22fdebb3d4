"""A model on a folder of images: quality after each stage and of the final file, size, time, memory.

All metrics are taken on what a user gets: the image clipped to [0, 1] and rounded to 8 bits. MS-SSIM of a small image
uses as many of its five scales as the image can hold (`airjax.metrics.ms_ssim`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from airjax import metrics
from airjax.errors import AirjaxError
from airjax.files import find_images
from airjax.gaussians import ladder, pad
from airjax.image.codec import air_file
from airjax.image.codec.air_file import Encoded, truncate_stages
from airjax.image.model import Model, load
from airjax.photographs import IMAGE_SUFFIXES, read_image, to_8bit
from airjax.raster.draw import capacity_of, render
from eval.report import codec_report, environment, finite_mean, format_table, number, write_json
from eval.timing import Timing, peak_memory, time_warm

METRICS = ("psnr-rgb", "ssim-rgb", "ms-ssim-rgb")


@dataclass(frozen=True)
class ImageEvaluation:
    """What to measure.

    Fields:
      name, description: of the evaluation, for the reports.
      images: a folder of images, or one image.
      max_gaussians: most Gaussians of a file; None for no limit.
      solve_steps: one file per entry is made and measured; 0 is the networks alone, k adds k colour-solve steps.
      repetitions: warm runs of each timing, after one that compiles.
      limit: only the first images; None for all.
    """

    name: str
    description: str
    images: str
    max_gaussians: int | None = 28_000
    solve_steps: tuple[int, ...] = (0, 10)
    repetitions: int = 3
    limit: int | None = None

    def __post_init__(self):
        steps = self.solve_steps
        if not steps or min(steps) < 0 or len(set(steps)) < len(steps):
            raise AirjaxError(f"solve_steps: expected different numbers of at least 0, got {steps}")
        if self.max_gaussians is not None and self.max_gaussians < 0:
            raise AirjaxError(f"max_gaussians: expected at least 0, got {self.max_gaussians}")
        if self.repetitions < 1:
            raise AirjaxError(f"repetitions: expected at least 1, got {self.repetitions}")
        if self.limit is not None and self.limit < 1:
            raise AirjaxError(f"limit: expected at least 1, got {self.limit}")


class Scores(NamedTuple):
    """PSNR in dB (infinite when perfect), SSIM and MS-SSIM of one image."""

    psnr: float
    ssim: float
    ms_ssim: float


class StageResult(NamedTuple):
    """The networks' image after some stages, and the size of a file that holds only these."""

    scores: Scores
    num_gaussians: int
    bpp: float


class FileResult(NamedTuple):
    """One encoded file: encode is float pixels to bytes, decode is bytes to float pixels, both warm."""

    scores: Scores
    num_gaussians: int
    num_bytes: int
    bpp: float
    encode: Timing
    decode: Timing


class ImageResult(NamedTuple):
    """One image: a StageResult per stage, a FileResult per entry of `solve_steps`."""

    source: str
    image_size: tuple[int, int]
    stages: tuple[StageResult, ...]
    files: tuple[FileResult, ...]


def as_written(rendered: np.ndarray) -> np.ndarray:
    """The float pixels that come back from an 8-bit image file holding `rendered`."""
    return np.divide(to_8bit(rendered), np.float32(255))


def score(image: np.ndarray, rendered: np.ndarray) -> Scores:
    """Scores of a rendered image after rounding to 8 bits, (h, w, 3) float32 both."""
    return Scores(*(float(value) for value in _score(image, as_written(rendered))))


@jax.jit
def _score(image, rendered):
    return (
        metrics.psnr(image, rendered),
        metrics.ssim(image, rendered),
        metrics.ms_ssim(image, rendered),
    )


def decode_pixels(data: bytes, *, partial: bool = False) -> np.ndarray:
    """Bytes of a .air file, or of its beginning (`partial`), to (h, w, c) pixels, not clipped."""
    encoded = air_file.decode(data, partial=partial)
    return np.asarray(render(encoded.gaussians, image_size=encoded.image_size).image)


def bits_per_pixel(num_bytes: int, image_size: tuple[int, int]) -> float:
    """8 * bytes / pixels."""
    return 8 * num_bytes / (image_size[0] * image_size[1])


def images_after_stages(encoded: Encoded) -> Iterator[np.ndarray]:
    """The image after stage 1, after stages 1 and 2, and so on.

    Later stages are switched off, not cut off, so that all images are drawn by one compiled function.
    """
    size, n = encoded.image_size, encoded.gaussians.num_slots
    gaussians = pad(encoded.gaussians, ladder(n))
    capacity = capacity_of(gaussians, image_size=size)
    for end in np.cumsum(encoded.stage_counts):
        shown = replace(gaussians, active=gaussians.active & (np.arange(gaussians.num_slots) < end))
        yield np.asarray(_draw(shown, image_size=size, capacity=capacity))


@partial(jax.jit, static_argnames=("image_size", "capacity"))
def _draw(gaussians, *, image_size, capacity):
    return render(gaussians, image_size=image_size, capacity=capacity).image


def evaluate_stages(image: np.ndarray, encoded: Encoded) -> tuple[StageResult, ...]:
    """Quality and size after each stage of a file of the networks alone."""
    results = []
    for stage, rendered in enumerate(images_after_stages(encoded)):
        prefix = truncate_stages(encoded, stage + 1)
        num_bytes = len(air_file.encode(prefix))
        results.append(
            StageResult(
                score(image, rendered),
                prefix.gaussians.num_slots,
                bits_per_pixel(num_bytes, encoded.image_size),
            )
        )
    return tuple(results)


def evaluate_file(
    model: Model, image: np.ndarray, *, max_gaussians: int | None, solve_steps: int, repetitions: int
) -> FileResult:
    """Encodes to bytes and decodes them, warm and timed."""

    def encode() -> bytes:
        return air_file.encode(model.encode(image, max_gaussians=max_gaussians, solve_steps=solve_steps))

    encode_time, data = time_warm(encode, repetitions)
    decode_time, rendered = time_warm(lambda: decode_pixels(data), repetitions)
    return FileResult(
        score(image, rendered),
        sum(air_file.info(data).stage_counts),
        len(data),
        bits_per_pixel(len(data), image.shape[:2]),
        encode_time,
        decode_time,
    )


def evaluate_image(model: Model, image: np.ndarray, source: str, config: ImageEvaluation) -> ImageResult:
    """Everything about one image, (h, w, 3) float32 in [0, 1]."""
    networks = model.encode(image, max_gaussians=config.max_gaussians, solve_steps=0)
    files = tuple(
        evaluate_file(
            model,
            image,
            max_gaussians=config.max_gaussians,
            solve_steps=steps,
            repetitions=config.repetitions,
        )
        for steps in config.solve_steps
    )
    return ImageResult(source, image.shape[:2], evaluate_stages(image, networks), files)


def codec_name(solve_steps: int) -> str:
    """Name of the files of one setting."""
    return f"solve{solve_steps}" if solve_steps else "networks"


def tables(results: list[ImageResult], config: ImageEvaluation) -> str:
    """One table per metric (after each stage, then of each file), and one per setting with size and time."""
    codecs = [codec_name(steps) for steps in config.solve_steps]
    parts = []
    for i, title in enumerate(("PSNR, dB", "SSIM", "MS-SSIM")):
        rows = [[item.scores[i] for item in (*result.stages, *result.files)] for result in results]
        head = ["image", *(f"stage {s + 1}" for s in range(len(results[0].stages))), *codecs]
        parts.append(f"{title} (after each stage: networks only; then the files)")
        digits = 2 if i == 0 else 4
        parts.append(_table_with_mean(head, [r.source for r in results], rows, [digits] * len(rows[0])))
    for j, codec in enumerate(codecs):
        rows = [
            [f.num_gaussians, f.num_bytes, f.bpp, 1e3 * f.encode.median, 1e3 * f.decode.median]
            for f in (result.files[j] for result in results)
        ]
        head = ["image", "Gaussians", "bytes", "bpp", "encode ms", "decode ms"]
        parts.append(
            f"{codec}: size, and warm times (median of {config.repetitions}; pixels to bytes, bytes to pixels)"
        )
        parts.append(_table_with_mean(head, [r.source for r in results], rows, [0, 0, 3, 1, 1]))
    perfect = sum(not np.isfinite(f.scores.psnr) for r in results for f in r.files)
    if perfect:
        parts.append(f"{perfect} files are perfect; they are left out of the mean PSNR")
    return "\n".join(parts)


def _table_with_mean(head, names, rows, digits) -> str:
    means = [finite_mean(column) for column in zip(*rows, strict=True)]
    cells = [
        [name, *(number(value, d) for value, d in zip(row, digits, strict=True))]
        for name, row in zip([*names, f"mean of {len(names)}"], [*rows, means], strict=True)
    ]
    return format_table(head, cells) + "\n"


def file_results(files: list[FileResult]) -> dict[str, list]:
    """CompressAI's lists, one operating point: the mean over `files`."""
    columns = {
        **{metric: [f.scores[i] for f in files] for i, metric in enumerate(METRICS)},
        "bpp": [f.bpp for f in files],
        "encoding_time": [f.encode.median for f in files],
        "decoding_time": [f.decode.median for f in files],
        "num_gaussians": [f.num_gaussians for f in files],
        "num_bytes": [f.num_bytes for f in files],
    }
    return {key: [finite_mean(values)] for key, values in columns.items()}


def stage_results(images: list[ImageResult]) -> dict[str, list]:
    """CompressAI's lists, one operating point per stage: the mean over `images`."""
    per_stage = list(zip(*(image.stages for image in images), strict=True))
    columns = {
        metric: [finite_mean(s.scores[i] for s in stage) for stage in per_stage] for i, metric in enumerate(METRICS)
    }
    columns["bpp"] = [finite_mean(s.bpp for s in stage) for stage in per_stage]
    columns["num_gaussians"] = [finite_mean(s.num_gaussians for s in stage) for stage in per_stage]
    return columns


def write_reports(results: list[ImageResult], config: ImageEvaluation, model: Model, out: Path) -> None:
    """`airjax-<setting>.json` for each setting and `airjax-stages.json`: means over the images so far."""
    sources = [result.source for result in results]
    for j, steps in enumerate(config.solve_steps):
        files = [result.files[j] for result in results]
        report = codec_report(
            f"airjax-{codec_name(steps)}",
            _describe(config, model, steps),
            file_results(files),
            images=sources,
            perfect_images=sum(not np.isfinite(f.scores.psnr) for f in files),
            peak_memory_bytes=peak_memory(),
        )
        write_json(out / f"airjax-{codec_name(steps)}.json", report)
    description = f"{_describe(config, model, 0)}; one point per stage"
    report = codec_report("airjax-stages", description, stage_results(results), images=sources)
    write_json(out / "airjax-stages.json", report)


def write_image_reports(result: ImageResult, config: ImageEvaluation, model: Model, out: Path) -> None:
    """The reports of one image, which add "source", in one folder per setting."""
    size = list(result.image_size)
    for steps, file in zip(config.solve_steps, result.files, strict=True):
        name = f"airjax-{codec_name(steps)}"
        report = codec_report(
            name, _describe(config, model, steps), file_results([file]), source=result.source, image_size=size
        )
        write_json(out / name / f"{result.source}.json", report)
    report = codec_report(
        "airjax-stages",
        f"{_describe(config, model, 0)}; one point per stage",
        stage_results([result]),
        source=result.source,
        image_size=size,
    )
    write_json(out / "airjax-stages" / f"{result.source}.json", report)


def _describe(config: ImageEvaluation, model: Model, solve_steps: int) -> str:
    limit = "no limit on" if config.max_gaussians is None else f"at most {config.max_gaussians}"
    return (
        f"{config.description}; weights {model.name}, {limit} Gaussians, {solve_steps} colour-solve steps, "
        "lossless profile; times in seconds, warm"
    )


def prepare(config, weights: Path | None, out: Path) -> tuple[Model, list[Path]]:
    """The model and the files of an evaluation with `images`, `limit` and `description`; writes `config.json`.

    Raises:
      AirjaxError: no such weights, no such folder, or no image in it.
    """
    model = load(weights)
    if not Path(config.images).exists():
        raise AirjaxError(f"{config.images}: expected a folder of images or an image, found none")
    paths = find_images([config.images], suffixes=IMAGE_SUFFIXES)[: config.limit]
    write_json(
        out / "config.json",
        {"config": dataclasses.asdict(config), "weights": model.name, "environment": environment()},
    )
    print(f"{config.description}: {len(paths)} images, weights {model.name}; each new image size compiles once")
    return model, paths


def run(config: ImageEvaluation, weights: Path | None, out: Path) -> int:
    """Measures all images, prints the tables, writes the reports; the number of images that could not be read.

    Args:
      weights: a weights file; None for the shipped one.
      out: folder of the reports.

    Raises:
      AirjaxError: no such weights, no such folder, no image in it, or none that can be read.
    """
    model, paths = prepare(config, weights, out)
    results: list[ImageResult] = []
    with tqdm(paths, unit="image", disable=None) as progress:
        for path in progress:
            try:
                image = read_image(path).pixels
            except AirjaxError as error:
                tqdm.write(f"error: {error}", file=sys.stderr)
                continue
            results.append(evaluate_image(model, image, path.name, config))
            write_image_reports(results[-1], config, model, out)
            progress.set_postfix_str(f"{results[-1].source} {results[-1].files[-1].scores.psnr:.2f} dB")
    if not results:
        raise AirjaxError(f"{config.images}: expected images that can be read, found none")
    write_reports(results, config, model, out)
    print(tables(results, config))
    print(f"peak memory of this process (compiling and metrics included): {peak_memory() / 1e9:.2f} GB")
    print(f"reports: {out}")
    return len(paths) - len(results)
