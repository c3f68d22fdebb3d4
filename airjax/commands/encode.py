"""`airjax encode`: photographs to .air files."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from airjax.commands.options import MAX_STEPS, add_options, add_photographs, add_weights, number, whole
from airjax.commands.outputs import air_file_line, convert, named, psnr_of, read_photograph
from airjax.commands.session import Clock, Fatal, Screen, progress_bar, start_jax
from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, display_name
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

HELP = "photographs to .air files"
Number = TypeVar("Number", int, float)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax encode`."""
    add_photographs(parser)
    low, high = QUALITY_RANGE
    lossless_mse = f"{MSE_THRESHOLD:g}, {-10 * math.log10(MSE_THRESHOLD):g} dB"
    add_options(
        parser,
        ("-q --quality Q", number(low, high), f"{low:g} (smallest file) to {high:g} (default: {QUALITY:g})"),
        ("--target-psnr DB", number(0.0, 100.0), "smallest file of at least so many decibels"),
        (
            "--target-bpp B",
            number(0.0, 1000.0),
            "best quality of at most so many bits per pixel, everything in the file counted",
        ),
        ("--lossless", bool, "keep the Gaussians as they are, in 32 bytes each: a large file"),
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
            f"(default: those of the effort; with --lossless {REFINE_STEPS})",
        ),
        (
            "--mse-threshold X",
            number(0.0, 1.0),
            "a patch gets a Gaussian where its mean squared error is above X (default: what fits the quality; with "
            f"--lossless {lossless_mse}) ...",
        ),
        (
            "--ssim-threshold X",
            number(0.0, 2.0),
            f"... or where 1 - SSIM of the patch is above X (default: nowhere; with --lossless {SSIM_THRESHOLD:g})",
        ),
    )
    add_weights(parser)


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Encodes every input; one that fails is one line of error."""
    from airjax.image.codec.chunks import SIGNATURE
    from airjax.photographs import IMAGE_SUFFIXES

    goals = ("quality", "target_psnr", "target_bpp", "lossless")
    given = [f"--{goal.replace('_', '-')}" for goal in goals if getattr(options, goal) not in (None, False)]
    if len(given) > 1:
        raise Fatal(f"{' and '.join(given)}: expected one of them")
    if options.lossless and options.effort is not None:
        raise Fatal("--lossless and --effort: expected --refine K, which refines Gaussians that are not rounded")
    work = functools.partial(_encode, options=options, screen=screen)
    convert(work, options, screen, reads=IMAGE_SUFFIXES, writes=(".air",), ours=SIGNATURE)


def _encode(source: Path, target: Path, options: argparse.Namespace, screen: Screen) -> None:
    from airjax.programs import make_room

    pixels = read_photograph(source, screen)
    model = _load_model(options.weights, options.stages, screen)
    make_room()
    with named(source), Clock() as clock:
        encoded, data, remark = _encode_pixels(model, pixels, options, screen)
    psnr = math.nan if screen.quiet else psnr_of(encoded.gaussians, pixels)
    atomic_write_bytes(target, data)
    screen.result(air_file_line(source, target, encoded, len(data), clock, psnr))
    if remark:
        screen.notice(f"{display_name(source)}: {remark}")


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
) -> tuple[Encoded, bytes, str]:
    """(Gaussians as decoded, file, what the user should know about the target or "")."""
    from airjax.image.codec import air_file
    from airjax.image.codec.compress import compress
    from airjax.image.codec.search import search

    chosen = _compress_options(options)
    total = options.refine if options.lossless else sum(chosen.work)
    with progress_bar(screen, total=total or 0, unit="step", desc="refine") as steps:

        def progress(step: int) -> None:
            steps.update(step - steps.n)  # a search refines several times

        if options.lossless:
            encoded = _predict(model, pixels, options, progress)
            return encoded, air_file.encode(encoded), ""
        psnr, bpp = options.target_psnr, options.target_bpp
        if psnr is None and bpp is None:
            quantised = compress(model, pixels, chosen, progress=progress)
            return air_file.dequantised(quantised), air_file.encode(quantised), ""
        result = search(model, pixels, chosen, target_psnr=psnr, target_bpp=bpp, progress=progress)
    return air_file.dequantised(result.quantised), result.data, _remark(result, options)


def _predict(model: Model, pixels: np.ndarray, options: argparse.Namespace, progress: Callable[[int], None]) -> Encoded:
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
    remark = f"quality {result.quality:.1f} gives {result.achieved:.3f}{unit}"
    return remark if result.reached else f"a target of {target:g}{unit} is out of reach; the nearest is {remark}"
