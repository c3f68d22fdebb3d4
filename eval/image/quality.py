"""A model on a folder of images: quality after each stage and of the final file, size, time, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from airjax.errors import AirjaxError
from airjax.gaussians import ladder, pad
from airjax.image.codec import air_file
from airjax.image.codec.air_file import Encoded, truncate_stages
from airjax.image.model import Model
from airjax.raster.draw import capacity_of, render
from eval.image import measures
from eval.image.measures import FileResult, Scores, bits_per_pixel, decode_pixels, measure_file, num_perfect, score
from eval.report import codec_report, finite_mean, format_table, number, write_report
from eval.timing import peak_memory
from train.settings import check_at_least, where


@dataclass(frozen=True)
class ImageEvaluation:
    """What to measure."""

    # name, description: of the evaluation, for the reports
    name: str
    description: str
    images: str = where("")  # a folder of images, or one image
    image_set: str = ""  # the one of `eval.image.sets` that `description` speaks of, or none
    max_gaussians: int | None = 28_000  # most Gaussians of a file; None for no limit
    # one file is measured for each; 0 is the networks alone, k adds k color-solve steps
    solve_steps: tuple[int, ...] = (0, 10)
    repetitions: int = 3  # warm runs of each timing, after one that compiles
    limit: int | None = None  # only the first images; None for all

    def __post_init__(self):
        steps = self.solve_steps
        if not steps or min(steps) < 0 or len(set(steps)) < len(steps):
            raise AirjaxError(f"solve_steps: expected different numbers of at least 0, got {steps}")
        check_at_least(self, 0, "max_gaussians")
        check_at_least(self, 1, "repetitions", "limit")


class StageResult(NamedTuple):
    """The networks' image after some stages, and the size of a file that holds only these."""

    scores: Scores
    num_gaussians: int
    bpp: float


class ImageResult(NamedTuple):
    """One image: a StageResult per stage, a FileResult per entry of `solve_steps`."""

    source: str
    image_size: tuple[int, int]
    stages: tuple[StageResult, ...]
    files: tuple[FileResult, ...]


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
        bpp = bits_per_pixel(len(air_file.encode(prefix)), encoded.image_size)
        results.append(StageResult(score(image, rendered), prefix.gaussians.num_slots, bpp))
    return tuple(results)


def evaluate_file(
    model: Model, image: np.ndarray, *, max_gaussians: int | None, solve_steps: int, repetitions: int
) -> FileResult:
    """Encodes to bytes and decodes them, warm and timed."""

    def encode() -> bytes:
        return air_file.encode(model.encode(image, max_gaussians=max_gaussians, solve_steps=solve_steps))

    result, data = measure_file(image, encode, decode_pixels, repetitions=repetitions)
    return result._replace(num_gaussians=sum(air_file.info(data).stage_counts))


def evaluate_image(model: Model, source: str, image: np.ndarray, *, config: ImageEvaluation) -> ImageResult:
    """Everything about one image, (h, w, 3) float32 in [0, 1]; only files have finer stages."""
    trained = len(model.stages)
    networks = model.encode(image, num_stages=trained, max_gaussians=config.max_gaussians, solve_steps=0)
    evaluate = partial(evaluate_file, model, image, max_gaussians=config.max_gaussians, repetitions=config.repetitions)
    files = tuple(evaluate(solve_steps=steps) for steps in config.solve_steps)
    return ImageResult(source, image.shape[:2], evaluate_stages(image, networks), files)


def codec_name(solve_steps: int) -> str:
    """Name of the files of one setting."""
    return f"solve{solve_steps}" if solve_steps else "networks"


