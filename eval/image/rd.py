"""Rate against distortion: airjax's compact profile beside the codecs of Pillow, on a folder of images.

A curve has one point per setting of a codec, the mean over all images at that setting. Sizes are those of complete
files, metrics are taken on 8-bit images (`eval.image.quality.score`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes
from airjax.image.defaults import QUALITY_RANGE
from airjax.image.model import Model
from airjax.photographs import read_image
from eval.image.bd_rate import BDRate, bd_rate
from eval.image.codecs import PILLOW, Codec, airjax_codec, is_available, pillow_codec
from eval.image.quality import METRICS, Scores, bits_per_pixel, prepare, score
from eval.plot import Line, Panel, draw_panels, png_bytes
from eval.report import codec_report, finite_mean, format_table, number, write_json
from eval.timing import Timing, time_warm

ANCHOR = "jpeg-420"
# The palette of M. Okabe and K. Ito, which the colour-blind can tell apart, and greys for the two JPEGs.
_COLORS = {
    "airjax": (213, 94, 0),
    "jpeg-420": (60, 60, 64),
    "jpeg-444": (150, 150, 156),
    "webp": (0, 114, 178),
    "jpeg2000": (0, 158, 115),
    "avif": (204, 121, 167),
}
_PLOT_BPP = (1 / 12, 3.0)  # of the plot; far points at either end would press the rest together


@dataclass(frozen=True)
class RateDistortion:
    """What to measure.

    Fields:
      name, description: of the evaluation, for the reports.
      images: a folder of images, or one image.
      airjax_qualities: of the compact profile, 0 to 100, rising.
      refine_steps: of its Gaussians before they are rounded.
      jpeg_qualities: 1 to 100, rising, for both JPEG 4:2:0 and 4:4:4.
      webp_qualities, avif_qualities: 0 to 100, rising.
      jpeg2000_ratios: 24 bits over bits per pixel, above 1, falling.
      anchor_bpp: the rates of JPEG 4:2:0 between which codecs are compared, bits per pixel.
      repetitions: warm runs of each timing, after one that compiles.
      limit: only the first images; None for all.
    """

    name: str
    description: str
    images: str
    airjax_qualities: tuple[float, ...] = (5, 15, 25, 35, 45, 60, 75)
    refine_steps: int = 0
    jpeg_qualities: tuple[int, ...] = (3, 5, 8, 12, 20, 30, 45, 60, 75, 85, 90)
    webp_qualities: tuple[int, ...] = (0, 3, 8, 15, 25, 40, 60, 75, 85, 92)
    jpeg2000_ratios: tuple[float, ...] = (240, 160, 110, 75, 50, 34, 24, 17, 12)
    avif_qualities: tuple[int, ...] = (5, 15, 25, 35, 45, 55, 65, 75, 85)
    anchor_bpp: tuple[float, float] = (0.2, 1.0)
    repetitions: int = 1
    limit: int | None = None

    def __post_init__(self):
        _check_ladder("airjax_qualities", self.airjax_qualities, *QUALITY_RANGE)
        if self.refine_steps < 0:
            raise AirjaxError(f"refine_steps: expected at least 0, got {self.refine_steps}")
        for name, low in (("jpeg_qualities", 1), ("webp_qualities", 0), ("avif_qualities", 0)):
            _check_ladder(name, getattr(self, name), low, 100, whole=True)
        ratios = self.jpeg2000_ratios
        if not ratios or any(a <= b for a, b in pairwise(ratios)) or ratios[-1] <= 1:
            raise AirjaxError(f"jpeg2000_ratios: expected falling numbers above 1, got {ratios}")
        if len(self.anchor_bpp) != 2 or not 0 < self.anchor_bpp[0] < self.anchor_bpp[1]:
            raise AirjaxError(f"anchor_bpp: expected two rising numbers above 0, got {self.anchor_bpp}")
        if self.repetitions < 1:
            raise AirjaxError(f"repetitions: expected at least 1, got {self.repetitions}")
        if self.limit is not None and self.limit < 1:
            raise AirjaxError(f"limit: expected at least 1, got {self.limit}")


def _check_ladder(name: str, ladder: Sequence[float], low: float, high: float, *, whole: bool = False) -> None:
    kind = "whole numbers" if whole else "numbers"
    good = bool(ladder) and all(isinstance(value, int if whole else (int, float)) for value in ladder)
    if not good or any(a >= b for a, b in pairwise(ladder)) or not low <= ladder[0] <= ladder[-1] <= high:
        raise AirjaxError(f"{name}: expected rising {kind} from {low:g} to {high:g}, got {ladder}")


class Point(NamedTuple):
    """One file: its setting, scores, size, and warm times of encoding and decoding."""

    setting: float
    scores: Scores
    num_bytes: int
    bpp: float
    encode: Timing
    decode: Timing


class ImageCurves(NamedTuple):
    """One image: the points of each codec, by its name."""

    source: str
    image_size: tuple[int, int]
    points: dict[str, tuple[Point, ...]]


def make_codecs(config: RateDistortion, model: Model) -> list[Codec]:
    """All codecs that this machine has; one line on screen for each that is missing."""
    codecs = [airjax_codec(model, config.airjax_qualities, refine_steps=config.refine_steps)]
    for name, kind in PILLOW.items():
        if is_available(name):
            codecs.append(pillow_codec(name, getattr(config, kind.ladder)))
        else:
            print(f"{kind.label}: this Pillow comes without it; left out")
    return codecs


def measure(codec: Codec, image: np.ndarray, repetitions: int) -> tuple[Point, ...]:
    """Encodes and decodes one image, (h, w, 3) float32 in [0, 1], at all settings of a codec.

    Raises:
      AirjaxError: the codec cannot hold such an image (each format has a largest size).
    """
    prepared = codec.prepare(image)
    points = []
    for setting in codec.settings:
        try:
            encode_time, data = time_warm(lambda s=setting: codec.encode(prepared, s), repetitions)
            decode_time, decoded = time_warm(lambda d=data: codec.decode(d), repetitions)
        except (OSError, ValueError) as error:
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise AirjaxError(f"{codec.label} cannot hold a {size} image ({error})") from error
        scores = score(image, codec.finish(decoded))
        bpp = bits_per_pixel(len(data), image.shape[:2])
        points.append(Point(setting, scores, len(data), bpp, encode_time, decode_time))
    return tuple(points)


def curve(points: Sequence[Sequence[Point]]) -> dict[str, list]:
    """CompressAI's lists, one operating point per setting: the mean over images.

    Args:
      points: per image, one point per setting.
    """
    per_setting = list(zip(*points, strict=True))
    columns = {
        **{metric: [[p.scores[i] for p in group] for group in per_setting] for i, metric in enumerate(METRICS)},
        "bpp": [[p.bpp for p in group] for group in per_setting],
        "encoding_time": [[p.encode.median for p in group] for group in per_setting],
        "decoding_time": [[p.decode.median for p in group] for group in per_setting],
        "num_bytes": [[p.num_bytes for p in group] for group in per_setting],
    }
    means = {key: [finite_mean(values) for values in groups] for key, groups in columns.items()}
    return {"setting": [group[0].setting for group in per_setting], **means}


def curves(results: Sequence[ImageCurves]) -> dict[str, dict[str, list]]:
    """The curve of each codec over all images."""
    return {name: curve([result.points[name] for result in results]) for name in results[0].points}


def bd_rates(means: dict[str, dict[str, list]], bpp_range: tuple[float, float]) -> dict[str, BDRate]:
    """Delta rate of every codec but the anchor, against the anchor; empty without an anchor."""
    if ANCHOR not in means:
        return {}
    values = {
        name: [np.array(lists[key], float) for key in ("bpp", "psnr-rgb")]  # None becomes NaN
        for name, lists in means.items()
    }
    anchor = values.pop(ANCHOR)
    return {name: bd_rate(*anchor, *other, bpp_range=bpp_range) for name, other in values.items()}


class Comparison(NamedTuple):
    """One codec against the anchor.

    Fields:
      of_means: delta rate of the curves that are means over images.
      mean_percent: mean of the images' own delta rates; None where no image has one. It does not depend on how a codec
        spreads its bits over the images, which the first does: a codec with one knob for quality spends more on rough
        images, one with a knob for size does not.
      num_images: that have a delta rate of their own.
    """

    of_means: BDRate
    mean_percent: float | None
    num_images: int


def compare(results: Sequence[ImageCurves], bpp_range: tuple[float, float]) -> dict[str, Comparison]:
    """Every codec but the anchor; empty without an anchor."""
    singles = [bd_rates(curves([result]), bpp_range) for result in results]
    comparisons = {}
    for name, rate in bd_rates(curves(results), bpp_range).items():
        percents = [single[name].percent for single in singles if single[name].percent is not None]
        comparisons[name] = Comparison(rate, finite_mean(percents), len(percents))
    return comparisons


# --- reports ---------------------------------------------------------------------------------------------


def write_reports(results: Sequence[ImageCurves], codecs: Sequence[Codec], config: RateDistortion, out: Path) -> None:
    """The last image's report in one folder per codec, and `<codec>.json`: means over the images so far."""
    last = results[-1]
    for codec in codecs:
        describe = f"{config.description}; {codec.description}; times in seconds, warm"
        report = codec_report(
            codec.name,
            describe,
            curve([last.points[codec.name]]),
            source=last.source,
            image_size=list(last.image_size),
        )
        write_json(out / codec.name / f"{last.source}.json", report)
        points = [result.points[codec.name] for result in results]
        report = codec_report(
            codec.name,
            f"{describe}; means at equal {codec.knob}",
            curve(points),
            images=[result.source for result in results],
            perfect_files=_num_perfect(points),
        )
        write_json(out / f"{codec.name}.json", report)


