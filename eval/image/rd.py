"""Rate against distortion: airjax's compact profile beside the codecs of Pillow, on a folder of images.

A curve has one point per setting of a codec, the mean over all images at that setting. Sizes are those of complete
files, metrics are taken on 8-bit images (`eval.image.measures.score`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes
from airjax.image.defaults import EFFORT, EFFORT_RANGE, QUALITY_RANGE
from airjax.image.model import Model
from airjax.programs import make_room
from eval.image.bd_rate import BDRate, bd_rate
from eval.image.codecs import PILLOW, Codec, airjax_codec, airjax_name, is_available, pillow_codec
from eval.image.measures import FileResult, measure_file, measure_images, num_perfect, operating_points, prepare
from eval.plots import Line, Panel, draw_panels
from eval.report import codec_report, finite_mean, format_table, number, write_report
from train.settings import check_at_least, where

CODECS = ("airjax", *PILLOW)  # the first stands for one codec for every effort
_PLOT_BPP = (1 / 12, 3.0)  # of the plot; far points at either end would press the rest together


@dataclass(frozen=True)
class RateDistortion:
    """What to measure.

    Fields:
      webp_qualities, avif_qualities: 0 to 100, rising.
    """

    # name, description: of the evaluation, for the reports
    name: str
    description: str
    images: str = where("")  # a folder of images, or one image
    image_set: str = ""  # the one of `eval.image.sets` that `description` speaks of, or none
    airjax_qualities: tuple[float, ...] = (5, 15, 25, 35, 45, 60, 75)  # of the compact profile, 0 to 100, rising
    efforts: tuple[int, ...] = (0, EFFORT)  # of its encoder, 0 to 9, rising; a curve for each
    # 1 to 100, rising, for both JPEG 4:2:0 and 4:4:4
    jpeg_qualities: tuple[int, ...] = (3, 5, 8, 12, 20, 30, 45, 60, 75, 85, 90)
    webp_qualities: tuple[int, ...] = (0, 3, 8, 15, 25, 40, 60, 75, 85, 92)
    # 24 bits over bits per pixel, above 1, falling
    jpeg2000_ratios: tuple[float, ...] = (240, 160, 110, 75, 50, 34, 24, 17, 12)
    avif_qualities: tuple[int, ...] = (5, 15, 25, 35, 45, 55, 65, 75, 85)
    codecs: tuple[str, ...] = CODECS  # which of them; those that this Pillow comes without are left out
    anchor: str = "jpeg-420"  # the one that all others are compared with
    # its rates between which they are, bits per pixel
    anchor_bpp: tuple[float, float] = (0.2, 1.0)
    repetitions: int = 1  # warm runs of each timing, after one that compiles; 0 for the time of that one
    limit: int | None = None  # only the first images; None for all

    def __post_init__(self):
        _check_ladder("airjax_qualities", self.airjax_qualities, *QUALITY_RANGE)
        _check_ladder("efforts", self.efforts, *EFFORT_RANGE, whole=True)
        check_at_least(self, 0, "repetitions")
        check_at_least(self, 1, "limit")
        for name, low in (("jpeg_qualities", 1), ("webp_qualities", 0), ("avif_qualities", 0)):
            _check_ladder(name, getattr(self, name), low, 100, whole=True)
        ratios = self.jpeg2000_ratios
        if not ratios or any(a <= b for a, b in pairwise(ratios)) or ratios[-1] <= 1:
            raise AirjaxError(f"jpeg2000_ratios: expected falling numbers above 1, got {ratios}")
        if unknown := [name for name in self.codecs if name not in CODECS]:
            raise AirjaxError(f"codecs: expected some of {', '.join(CODECS)}, got {unknown[0]!r}")
        anchors = (*(airjax_name(effort) for effort in self.efforts), *PILLOW)
        if self.anchor not in anchors:
            raise AirjaxError(f"anchor: expected one of {', '.join(anchors)}, got {self.anchor!r}")
        if len(self.anchor_bpp) != 2 or not 0 < self.anchor_bpp[0] < self.anchor_bpp[1]:
            raise AirjaxError(f"anchor_bpp: expected two rising numbers above 0, got {self.anchor_bpp}")


def _check_ladder(name: str, ladder: Sequence[float], low: float, high: float, *, whole: bool = False) -> None:
    kind = "whole numbers" if whole else "numbers"
    good = bool(ladder) and all(isinstance(value, int if whole else (int, float)) for value in ladder)
    if not good or any(a >= b for a, b in pairwise(ladder)) or not low <= ladder[0] <= ladder[-1] <= high:
        raise AirjaxError(f"{name}: expected rising {kind} from {low:g} to {high:g}, got {ladder}")


class ImageCurves(NamedTuple):
    """One image: the files of each codec, by its name, one per setting."""

    source: str
    image_size: tuple[int, int]
    files: dict[str, tuple[FileResult, ...]]


def make_codecs(config: RateDistortion, model: Model) -> list[Codec]:
    """The codecs of an evaluation that this machine has; one line on screen for each that is missing."""
    codecs = []
    if "airjax" in config.codecs:
        codecs += [airjax_codec(model, config.airjax_qualities, effort=effort) for effort in config.efforts]
    for name, kind in PILLOW.items():
        if name not in config.codecs:
            continue
        if is_available(name):
            codecs.append(pillow_codec(name, getattr(config, kind.ladder)))
        else:
            print(f"{kind.label}: this Pillow comes without it; left out")
    return codecs


def measure(codec: Codec, image: np.ndarray, repetitions: int) -> tuple[FileResult, ...]:
    """Encodes and decodes one image, (h, w, 3) float32 in [0, 1], at all settings of a codec.

    Raises AirjaxError: the codec cannot hold such an image (each format has a largest size).
    """
    make_room()  # here, so that no timing compiles twice
    prepared = codec.prepare(image)
    try:
        encodes = [partial(codec.encode, prepared, setting) for setting in codec.settings]
        measured = partial(measure_file, image, decode=codec.decode, repetitions=repetitions, finish=codec.finish)
        return tuple(measured(encode)[0] for encode in encodes)
    except (OSError, ValueError) as error:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise AirjaxError(f"{codec.label} cannot hold a {size} image ({error})") from error


def curve(results: Sequence[ImageCurves], codec: Codec) -> dict[str, list]:
    """CompressAI's lists of a codec, one operating point per setting: the mean over images."""
    per_setting = list(zip(*(result.files[codec.name] for result in results), strict=True))
    return {"setting": list(codec.settings), **operating_points(per_setting)}


