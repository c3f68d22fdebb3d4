"""`airjax info`: what .air files hold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from airjax.commands.options import add_inputs
from airjax.commands.outputs import content, each, expand, read_input
from airjax.commands.session import Screen
from airjax.errors import AirjaxError

if TYPE_CHECKING:
    from airjax.image.codec.payload import Origin

HELP = "what .air files hold"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax info`."""
    add_inputs(parser, ".air files, folders of them, or - for standard input")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Shows every input; one that is damaged is one line of error."""
    each([(source,) for source in expand(options.inputs, (".air",), screen)], lambda file: _show(file, screen), screen)


def _show(source: Path, screen: Screen) -> None:
    """The parts of one file; a wrong checksum is an AirjaxError once they are shown."""
    from airjax.files import display_name
    from airjax.image.codec import air_file

    name = display_name(source)
    info = air_file.info(read_input(source))
    bits = "" if info.bits_per_gaussian is None else f", {info.bits_per_gaussian:.1f} bits per Gaussian"
    screen.result(
        f"{name}: {content(info.image_size, info.stage_counts)}\n"
        f"  version {info.version}, {info.profile}, {info.channels} channels{_origin(info.origin)}\n"
        f"  {info.num_bytes} bytes, {info.bpp:.3f} bpp{bits}\n"
        f"  Gaussians per stage: {' '.join(map(str, info.stage_counts)) or 'no stage'}\n"
        f"  chunk     offset    payload  checksum"
    )
    for chunk in info.chunks:
        screen.result(f"  {chunk.tag}  {chunk.offset:10}  {chunk.length:9}  {'ok' if chunk.crc_ok else 'WRONG'}")
    if info.attribute_bits and info.bits_per_gaussian is not None:
        shares = {kind: bits / sum(info.stage_counts) for kind, bits in info.attribute_bits.items()}
        shares["heads and chunks"] = info.bits_per_gaussian - sum(shares.values())
        screen.result(f"  bits per Gaussian: {', '.join(f'{kind} {bits:.2f}' for kind, bits in shares.items())}")
    damaged = [f"{chunk.tag} at byte {chunk.offset}" for chunk in info.chunks if not chunk.crc_ok]
    if damaged:
        where = ", ".join(damaged)
        raise AirjaxError(f"{name}: wrong checksums in {where}: damaged since it was written, copy it anew")
    if not info.whole:
        whole = f"{len(info.stage_counts)} of {info.num_stages} stages are whole"
        raise AirjaxError(f"{name}: cut short, {whole}: copy it anew, or draw these with airjax decode --partial")


def _origin(origin: Origin | None) -> str:
    if origin is None:
        return ""
    effort = "" if origin.effort is None else f", effort {origin.effort}"
    return f"; made at quality {origin.quality:g}{effort} by {origin.weights}"