def tables(results: list[ImageResult], config: ImageEvaluation) -> str:
    """One table per metric (after each stage, then of each file), and one per setting with size and time."""
    codecs, names = [codec_name(steps) for steps in config.solve_steps], [result.source for result in results]
    parts = []
    for i, title in enumerate(("PSNR, dB", "SSIM", "MS-SSIM")):
        rows = [[item.scores[i] for item in (*result.stages, *result.files)] for result in results]
        head = ["image", *(f"stage {s + 1}" for s in range(len(results[0].stages))), *codecs]
        parts.append(f"{title} (after each stage: networks only; then the files)")
        parts.append(_table_with_mean(head, names, rows, [4 if i else 2] * len(rows[0])))
    for j, codec in enumerate(codecs):
        files = [result.files[j] for result in results]
        rows = [[f.num_gaussians, f.num_bytes, f.bpp, 1e3 * f.encode.median, 1e3 * f.decode.median] for f in files]
        head = ["image", "Gaussians", "bytes", "bpp", "encode ms", "decode ms"]
        how = f"median of {config.repetitions}; pixels to bytes, bytes to pixels"
        parts.append(f"{codec}: size, and warm times ({how})")
        parts.append(_table_with_mean(head, names, rows, [0, 0, 3, 1, 1]))
    if perfect := sum(num_perfect(result.files) for result in results):
        parts.append(f"{perfect} files are perfect; they are left out of the mean PSNR")
    return "\n".join(parts)


def _table_with_mean(head: list[str], names: list[str], rows: list[list[float]], digits: list[int]) -> str:
    means = [finite_mean(column) for column in zip(*rows, strict=True)]
    named = zip([*names, f"mean of {len(names)}"], [*rows, means], strict=True)
    return format_table(head, [[name, *map(number, row, digits)] for name, row in named]) + "\n"


def stage_points(results: list[ImageResult]) -> dict[str, list]:
    """CompressAI's lists, one operating point per stage: the mean over images."""
    stages = list(zip(*(result.stages for result in results), strict=True))
    return {
        **{
            metric: [finite_mean(s.scores[i] for s in stage) for stage in stages]
            for i, metric in enumerate(measures.METRICS)
        },
        "bpp": [finite_mean(s.bpp for s in stage) for stage in stages],
        "num_gaussians": [finite_mean(s.num_gaussians for s in stage) for stage in stages],
    }


def codec_reports(results: list[ImageResult], config: ImageEvaluation, model: Model) -> dict[str, dict]:
    """Reports by name, one for each setting and one of the stages: means over images."""
    limit = "no limit on" if config.max_gaussians is None else f"at most {config.max_gaussians}"

    def describe(steps: int) -> str:
        how = f"weights {model.name}, {limit} Gaussians, {steps} color-solve steps, lossless profile"
        return f"{config.description}; {how}; times in seconds, warm"

    reports = {}
    for j, steps in enumerate(config.solve_steps):
        name, files = f"airjax-{codec_name(steps)}", [result.files[j] for result in results]
        report = codec_report(name, describe(steps), measures.operating_points([files]))
        reports[name] = {**report, "perfect_images": num_perfect(files), "peak_memory_bytes": peak_memory()}
    description = f"{describe(0)}; one point per stage"
    reports["airjax-stages"] = codec_report("airjax-stages", description, stage_points(results))
    return reports


def run(config: ImageEvaluation, weights: Path | None, out: Path) -> int:
    """Measures all images and prints the tables; see `eval.config`.

    Writes `airjax-<setting>.json`, `airjax-stages.json`, and those of each image in a folder of that name.
    """
    model, paths = measures.prepare(config, weights)
    results: list[ImageResult] = []
    measure = partial(evaluate_image, model, config=config)
    for result in measures.measure_images(config.images, paths, measure):
        results.append(result)
        for name, report in codec_reports([result], config, model).items():
            content = {**report, "source": result.source, "image_size": list(result.image_size)}
            write_report(out / name / f"{result.source}.json", config, content)
    for name, report in codec_reports(results, config, model).items():
        write_report(out / f"{name}.json", config, {**report, "images": [result.source for result in results]})
    print(tables(results, config))
    if peak := peak_memory():
        print(f"peak memory of this process (compiling and metrics included): {peak / 1e9:.2f} GB")
    print(f"reports: {out}")
    return len(paths) - len(results)
