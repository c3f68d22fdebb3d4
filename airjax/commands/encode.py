"""`airjax encode`: photographs to .air files."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from airjax.commands.options import MAX_STEPS, add_options, add_photographs, add_weights, number, whole
from airjax.commands.outputs import air_file_line, convert, named, psnr_of, read_photograph, write_output
from airjax.commands.session import Bars, Clock, Fatal, Screen, start_jax
from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.image.defaults import (
    EFFORT,
    EFFORT_RANGE,
    MSE_THRESHOLD,
    QUALITY,
    QUALITY_RANGE,
    REFINE_STEPS,
    SOLVE_STEPS,
    SSIM_THRESHOLD,
)

if TYPE_CHECKING:
    import numpy as np

    from airjax.image.codec.air_file import Encoded
    from airjax.image.codec.compress import CompressOptions
    from airjax.image.codec.search import SearchResult
    from airjax.image.model import Model
    from airjax.progress import Progress

HELP = "photographs to .air files"
Number = TypeVar("Number", int, float)
_POOR = 30.0  # dB, below which a file that is larger than its source is no use
_UNITS = {"predict": "part", "refine": "step", "colors": "strip", "round": "sweep"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax encode`."""
    add_photographs(parser)
    low, high = QUALITY_RANGE
    exact_mse = f"{MSE_THRESHOLD:g}, {-10 * math.log10(MSE_THRESHOLD):g} dB"
    add_options(
        parser,
        ("-q --quality Q", number(low, high), f"{low:g} (smallest file) to {high:g} (default: {QUALITY:g})"),
        ("--target-psnr DB", number(0.0, 100.0), "smallest file of at least so many decibels"),
        (
            "--target-bpp B",
            number(0.0, 1000.0),
            "best quality of at most so many bits per pixel, everything in the file counted",
        ),
        (
            "--exact-gaussians",
            bool,
            "keep the Gaussians unrounded, in 32 bytes each: a large file, whose picture is as close as they are",
        ),
        ("--stages N", whole(1), "run the first N stages only (default: all)"),
        ("--max-gaussians N", whole(0), "most Gaussians of one image (default: no limit)"),
        ("--solve-steps K", whole(0, 1000), "conjugate-gradient steps on the colours, 0 for none", SOLVE_STEPS),
        (
            "--effort E",
            whole(*EFFORT_RANGE),
            "0 (one pass) to 9 (slowest, smallest file): how long the Gaussians are refined for few bits "
            f"(default: {EFFORT})",
        ),
        (
            "--refine K",
            whole(0, MAX_STEPS),
            "gradient steps on the predicted Gaussians, about a tenth of a second each at 768 x 512 "
            f"(default: those of the effort; with --exact-gaussians {REFINE_STEPS})",
        ),
        (
            "--mse-threshold X",
            number(0.0, 1.0),
            "a patch gets a Gaussian where its mean squared error is above X (default: what fits the quality; with "
            f"--exact-gaussians {exact_mse}) ...",
        ),
        (
            "--ssim-threshold X",
            number(0.0, 2.0),
            "... or where 1 - SSIM of the patch is above X (default: nowhere; with --exact-gaussians "
            f"{SSIM_THRESHOLD:g})",
        ),
    )
    add_weights(parser)
    parser.add_argument("--lossless", action="store_true", help=argparse.SUPPRESS)  # its name once


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Encodes every input; one that fails is one line of error."""
    from airjax.photographs import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES

    if options.lossless:
        screen.notice("--lossless: the Gaussians are kept, not the pixels, so it is called --exact-gaussians now")
        options.exact_gaussians = True
    goals = ("quality", "target_psnr", "target_bpp", "exact_gaussians")
    given = [f"--{goal.replace('_', '-')}" for goal in goals if getattr(options, goal) not in (None, False)]
    if len(given) > 1:
        raise Fatal(f"{' and '.join(given)}: expected one of them")
    if options.exact_gaussians and options.effort is not None:
        raise Fatal("--exact-gaussians and --effort: expected --refine K, which refines Gaussians that are not rounded")
    work = functools.partial(_encode, options=options, screen=screen)
    suffixes = {"reads": IMAGE_SUFFIXES, "writes": (".air",), "others": UNREADABLE_SUFFIXES}
    convert(read_photograph, work, options, screen, **suffixes)


def _encode(
    source: Path, target: Path, pixels: np.ndarray, options: argparse.Namespace, screen: Screen
) -> Callable[[], None]:
    """The file made; what is returned writes it."""
    from airjax.programs import make_room

    model = _load_model(options.weights, options.stages, screen)
    make_room()
    with named(source), Clock() as clock:
        encoded, data, result = _encode_pixels(model, pixels, options, screen)
    psnr = math.nan if screen.quiet else psnr_of(encoded.gaussians, pixels)

    def write() -> None:
        write_output(target, data)
        screen.result(air_file_line(source, target, encoded, len(data), clock, psnr))
        if result is not None:
            say = screen.notice if result.reached else screen.shortfall
            say(f"{display_name(source)}: {_remark(result, options)}")
        if not options.exact_gaussians and psnr < _POOR and source.is_file() and source.stat().st_size < len(data):
            screen.notice(
                f"{display_name(source)}: larger than the image file itself, and not close to it: Gaussians are for "
                "photographs; text and drawings are better kept as PNG or WebP, or take a higher --effort"
            )

    return write


@functools.cache  # once, when the first photograph has been read
def _load_model(weights: str | None, num_stages: int | None, screen: Screen) -> Model:
    """The weights; having none that can be used, or fewer stages than asked for, ends the run."""
    from airjax.image.model import load

    start_jax(screen)
    try:
        model = load(weights)
    except (AirjaxError, OSError) as error:
        raise Fatal(str(error)) from error
    if num_stages is not None and num_stages > len(model.stages):
        raise Fatal(f"--stages: expected at most {len(model.stages)} for {model.name}, got {num_stages}")
    return model


def _encode_pixels(
    model: Model, pixels: np.ndarray, options: argparse.Namespace, screen: Screen
) -> tuple[Encoded, bytes, SearchResult | None]:
    """(Gaussians as decoded, file, what a search for a target came to)."""
    from airjax.image.codec import air_file
    from airjax.image.codec.compress import compress
    from airjax.image.codec.search import search

    chosen = _compress_options(options)
    with Bars(screen, _UNITS) as bars:
        if options.exact_gaussians:
            encoded = _predict(model, pixels, options, bars.show)
            return encoded, air_file.encode(encoded), None
        psnr, bpp = options.target_psnr, options.target_bpp
        if psnr is None and bpp is None:
            quantised = compress(model, pixels, chosen, progress=bars.show)
            return air_file.dequantised(quantised), air_file.encode(quantised), None
        harder = options.effort is None and options.refine is None
        result = search(model, pixels, chosen, target_psnr=psnr, target_bpp=bpp, any_effort=harder, progress=bars.show)
    return air_file.dequantised(result.quantised), result.data, result


def _predict(model: Model, pixels: np.ndarray, options: argparse.Namespace, progress: Progress) -> Encoded:
    return model.encode(
        pixels,
        num_stages=options.stages,
        max_gaussians=options.max_gaussians,
        mse_threshold=_given(options.mse_threshold, MSE_THRESHOLD),
        ssim_threshold=_given(options.ssim_threshold, SSIM_THRESHOLD),
        solve_steps=options.solve_steps,
        refine_steps=options.refine or REFINE_STEPS,
        progress=progress,
    )


def _compress_options(options: argparse.Namespace) -> CompressOptions:
    from airjax.image.codec.compress import CompressOptions

    return CompressOptions(
        quality=_given(options.quality, QUALITY),
        num_stages=options.stages,
        max_gaussians=options.max_gaussians,
        mse_threshold=options.mse_threshold,
        ssim_threshold=_given(options.ssim_threshold, CompressOptions.ssim_threshold),
        solve_steps=options.solve_steps,
        effort=_given(options.effort, EFFORT),
        refine_steps=options.refine,
    )


def _given(value: Number | None, default: Number) -> Number:
    return default if value is None else value


def _remark(result: SearchResult, options: argparse.Namespace) -> str:
    """How close a search came to its target."""
    unit, target = (" dB", options.target_psnr) if options.target_bpp is None else (" bpp", options.target_bpp)
    quality = f"quality {round(result.quality, 1):g}"
    remark = f"{', '.join(filter(None, (quality, result.besides)))} gives {result.achieved:.3f}{unit}"
    return remark if result.reached else f"a target of {target:g}{unit} is out of reach; the nearest, {remark}"