def curves(results: Sequence[ImageCurves], codecs: Sequence[Codec]) -> dict[str, dict[str, list]]:
    """The curve of each codec over all images."""
    return {codec.name: curve(results, codec) for codec in codecs}


def bd_rates(means: dict[str, dict[str, list]], anchor: str, bpp_range: tuple[float, float]) -> dict[str, BDRate]:
    """Delta rate of every codec but the anchor, against the anchor; empty without an anchor."""
    if anchor not in means:
        return {}
    keys = "bpp", "psnr-rgb"
    values = {name: [np.array(lists[key], float) for key in keys] for name, lists in means.items()}  # None becomes NaN
    anchored = values.pop(anchor)
    return {name: bd_rate(*anchored, *other, bpp_range=bpp_range) for name, other in values.items()}


class Comparison(NamedTuple):
    """One codec against the anchor."""

    of_means: BDRate  # delta rate of the curves that are means over images
    # mean of the images' own delta rates; None where no image has one. It does not depend on how a codec spreads its
    # bits over the images, which the first does: a codec with one knob for quality spends more on rough images, one
    # with a knob for size does not
    mean_percent: float | None
    num_images: int  # that have a delta rate of their own


def compare(
    results: Sequence[ImageCurves], codecs: Sequence[Codec], anchor: str, bpp_range: tuple[float, float]
) -> dict[str, Comparison]:
    """Every codec but the anchor; empty without an anchor."""
    per_image = [bd_rates(curves([result], codecs), anchor, bpp_range) for result in results]
    comparisons = {}
    for name, rate in bd_rates(curves(results, codecs), anchor, bpp_range).items():
        percents = [rates[name].percent for rates in per_image if rates[name].percent is not None]
        comparisons[name] = Comparison(rate, finite_mean(percents), len(percents))
    return comparisons


def write_reports(results: Sequence[ImageCurves], codecs: Sequence[Codec], config: RateDistortion, out: Path) -> None:
    """The last image's report in one folder per codec, and `<codec>.json`: means over the images so far."""
    last = results[-1]
    for codec in codecs:
        times = "warm" if config.repetitions else "of the first call, which may compile"
        description = f"{config.description}; {codec.description}; times in seconds, {times}"
        report = codec_report(codec.name, description, curve([last], codec))
        content = {**report, "source": last.source, "image_size": list(last.image_size)}
        write_report(out / codec.name / f"{last.source}.json", config, content)
        report = codec_report(codec.name, f"{description}; means at equal {codec.knob}", curve(results, codec))
        perfect = sum(num_perfect(result.files[codec.name]) for result in results)
        content = {**report, "images": [result.source for result in results], "perfect_files": perfect}
        write_report(out / f"{codec.name}.json", config, content)


