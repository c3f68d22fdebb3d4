"""Portable weights: one `.safetensors` file with a nested dict of arrays, its keys joined by "/", and text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes

_STORAGE = {"float32": np.float32, "float16": np.float16}


def save_weights(
    path: str | Path, params: Mapping, metadata: Mapping[str, str] | None = None, *, storage: str = "float32"
) -> None:
    """Write a nested dict of arrays to one safetensors file, atomically.

    Args:
      params: nested dicts, text keys free of "/"; floating arrays, all finite, are stored as `storage`, others as is.
      metadata: text by text.
      storage: "float32" or "float16".
    """
    if storage not in _STORAGE:
        raise ValueError(f"storage: expected one of {sorted(_STORAGE)}, got {storage!r}")
    metadata = dict(metadata or {})
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata[{key!r}]: expected text, got {type(value).__name__}")
    tensors = {name: _stored(name, value, storage) for name, value in _flatten(params).items()}
    atomic_write_bytes(path, safetensors_bytes(tensors, metadata or None))


def load_weights(path: str | Path) -> tuple[dict, dict[str, str]]:
    """(params, metadata) of a file of `save_weights`; floating arrays come back as float32 numpy arrays."""
    path = Path(path)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "none"
        raise AirjaxError(f"{path}: expected a weights file (.safetensors), found {kind}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise AirjaxError(
            f"{path}: expected a whole safetensors file, got a damaged or foreign one ({error})"
        ) from error
    floats = {n: v.astype(np.float32, copy=False) for n, v in tensors.items() if np.issubdtype(v.dtype, np.floating)}
    return nest(tensors | floats, path), metadata


def weights_hash(path: str | Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise AirjaxError(f"{path}: cannot read the weights file ({error.strerror})") from error


def nest(flat: dict[str, Any], path: Path) -> dict:
    """Nested dicts from names joined by "/"; the inverse of `_flatten`."""
    nested: dict = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise AirjaxError(f"{path}: {name!r}: expected a branch, found an array at {parent!r}")
        node[last] = value
    return nested


def _flatten(params: Mapping, prefix: str = "") -> dict[str, Any]:
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected nested dicts, got {type(params).__name__}")
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f'params: expected keys of text without "/", got {key!r} under {prefix!r}')
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}/")
        elif hasattr(value, "dtype"):
            flat[prefix + key] = value
        else:
            raise TypeError(f"params[{prefix + key!r}]: expected an array, got {type(value).__name__}")
    return flat


def _stored(name: str, value: Any, storage: str) -> np.ndarray:
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return np.ascontiguousarray(value)
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(np.asarray(value), dtype=_STORAGE[storage])
    if not np.isfinite(array).all():
        raise ValueError(f"params[{name!r}]: expected finite values within the range of {storage}")
    return array.reshape(value.shape)