def write_bd_rates(results: Sequence[ImageCurves], config: RateDistortion, out: Path) -> None:
    """`bd_rate.json`: every codec against the anchor."""
    codecs = {
        name: {**each.of_means._asdict(), "mean_percent": each.mean_percent, "num_images": each.num_images}
        for name, each in compare(results, config.anchor_bpp).items()
    }
    write_json(out / "bd_rate.json", {"anchor": ANCHOR, "anchor_bpp": config.anchor_bpp, "codecs": codecs})


def _num_perfect(points: Sequence[Sequence[Point]]) -> int:
    return sum(not math.isfinite(point.scores.psnr) for group in points for point in group)


def tables(results: Sequence[ImageCurves], codecs: Sequence[Codec], config: RateDistortion) -> str:
    """One table per codec, and the delta rates."""
    means = curves(results)
    parts = []
    for codec in codecs:
        lists = means[codec.name]
        head = [codec.knob, "bpp", "PSNR, dB", "MS-SSIM", "encode ms", "decode ms"]
        columns = [lists["bpp"], lists["psnr-rgb"], lists["ms-ssim-rgb"]]
        columns += [[1e3 * value for value in lists[key]] for key in ("encoding_time", "decoding_time")]
        rows = [
            [f"{setting:g}", *(number(value, d) for value, d in zip(values, (3, 2, 4, 1, 1), strict=True))]
            for setting, *values in zip(codec.settings, *columns, strict=True)
        ]
        parts.append(f"{codec.description}\n{format_table(head, rows)}\n")
        if perfect := _num_perfect([result.points[codec.name] for result in results]):
            parts.append(f"{perfect} files are perfect; they are left out of the mean PSNR\n")
    labels = {codec.name: codec.label for codec in codecs}
    if comparisons := compare(results, config.anchor_bpp):
        low, high = config.anchor_bpp
        parts.append(
            f"BD-rate: size at equal PSNR against {labels[ANCHOR]}, over its PSNRs at {low:g} to {high:g} bpp, "
            "as far as the codec has them too"
        )
        head = ["codec", "of the mean curves", "PSNR used, dB", "mean over images", "images"]
        parts.append(format_table(head, [_bd_row(labels[name], each) for name, each in comparisons.items()]))
    return "\n".join(parts)