def tables(results: Sequence[ImageCurves], codecs: Sequence[Codec], config: RateDistortion) -> str:
    """One table per codec, and the delta rates."""
    parts = []
    for codec in codecs:
        lists = curve(results, codec)
        head = [codec.knob, "bpp", "PSNR, dB", "MS-SSIM", "encode ms", "decode ms"]
        columns = [lists["bpp"], lists["psnr-rgb"], lists["ms-ssim-rgb"]]
        columns += [[1e3 * value for value in lists[key]] for key in ("encoding_time", "decoding_time")]
        rows = [
            [f"{setting:g}", *(number(value, d) for value, d in zip(values, (3, 2, 4, 1, 1), strict=True))]
            for setting, *values in zip(codec.settings, *columns, strict=True)
        ]
        parts.append(f"{codec.description}\n{format_table(head, rows)}\n")
        if perfect := sum(num_perfect(result.files[codec.name]) for result in results):
            parts.append(f"{perfect} files are perfect; they are left out of the mean PSNR\n")
    labels = {codec.name: codec.label for codec in codecs}
    if comparisons := compare(results, codecs, config.anchor, config.anchor_bpp):
        low, high = config.anchor_bpp
        interval = f"over its PSNRs at {low:g} to {high:g} bpp, as far as the codec has them too"
        parts.append(f"BD-rate: size at equal PSNR against {labels[config.anchor]}, {interval}")
        head = ["codec", "of the mean curves", "PSNR used, dB", "mean over images", "images"]
        parts.append(format_table(head, [_bd_row(labels[name], item) for name, item in comparisons.items()]))
    return "\n".join(parts)


def _bd_row(label: str, comparison: Comparison) -> list[str]:
    interval = comparison.of_means.psnr_range
    of_means, mean = (
        "-" if value is None else f"{value:+.1f} %" for value in (comparison.of_means.percent, comparison.mean_percent)
    )
    used = "no overlap" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
    return [label, of_means, used, mean, str(comparison.num_images)]


def plot(results: Sequence[ImageCurves], codecs: Sequence[Codec], config: RateDistortion) -> bytes:
    """PSNR and MS-SSIM over bits per pixel, a PNG file. MS-SSIM is shown as -10 log10(1 - MS-SSIM), dB."""
    count = "1 image" if len(results) == 1 else f"mean of {len(results)} images at equal settings"
    return draw_panels(f"{config.description}: {count}", _panels(results, codecs))


def _panels(results: Sequence[ImageCurves], codecs: Sequence[Codec]) -> list[Panel]:
    psnr, ms_ssim = [], []
    for codec in codecs:
        lists = curve(results, codec)
        bpp = np.array(lists["bpp"], float)
        shown = (bpp >= _PLOT_BPP[0]) & (bpp <= _PLOT_BPP[1])
        psnr.append(Line(codec.label, bpp[shown], np.array(lists["psnr-rgb"], float)[shown]))
        # The largest finite value is that of the float32 next to 1.
        error = np.maximum(1 - np.array(lists["ms-ssim-rgb"], float), 2.0**-24)
        ms_ssim.append(Line(codec.label, bpp[shown], -10 * np.log10(error)[shown]))
    titles = {"PSNR, dB": psnr, "MS-SSIM, dB:  -10 log10(1 - MS-SSIM)": ms_ssim}
    return [Panel(title, "bits per pixel", tuple(lines), log2_x=True) for title, lines in titles.items()]


def run(config: RateDistortion, weights: Path | None, out: Path) -> int:
    """Prints tables, writes `<codec>.json`, `<codec>/<image>.json`, `bd_rate.json`, `rd.png`; see `eval.config`."""
    model, paths = prepare(config, weights)
    codecs = make_codecs(config, model)

    def measure_all(name: str, image: np.ndarray) -> ImageCurves:
        files = {codec.name: measure(codec, image, config.repetitions) for codec in codecs}
        return ImageCurves(name, image.shape[:2], files)

    results: list[ImageCurves] = []
    for result in measure_images(config.images, paths, measure_all):
        results.append(result)
        write_reports(results, codecs, config, out)
    rates = {
        name: {**item.of_means._asdict(), "mean_percent": item.mean_percent, "num_images": item.num_images}
        for name, item in compare(results, codecs, config.anchor, config.anchor_bpp).items()
    }
    content = {"anchor": config.anchor, "anchor_bpp": list(config.anchor_bpp), "codecs": rates}
    write_report(out / "bd_rate.json", config, content)
    atomic_write_bytes(out / "rd.png", plot(results, codecs, config))
    print(tables(results, codecs, config))
    print(f"reports and plot: {out}")
    return len(paths) - len(results)
