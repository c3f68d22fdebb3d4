"""`airjax encode`: photographs to .air files in one pass."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from airjax.commands.options import MAX_STEPS, add_photographs, add_weights, number, whole
from airjax.commands.outputs import air_file_line, convert, named, psnr_of, read_photograph
from airjax.commands.session import Clock, Fatal, Screen, progress_bar, start_jax
from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, display_name
from airjax.image.defaults import MSE_THRESHOLD, QUALITY, QUALITY_RANGE, REFINE_STEPS, SOLVE_STEPS, SSIM_THRESHOLD

if TYPE_CHECKING:
    import numpy as np

    from airjax.image.codec.air_file import Encoded
    from airjax.image.codec.compress import CompressOptions, SearchResult
    from airjax.image.model import Model

HELP = "photographs to .air files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax encode`."""
    add_photographs(parser)
    parser.add_argument(
        "-q",
        "--quality",
        type=number(*QUALITY_RANGE),
        metavar="Q",
        help=f"{QUALITY_RANGE[0]:g} (smallest file) to {QUALITY_RANGE[1]:g} (default: {QUALITY:g})",
    )
    parser.add_argument(
        "--target-psnr", type=number(0.0, 100.0), metavar="DB", help="smallest file of at least so many decibels"
    )
    parser.add_argument(
        "--target-bpp",
        type=number(0.0, 1000.0),
        metavar="B",
        help="best quality of at most so many bits per pixel, everything in the file counted",
    )
    parser.add_argument(
        "--lossless", action="store_true", help="keep the Gaussians as they are, in 32 bytes each: a large file"
    )
    parser.add_argument("--stages", type=whole(1), metavar="N", help="run the first N stages only (default: all)")
    parser.add_argument(
        "--max-gaussians", type=whole(0), metavar="N", help="most Gaussians of one image (default: no limit)"
    )
    parser.add_argument(
        "--solve-steps",
        type=whole(0, 1000),
        default=SOLVE_STEPS,
        metavar="K",
        help="conjugate-gradient steps on the colours, 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--refine",
        type=whole(0, MAX_STEPS),
        default=REFINE_STEPS,
        metavar="K",
        help="gradient steps on the predicted Gaussians, a tenth of a second each for a photograph of 768 x 512 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--mse-threshold",
        type=number(0.0, 1.0),
        metavar="X",
        help="a patch gets a Gaussian where its mean squared error is above X (default: what fits the quality; with "
        f"--lossless {MSE_THRESHOLD:g}, {-10 * math.log10(MSE_THRESHOLD):g} dB) ...",
    )
    parser.add_argument(
        "--ssim-threshold",
        type=number(0.0, 2.0),
        metavar="X",
        help=f"... or where 1 - SSIM of the patch is above X (default: nowhere; with --lossless {SSIM_THRESHOLD:g})",
    )
    add_weights(parser)


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Encodes every input; one that fails is one line of error."""
    from airjax.image.codec.air_file import SIGNATURE
    from airjax.photographs import IMAGE_SUFFIXES

    def encode_file(source: Path, target: Path) -> None:
        _encode(source, target, options, screen)

    _check_goals(options)
    convert(encode_file, options, screen, reads=IMAGE_SUFFIXES, writes=(".air",), ours=SIGNATURE)


def _check_goals(options: argparse.Namespace) -> None:
    """One goal at a time: a quality, a target, or lossless."""
    goals = ("quality", "target_psnr", "target_bpp", "lossless")
    given = [f"--{goal.replace('_', '-')}" for goal in goals if getattr(options, goal) not in (None, False)]
    if len(given) > 1:
        raise Fatal(f"{' and '.join(given)}: expected one of them")


def _encode(source: Path, target: Path, options: argparse.Namespace, screen: Screen) -> None:
    pixels = read_photograph(source, screen)
    model = _load_model(options.weights, options.stages, screen)
    with named(source), Clock() as clock:
        encoded, data, remark = _encode_pixels(model, pixels, options, screen)
    psnr = math.nan if screen.quiet else psnr_of(encoded.gaussians, pixels)
    atomic_write_bytes(target, data)
    screen.result(air_file_line(source, target, encoded, len(data), clock, psnr))
    if remark:
        screen.notice(f"{display_name(source)}: {remark}")


@functools.cache  # once, when the first photograph has been read
def _load_model(weights: str | None, num_stages: int | None, screen: Screen) -> Model:
    """The weights; any problem with them ends the run.

    Raises:
      Fatal: no usable weights, or fewer stages than asked for.
    """
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
) -> tuple[Encoded, bytes, str]:
    """(Gaussians as decoded, file, what the user should know about the target or "")."""
    from airjax.image.codec import air_file
    from airjax.image.codec.compress import compress, search

    with progress_bar(screen, total=options.refine, unit="step", desc="refine") as steps:

        def progress(step: int) -> None:
            steps.update(step - steps.n)  # a search refines several times

        if options.lossless:
            encoded = _predict(model, pixels, options, progress)
            return encoded, air_file.encode(encoded), ""
        if options.target_psnr is None and options.target_bpp is None:
            quantised = compress(model, pixels, _compress_options(options), progress=progress)
            return air_file.dequantised(quantised), air_file.encode(quantised), ""
        result = search(
            model,
            pixels,
            _compress_options(options),
            target_psnr=options.target_psnr,
            target_bpp=options.target_bpp,
            progress=progress,
        )
    return air_file.dequantised(result.quantised), result.data, _remark(result, options)


def _predict(model: Model, pixels: np.ndarray, options: argparse.Namespace, progress: Callable[[int], None]) -> Encoded:
    return model.encode(
        pixels,
        num_stages=options.stages,
        max_gaussians=options.max_gaussians,
        mse_threshold=_given(options.mse_threshold, MSE_THRESHOLD),
        ssim_threshold=_given(options.ssim_threshold, SSIM_THRESHOLD),
        solve_steps=options.solve_steps,
        refine_steps=options.refine,
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
        refine_steps=options.refine,
    )


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _remark(result: SearchResult, options: argparse.Namespace) -> str:
    """How close a search came to its target."""
    unit, target = (" dB", options.target_psnr) if options.target_bpp is None else (" bpp", options.target_bpp)
    remark = f"quality {result.quality:.1f} gives {result.achieved:.3f}{unit}"
    return remark if result.reached else f"a target of {target:g}{unit} is out of reach; the nearest is {remark}"