def _bd_row(label: str, comparison: Comparison) -> list[str]:
    interval = comparison.of_means.psnr_range
    return [
        label,
        _percent(comparison.of_means.percent),
        "no overlap" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
        _percent(comparison.mean_percent),
        str(comparison.num_images),
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f} %"


def plot(results: Sequence[ImageCurves], codecs: Sequence[Codec], config: RateDistortion) -> bytes:
    """PSNR and MS-SSIM over bits per pixel, a PNG file. MS-SSIM is shown as -10 log10(1 - MS-SSIM), dB."""
    means = curves(results)
    psnr, ms_ssim = [], []
    for codec in codecs:
        lists = means[codec.name]
        look = (_COLORS[codec.name], 3.6 if codec.name == "airjax" else 1.8)
        bpp = np.array(lists["bpp"], float)
        psnr.append(Line(codec.label, bpp, np.array(lists["psnr-rgb"], float), *look))
        # The largest finite value is that of the float32 next to 1.
        error = np.maximum(1 - np.array(lists["ms-ssim-rgb"], float), 2.0**-24)
        ms_ssim.append(Line(codec.label, bpp, -10 * np.log10(error), *look))
    panels = [
        Panel("PSNR, dB", "bits per pixel", tuple(psnr), x_range=_PLOT_BPP, log2_x=True),
        Panel("MS-SSIM, dB:  -10 log10(1 - MS-SSIM)", "bits per pixel", tuple(ms_ssim), x_range=_PLOT_BPP, log2_x=True),
    ]
    count = "1 image" if len(results) == 1 else f"mean of {len(results)} images at equal settings"
    return png_bytes(draw_panels(f"{config.description}: {count}", panels))


