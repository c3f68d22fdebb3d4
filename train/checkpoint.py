"""Training checkpoints: orbax's CheckpointManager around a flat dict of named arrays.

A checkpoint is a folder named after its step, with two items of orbax: `arrays`, and `meta` (shapes, and small values
of the caller). Orbax writes it under a temporary name and renames it, and moves it away before it is deleted: a folder
with its final name is complete, and a process killed at any moment leaves the other checkpoints alone.
The checksums of its files are added last. Without them orbax would answer damage with any exception, or other numbers.
"""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes
from airjax.weights_file import nest

_CHECKSUMS = "checksums.txt"  # lines of CRC-32 and name
_DELETED = ".deleted"  # where orbax moves what it deletes


def save(folder: str | Path, step: int, state: Any, *, keep: int = 2, extra: dict | None = None) -> Path:
    """Write `state` as the checkpoint of `step`, delete all but the newest `keep`, and return its folder.

    Args:
      step: steps done so far, >= 0; an existing checkpoint of the same step is replaced.
      state: pytree of arrays (typed random keys included).
      extra: small JSON values kept beside the arrays; `read_extra` returns them.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step, keep: expected step >= 0 and keep >= 1, got {step} and {keep}")
    folder, arrays = Path(folder).absolute(), _named_arrays(state)
    items = ocp.args.Composite(  # orbax takes no empty arrays
        arrays=ocp.args.PyTreeSave({name: value for name, value in arrays.items() if value.size}),
        meta=ocp.args.JsonSave({"extra": extra or {}, "shapes": _shapes(arrays)}),
    )
    with _manager(folder, max_to_keep=keep, cleanup_tmp_directories=True, todelete_subdir=_DELETED) as manager:
        if step in manager.all_steps():
            manager.delete(step)
        manager.save(step, args=items, force=True)
    path = folder / str(step)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    lines = [f"{_checksum(file)} {file.relative_to(path).as_posix()}\n" for file in files]
    atomic_write_bytes(path / _CHECKSUMS, "".join(lines).encode())
    shutil.rmtree(folder / _DELETED, ignore_errors=True)
    return path


def steps(folder: str | Path) -> list[int]:
    """Steps of the complete checkpoints in `folder`, ascending; empty if there is no such folder."""
    return sorted(int(path.name) for path in Path(folder).glob("*") if path.name.isdecimal())


def latest_step(folder: str | Path) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    return max(steps(folder), default=None)


def restore(folder: str | Path, state_like: Any, step: int | None = None) -> Any:
    """The state saved at `step` (default: the newest), in the structure and on the devices of `state_like`.

    `state_like` is a pytree of arrays or `jax.ShapeDtypeStruct`. Each restored array gets the sharding of its leaf, if
    that has one, so a checkpoint of one device can be restored on eight and the reverse. Raises AirjaxError: no such
    checkpoint, other names, shapes or types than `state_like`, or damaged files.
    """
    path, meta = _read_meta(folder, step)
    like = _named_arrays(state_like)
    expected, actual = _shapes(like), meta["shapes"]
    for name in [*expected, *actual]:
        if expected.get(name) != actual.get(name):
            difference = f"expected {expected.get(name, 'nothing')}, found {actual.get(name, 'nothing')}"
            raise AirjaxError(f"{path}: not a checkpoint of this model: {name}: {difference}")
    return jax.tree.unflatten(jax.tree.structure(state_like), _read_arrays(path, like).values())


def restore_part(folder: str | Path, name: str, step: int | None = None) -> dict:
    """One branch of a saved state, for instance "params" or "ema", as a nested dict of numpy arrays.

    Needs no model and no optimizer: for exporting weights, and for starting another run from a checkpoint. Raises
    AirjaxError: no such checkpoint, no such branch in it, or damaged files.
    """
    path, meta = _read_meta(folder, step)
    branch = {key: entry for key, entry in meta["shapes"].items() if key.startswith(f"{name}/")}
    if not branch:
        names = sorted({key.split("/")[0] for key in meta["shapes"]})
        raise AirjaxError(f"{path}: expected a branch {name!r}, found {names}")
    like = {key: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for key, (shape, dtype) in branch.items()}
    arrays = _read_arrays(path, like)
    return nest({key.removeprefix(f"{name}/"): np.asarray(value) for key, value in arrays.items()}, path)


def read_extra(folder: str | Path, step: int | None = None) -> dict:
    """The `extra` values saved with the checkpoint of `step` (default: the newest)."""
    return _read_meta(folder, step)[1]["extra"]


def _manager(folder: Path, **options: Any) -> ocp.CheckpointManager:
    """A manager whose `save` returns when all is written."""
    settings = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, save_root_metadata=False, **options)
    return ocp.CheckpointManager(folder, options=settings)


def _read_items(path: Path, **items: Any) -> ocp.args.Composite:
    with _manager(path.parent) as manager:
        return manager.restore(int(path.name), args=ocp.args.Composite(**items))


def _read_meta(folder: str | Path, step: int | None) -> tuple[Path, dict]:
    """The folder of a checkpoint and its `meta`, after a check of all its files."""
    step = latest_step(folder) if step is None else step
    path = Path(folder).absolute() / str(step)
    if not path.is_dir():
        which = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise AirjaxError(f"{path.parent}: expected {which}, found none")
    checksums = path / _CHECKSUMS  # absent where the process was killed after the rename: such a checkpoint is whole
    for line in checksums.read_text(errors="replace").splitlines() if checksums.exists() else ():
        checksum, _, name = line.partition(" ")
        if not (path / name).is_file() or _checksum(path / name) != checksum:
            raise AirjaxError(f"{path / name}: missing or damaged; delete {path} to use an older checkpoint")
    return path, _read_items(path, meta=ocp.args.JsonRestore()).meta


def _checksum(file: Path) -> str:
    return f"{zlib.crc32(file.read_bytes()):08x}"


def _read_arrays(path: Path, like: dict[str, Any]) -> dict[str, jax.Array]:
    """The arrays named in `like`, in its order, shapes, types and shardings."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=getattr(value, "sharding", None) or device)
        for name, value in like.items()
        if value.size
    }
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    item = ocp.args.PyTreeRestore(target, restore_args=arguments, partial_restore=True)
    arrays = _read_items(path, arrays=item).arrays
    return {name: arrays[name] if value.size else jnp.zeros(value.shape, value.dtype) for name, value in like.items()}


def _named_arrays(tree: Any) -> dict[str, Any]:
    """Leaves by their path; a flat dict, so that orbax needs to know nothing about the caller's classes."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "state"
        if name in named:
            raise ValueError(f"state: expected leaves of different names, got {name!r} twice")
        named[name] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return named


def _shapes(arrays: dict[str, Any]) -> dict[str, list]:
    return {name: [list(value.shape), str(value.dtype)] for name, value in arrays.items()}
