"""`airjax convert`: weights that others have published, to a weights file of ours."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from airjax.commands.options import add_options, add_output
from airjax.commands.outputs import Guard
from airjax.commands.session import Bars, Screen
from airjax.errors import AirjaxError
from airjax.files import display_name

HELP = "weights that others have published (.safetensors, .pt), to a weights file of ours"
_SUFFIX = ".safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `airjax convert`."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file of weights; no code in it is run")
    add_output(parser, f"weights file ({_SUFFIX})", f"checkpoint{_SUFFIX} beside checkpoint.*")
    add_options(
        parser,
        ("--system NAME", str, "network that it holds, where its tensors do not tell"),
        ("--storage", ("float32", "float16"), "how weights are stored; float16 takes half the space", "float32"),
    )


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Writes the weights file, and says what it holds and may be used for."""
    from airjax.convert.convert import convert

    start, source = time.perf_counter(), Path(options.checkpoint)
    target = Path(options.output or source.with_suffix(_SUFFIX))
    name = display_name(target)
    if target.suffix.lower() != _SUFFIX or (options.output is None and target == source):
        raise AirjaxError(f"{name}: expected another name for the weights file, ending in {_SUFFIX} (-o)")
    guard = Guard([source], options)
    guard.check(source, target)
    with Bars(screen, {"read": "tensor"}) as bars:
        progress = partial(bars.show, "read")
        try:
            done = convert(source, target, system=options.system, storage=options.storage, progress=progress)
        except MemoryError as error:
            raise AirjaxError(f"{display_name(source)}: not enough memory for its weights") from error
    if done.halves:
        screen.notice(f"{display_name(source)}: {done.halves} tensors of 16-bit floats are stored as {options.storage}")
    size, seconds = target.stat().st_size / 1e6, time.perf_counter() - start
    screen.result(
        f"{display_name(source)} -> {name}: {done.system.title}, {done.weights} weights as {options.storage}, "
        f"{size:.1f} MB, {seconds:.1f} s"
    )
    screen.notice(f"{name}: {done.system.licence}")