# --- the run ---------------------------------------------------------------------------------------------


def run(config: RateDistortion, weights: Path | None, out: Path) -> int:
    """Measures all images, prints the tables, writes reports and plot; the number of images that failed.

    Args:
      weights: a weights file; None for the shipped one.
      out: folder of the reports: `<codec>.json`, `<codec>/<image>.json`, `bd_rate.json`, `rd.png`, `config.json`.

    Raises:
      AirjaxError: no such weights, no such folder, no image in it, or none that can be measured.
    """
    model, paths = prepare(config, weights, out)
    codecs = make_codecs(config, model)
    results: list[ImageCurves] = []
    with tqdm(paths, unit="image", disable=None) as progress:
        for path in progress:
            try:
                image = read_image(path).pixels
                points = {}
                for codec in codecs:
                    progress.set_postfix_str(f"{path.name} {codec.label}")
                    points[codec.name] = _measured(codec, image, path, config.repetitions)
            except AirjaxError as error:
                tqdm.write(f"error: {error}", file=sys.stderr)
                continue
            results.append(ImageCurves(path.name, image.shape[:2], points))
            write_reports(results, codecs, config, out)
    if not results:
        raise AirjaxError(f"{config.images}: expected images that can be read, found none")
    write_bd_rates(results, config, out)
    atomic_write_bytes(out / "rd.png", plot(results, codecs, config))
    print(tables(results, codecs, config))
    print(f"reports and plot: {out}")
    return len(paths) - len(results)


def _measured(codec: Codec, image: np.ndarray, path: Path, repetitions: int) -> tuple[Point, ...]:
    """`measure` with the file's name in front of an error."""
    try:
        return measure(codec, image, repetitions)
    except AirjaxError as error:
        raise AirjaxError(f"{path}: {error}") from error
