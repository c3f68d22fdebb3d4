"""What a network of others needs to be converted: how it is known, what it becomes, what it may be used for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from airjax.convert.names import Table

Shapes = Mapping[str, tuple[int, ...]]  # of their tensors by name


class Plan(NamedTuple):
    """What a checkpoint becomes."""

    like: Any  # nested dict of our weights as shapes, of `jax.eval_shape`
    table: Table  # where each comes from
    metadata: Mapping[str, str]  # of our weights file: what the network is built from again


class System(NamedTuple):
    """One network of others."""

    name: str  # of `--system`
    title: str  # in messages
    marks: tuple[str, ...]  # names of tensors that only it has all of
    # Of the shapes and of what is beside the tensors (`Checkpoint.plain`); an AirjaxError, without the file's name, for
    # sizes that cannot be.
    plan: Callable[[Shapes, Mapping[str, Any]], Plan]
    licence: str  # what the weights may be used for, in a sentence
