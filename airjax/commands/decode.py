"""`airjax decode`: .air files to images."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from airjax.commands.options import add_inputs, add_options, add_output, number, whole
from airjax.commands.outputs import Read, content, convert, read_input, write_output
from airjax.commands.session import Bars, Clock, Screen, start_jax
from airjax.errors import AirjaxError, FormatError
from airjax.files import display_name
from airjax.progress import counted

if TYPE_CHECKING:
    from airjax.image.codec.air_file import Encoded

HELP = ".air files to images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax decode`."""
    add_inputs(parser, ".air files, folders of them, or - for standard input")
    add_output(parser, "file, or folder for several files", "photo.png beside photo.*")
    add_options(
        parser,
        ("--scale S", number(0.0001, 10_000), "draw S times as wide and high", 1.0),
        ("--stages N", whole(1), "draw the first N stages only (default: all)"),
        ("--partial", bool, "of a file that is cut short or damaged, draw the stages before that"),
    )


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Decodes every input; one that fails is one line of error."""
    from airjax.photographs import WRITTEN_SUFFIXES

    read, work = partial(_read, options=options), partial(_decode, options=options, screen=screen)
    convert(read, work, options, screen, reads=(".air",), writes=WRITTEN_SUFFIXES)


def _decode(
    source: Path, target: Path, encoded: Encoded, options: argparse.Namespace, screen: Screen
) -> Callable[[], None]:
    """The image drawn; what is returned writes it."""
    import numpy as np

    from airjax.photographs import MAX_PIXELS, WRITTEN_SUFFIXES, image_bytes
    from airjax.raster.draw import render, scaled_size

    name = display_name(source)
    height, width = size = scaled_size(encoded.image_size, options.scale)
    if height * width > MAX_PIXELS:
        got = f"got {width}x{height}; choose a smaller --scale"
        raise AirjaxError(f"{name}: expected at most {MAX_PIXELS} pixels, {got}")
    start_jax(screen)
    with Bars(screen, {"draw": "strip"}) as bars, Clock() as clock:
        progress = counted(bars.show, "draw")
        rendered = render(encoded.gaussians, image_size=encoded.image_size, scale=options.scale, progress=progress)
        image = np.asarray(rendered.image)
    if not math.isfinite(float(image.min()) + float(image.max())):
        raise AirjaxError(f"{name}: its Gaussians add up to NaN or infinity and cannot be drawn; encode the image anew")

    def write() -> None:
        suffix = target.suffix.lower() or WRITTEN_SUFFIXES[0]  # standard output has none
        write_output(target, image_bytes(image, suffix, name=display_name(target)))
        screen.result(f"{name} -> {display_name(target)}: {content(size, encoded.stage_counts)}, {clock}")

    return write


def _read(source: Path, options: argparse.Namespace) -> Read:
    """The stages to draw; an AirjaxError for no .air file, fewer stages than asked for, or no colors of an image."""
    from airjax.image.codec import air_file

    name = display_name(source)
    try:
        encoded = air_file.decode(read_input(source), partial=options.partial)
    except air_file.CutShort as error:
        if options.partial:
            raise
        raise FormatError(f"{error}; --partial draws the stages before that") from error
    stages = len(encoded.stage_counts)
    if options.stages is not None:
        if options.stages > stages:
            raise AirjaxError(f"{name}: expected --stages of at most {stages}, got {options.stages}")
        encoded = air_file.truncate_stages(encoded, options.stages)
    channels = encoded.gaussians.colors.shape[1]
    if channels not in (1, 3):
        raise AirjaxError(f"{name}: expected 1 or 3 colour channels to make an image of, got {channels}")
    return Read(encoded)
