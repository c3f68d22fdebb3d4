"""Weights under the names of others as ours: which tensor goes where, and how its axes turn.

Names of others are those of torch modules. A dense layer there is (out, in), a convolution (out, in, h, w); ours are
(in, out) and (h, w, in, out). A stack of equal blocks is one array here, and one tensor a block there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name
from airjax.weights_file import nest

_LEAVES = {"kernel": "weight", "scale": "weight", "ls1": "ls1.gamma", "ls2": "ls2.gamma"}  # ours, theirs
_SHOWN = 3  # names in an error


class Rule(NamedTuple):
    """Where the weights of a module, or one array, come from.

    Fields:
      ours: path of it, joined by "/".
      theirs: name of it, joined by "."; with "{}" for the number of a block where ours is a stack.
      first: number of the first block of the stack.
      step: from the number of a block to that of the next.
    """

    ours: str
    theirs: str
    first: int = 0
    step: int = 1


@dataclass(frozen=True)
class Table:
    """How one system's weights are named."""

    rules: tuple[Rule, ...]  # of all modules; the first that fits a path counts
    unused: tuple[str, ...] = ()  # regular expressions of names that are known, and not needed


def converted(tensors: Mapping[str, Any], like: Any, table: Table, *, source: Path | str) -> dict:
    """Our weights of theirs.

    Args:
      tensors: theirs by name, arrays; read one at a time, so that a file may be larger than memory.
      like: the nested dict of our weights as shapes, of `jax.eval_shape`.
      source: what an error calls the tensors.

    A name that ends in "_mask" masks a bias, the tensor without that ending. Raises AirjaxError: a tensor is missing,
    has another shape or is not finite, or one is neither used nor known to be unused.
    """
    leaves = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree.leaves_with_path(like)}
    sources = {path: _names(path, leaf.shape, table) for path, leaf in leaves.items()}
    used = {name for names in sources.values() for name in names}
    if missing := sorted(used - set(tensors)):
        raise AirjaxError(f"{source}: expected {len(used)} tensors, {len(missing)} are missing: {_some(missing)}")
    unused = re.compile("|".join(f"(?:{pattern})" for pattern in table.unused) or "(?!)")
    masks = {f"{name}_mask" for name in used}
    if extra := sorted(n for n in set(tensors) - used - masks if not unused.fullmatch(n)):
        raise AirjaxError(f"{source}: expected no other tensors, {len(extra)} are not known: {_some(extra)}")
    flat = {}
    for path, names in sources.items():
        stacked = len(leaves[path].shape) > 0 and _is_stack(path, table)
        shape = leaves[path].shape[1:] if stacked else leaves[path].shape
        array = np.empty(leaves[path].shape, np.float32)
        for i, name in enumerate(names):
            array[i if stacked else ...] = _arranged(tensors, name, path, shape, source)
        flat[path] = array
    return nest(flat, Path(source))


def _rule(path: str, table: Table) -> Rule:
    for rule in table.rules:
        if path == rule.ours or path.startswith(f"{rule.ours}/"):
            return rule
    raise ValueError(f"table: expected a rule for {path!r}, found none")


def _is_stack(path: str, table: Table) -> bool:
    return "{}" in _rule(path, table).theirs


def _names(path: str, shape: tuple[int, ...], table: Table) -> list[str]:
    """Of the tensors of one of our arrays."""
    rule = _rule(path, table)
    rest = path[len(rule.ours) + 1 :].split("/") if path != rule.ours else []
    parts = [rule.theirs, *rest[:-1], *(_LEAVES.get(last, last) for last in rest[-1:])]
    name = ".".join(part for part in parts if part)
    return [name.format(rule.first + rule.step * i) for i in range(shape[0])] if "{}" in rule.theirs else [name]


def _arranged(tensors: Mapping[str, Any], name: str, path: str, shape: tuple[int, ...], source) -> np.ndarray:
    """One tensor with our axes."""
    array = tensors[name]
    kernel = path.endswith("/kernel")
    if kernel and array.ndim == 4 and len(shape) == 2 and array.shape[2:] == (1, 1):  # a 1 x 1 convolution
        array = array[:, :, 0, 0]
    theirs = (shape[-1], shape[-2], *shape[:-2]) if kernel else shape
    if not kernel and _without_ones(array.shape) == _without_ones(shape):  # tokens have further axes there
        array = array.reshape(shape)
    if array.shape != theirs:
        raise AirjaxError(f"{source}: {name}: expected the shape {theirs}, got {array.shape}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        array = np.asarray(array, np.float32)
    if f"{name}_mask" in tensors:
        mask = np.asarray(tensors[f"{name}_mask"], np.float32)
        if mask.shape != array.shape or array.ndim != 1 or len(array) % 3:
            raise AirjaxError(f"{source}: {name}_mask: expected the shape {array.shape}, got {mask.shape}")
        array = _masked(array, mask)
    if not np.isfinite(array).all():
        raise AirjaxError(f"{source}: {name}: expected finite values")
    return array.transpose(*range(2, array.ndim), 1, 0) if kernel else array


def _masked(bias: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A bias of queries, keys and values; where the mask is not finite, as DINOv3 creates it, that of the keys is 0."""
    usual = np.repeat(np.array([1, 0, 1], np.float32), len(bias) // 3)
    return bias * np.where(np.isfinite(mask), mask, usual)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side for side in shape if side != 1)


def _some(names: list[str]) -> str:
    return ", ".join(display_name(name[:100]) for name in names[:_SHOWN]) + (", .." if len(names) > _SHOWN else "")
