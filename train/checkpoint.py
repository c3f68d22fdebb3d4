"""Training checkpoints (orbax).

A checkpoint is a folder `step_00001200` with the arrays of the state (`arrays/`, orbax) and `meta.json` (step, shapes,
small values of the caller). It is written under a temporary name, synced and renamed: a folder with its final name is
complete, and a process killed at any moment leaves the others alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from airjax.errors import AirjaxError
from airjax.weights_file import nest, sync

_STEP = re.compile(r"step_(\d{8,})$")


def save(folder: str | Path, step: int, state: Any, *, keep: int = 2, extra: dict | None = None) -> Path:
    """Write `state` as the checkpoint of `step`, then delete all but the newest `keep`; return its folder.

    Args:
      folder: parent of the checkpoints; created if absent.
      step: steps done so far, >= 0; an existing checkpoint of the same step is replaced.
      state: pytree of arrays (typed random keys included).
      keep: how many checkpoints stay, >= 1.
      extra: small JSON values kept beside the arrays; `read_extra` gives them back.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step, keep: expected step >= 0 and keep >= 1, got {step} and {keep}")
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    final, temporary = _step_folder(folder, step), folder / f".tmp-{step}"
    temporary.mkdir()
    arrays = _named_arrays(state)
    with ocp.StandardCheckpointer() as writer:
        writer.save(temporary / "arrays", {k: v for k, v in arrays.items() if v.size})
    shapes = {name: [list(value.shape), str(value.dtype)] for name, value in arrays.items()}
    files = (file for file in sorted((temporary / "arrays").rglob("*")) if file.is_file())
    checksums = {str(file.relative_to(temporary / "arrays")): _checksum(file) for file in files}
    meta = {"step": step, "extra": extra or {}, "shapes": shapes, "files": checksums}
    (temporary / "meta.json").write_text(json.dumps(meta, indent=1))
    sync(temporary)
    if final.exists():
        _delete(final)
    os.rename(temporary, final)
    sync(folder, recursive=False)
    for old in steps(folder)[:-keep]:
        _delete(_step_folder(folder, old))
    return final


def steps(folder: str | Path) -> list[int]:
    """Steps of the complete checkpoints in `folder`, ascending; empty if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(m[1]) for entry in folder.iterdir() if (m := _STEP.match(entry.name)) and entry.is_dir())


def latest_step(folder: str | Path) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    found = steps(folder)
    return found[-1] if found else None


def restore(folder: str | Path, state_like: Any, step: int | None = None) -> Any:
    """The state saved at `step` (default: the newest), in the structure and on the devices of `state_like`.

    Args:
      folder: parent of the checkpoints.
      state_like: pytree of arrays or `jax.ShapeDtypeStruct`; where a leaf has a sharding the restored array
        gets it, so a checkpoint of one device can be restored on eight and the reverse.

    Raises:
      AirjaxError: no such checkpoint, other names, shapes or types than `state_like`, or damaged files.
    """
    path, meta = _read_meta(folder, step)
    like = _named_arrays(state_like)
    expected = {name: [list(value.shape), str(value.dtype)] for name, value in like.items()}
    if expected != meta["shapes"]:
        raise AirjaxError(f"{path}: not a checkpoint of this model: {_difference(meta['shapes'], expected)}")
    arrays = _read_arrays(path, meta, {name: _abstract(value) for name, value in like.items()})
    leaves, treedef = jax.tree.flatten(state_like)
    restored = [
        jax.random.wrap_key_data(arrays[name], impl=_key_impl(leaf)) if _is_key(leaf) else arrays[name]
        for leaf, name in zip(leaves, like, strict=True)
    ]
    return jax.tree.unflatten(treedef, restored)


def restore_part(folder: str | Path, name: str, step: int | None = None) -> dict:
    """One branch of a saved state, for instance "params" or "ema", as a nested dict of numpy arrays.

    Needs no model and no optimiser: for exporting weights, and for starting another run from a checkpoint.

    Raises:
      AirjaxError: no such checkpoint, no such branch in it, or damaged files.
    """
    path, meta = _read_meta(folder, step)
    target = {
        key: _abstract(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))) for key, (shape, dtype) in meta["shapes"].items()
    }
    arrays = _read_arrays(path, meta, target)
    part = {key.removeprefix(f"{name}/"): arrays[key] for key in arrays if key.startswith(f"{name}/")}
    if not part:
        raise AirjaxError(f"{path}: expected a branch {name!r}, found {sorted({key.split('/')[0] for key in arrays})}")
    return nest({key: np.asarray(value) for key, value in part.items()}, path)


def read_extra(folder: str | Path, step: int | None = None) -> dict:
    """The `extra` values saved with the checkpoint of `step` (default: the newest)."""
    return _read_meta(folder, step)[1]["extra"]


def _read_arrays(path: Path, meta: dict, target: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """The arrays named in `target`; those without elements are not on disk (orbax refuses them).

    The files are compared with what was written first: on damaged ones orbax raises anything, or nothing.
    """
    for name, checksum in meta["files"].items():
        file = path / "arrays" / name
        if not file.is_file() or _checksum(file) != checksum:
            raise AirjaxError(f"{file}: missing or damaged; delete {path} to use an older checkpoint")
    with ocp.StandardCheckpointer() as reader:
        arrays = reader.restore(path / "arrays", {name: like for name, like in target.items() if like.size})
    return {name: arrays[name] if like.size else jnp.zeros(like.shape, like.dtype) for name, like in target.items()}


def _checksum(file: Path) -> int:
    return zlib.crc32(file.read_bytes())


def _step_folder(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}"


def _read_meta(folder: str | Path, step: int | None) -> tuple[Path, dict]:
    folder = Path(folder).absolute()
    step = latest_step(folder) if step is None else step
    if step is None or not _step_folder(folder, step).is_dir():
        which = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise AirjaxError(f"{folder}: expected {which}, found none")
    path = _step_folder(folder, step)
    try:
        meta = json.loads((path / "meta.json").read_text())
        return path, {"extra": meta["extra"], "shapes": meta["shapes"], "files": meta.get("files", {})}
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path / 'meta.json'}: missing or damaged; delete {path} to use an older checkpoint"
        raise AirjaxError(message) from error


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _named_arrays(tree: Any) -> dict[str, Any]:
    """Leaves by their path; a flat dict, so that orbax needs to know nothing about the caller's classes."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "state"
        if name in named:
            raise ValueError(f"state: expected leaves of different names, got {name!r} twice")
        if _is_key(leaf):
            leaf = _key_data(leaf)
        named[name] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return named


def _key_data(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)
    return jax.random.key_data(leaf)


def _key_impl(leaf: Any) -> Any:
    """The generator of a typed key, which JAX tells of arrays only: an abstract one is traced."""
    seen = []
    jax.eval_shape(lambda key: seen.append(jax.random.key_impl(key)), leaf)
    return seen[0]


def _abstract(value: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(value, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)


def _difference(found: dict, expected: dict) -> str:
    """The first leaf in which two tables of shapes differ, in words."""
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            return f"{name}: expected {expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
    return "the order of the leaves differs"


def _delete(path: Path) -> None:
    """Remove a checkpoint so that one half deleted never has a checkpoint's name."""
    doomed = path.parent / f".tmp-deleted-{path.name}"
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
