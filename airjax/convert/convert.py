"""Checkpoints of others to our weights files: `convert` reads one, knows the network by its names, and writes ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from airjax.convert import air, anysplat, dino, pi3
from airjax.convert.names import converted
from airjax.convert.readers import Checkpoint, open_checkpoint
from airjax.convert.system import System
from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.weights_file import save_weights, sha256

# The first that fits is taken: those inside of others stand behind them.
SYSTEMS: tuple[System, ...] = (*air.SYSTEMS, *anysplat.SYSTEMS, *pi3.SYSTEMS, *dino.SYSTEMS)


class Converted(NamedTuple):
    """What was converted."""

    system: System
    weights: int  # how many
    halves: int  # tensors of 16-bit floats, which became float32


def convert(
    source: Path,
    target: Path,
    *,
    system: str | None = None,
    storage: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Writes the weights of a checkpoint as a weights file, which says whose they are and what they may be used for.

    Args:
      system: name of one of `SYSTEMS`; by default that which the names of the tensors tell.
      storage: "float32" or "float16".
      progress: called with the number of tensors that are read, and that of all.

    In memory are our weights once, and one tensor. Raises AirjaxError, and writes nothing: not a checkpoint, none of a
    system known, or with tensors that are missing, not known, of another shape, or not finite.
    """
    name = display_name(source)
    checkpoint = open_checkpoint(source)
    chosen = _chosen(checkpoint, system)
    if progress is not None:
        done, total = itertools.count(1), len(checkpoint)
        checkpoint.on_read = lambda: progress(next(done), total)
    try:
        plan = chosen.plan(checkpoint.shapes, checkpoint.plain)
        params = converted(checkpoint, plan.like, plan.table, source="")
    except AirjaxError as error:
        told = str(error).removeprefix(": ").removeprefix(f"{name}: ")
        raise AirjaxError(
            f"{name}: {told}; read as {chosen.title}: use its official file, or --system for another network"
        ) from error
    about = {"system": chosen.name, "source": source.name, "source_sha256": sha256(source), "licence": chosen.licence}
    try:
        save_weights(target, params, {**plan.metadata, **about}, storage=storage)
    except AirjaxError:
        raise
    except ValueError as error:
        raise AirjaxError(f"{name}: expected values within the range of {storage}: store them as float32") from error
    halves = sum(dtype.kind in "fV" and dtype.itemsize == 2 for dtype in checkpoint.dtypes.values())
    return Converted(chosen, sum(leaf.size for leaf in jax.tree.leaves(params)), halves)


def _chosen(checkpoint: Checkpoint, asked: str | None) -> System:
    name, names = display_name(checkpoint.path), [system.name for system in SYSTEMS]
    if asked is not None and asked not in names:
        raise AirjaxError(f"--system {asked}: expected one of {', '.join(names)}")
    for system in SYSTEMS:
        if asked in (None, system.name) and set(system.marks) <= set(checkpoint):
            return system
    known = ", ".join(system.title for system in SYSTEMS if asked in (None, system.name))
    found = ", ".join(display_name(one[:100]) for one in itertools.islice(checkpoint, 2))
    hint = "see docs/weights.md" if asked is None else "leave --system out, or use the official file"
    raise AirjaxError(f"{name}: expected weights of {known}, found other tensors ({found}, ..): {hint}")
