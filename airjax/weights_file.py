"""Portable weights: one `.safetensors` file with a nested dict of arrays, its keys joined by "/", and text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from airjax.errors import AirjaxError
from airjax.files import atomic_write

DTYPES = {  # of one value, by its name in a safetensors file
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "BOOL": np.dtype(bool),
    **{f"{kind.upper()}{8 * size}": np.dtype(f"<{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)},
}
_STORAGE = {"float32": np.float32, "float16": np.float16}


def save_weights(
    path: str | Path, params: Mapping, metadata: Mapping[str, str] | None = None, *, storage: str = "float32"
) -> None:
    """Write a nested dict of arrays to one safetensors file, atomically and array by array: no two are copied at once.

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
    arrays = _flatten(params)
    kinds = {name: _kind(name, value, storage) for name, value in arrays.items()}
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    order = sorted(arrays, key=lambda name: (-DTYPES[kinds[name]].itemsize, name))  # so that all are aligned
    end = 0
    for name in order:
        begin, end = end, end + DTYPES[kinds[name]].itemsize * int(np.prod(arrays[name].shape))
        header[name] = {"dtype": kinds[name], "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(_stored(name, arrays[name], DTYPES[kinds[name]]).data)

    atomic_write(path, write)


def load_weights(path: str | Path) -> tuple[dict, dict[str, str]]:
    """(params, metadata) of a file of `save_weights`; floating arrays come back as float32 numpy arrays."""
    with _opened(path) as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: _loaded(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no iterator)
    return nest(tensors, Path(path)), metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata alone."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """A safetensors file; AirjaxError for anything else."""
    path = Path(path)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "none"
        raise AirjaxError(f"{path}: expected a weights file (.safetensors), found {kind}")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise AirjaxError(
            f"{path}: expected a whole safetensors file, got a damaged or foreign one ({error})"
        ) from error


def weights_hash(path: str | Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file."""
    return sha256(path)[:16]


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits; AirjaxError for one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
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


def _kind(name: str, value: Any, storage: str) -> str:
    """Of one value as it is stored, see `DTYPES`."""
    dtype = np.dtype(_STORAGE[storage] if jnp.issubdtype(value.dtype, jnp.floating) else value.dtype)
    for kind, known in DTYPES.items():
        if known == dtype.newbyteorder("<"):
            return kind
    raise TypeError(f"params[{name!r}]: expected numbers, got {dtype}")


def _stored(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(np.asarray(value), dtype=dtype)
    if not np.isfinite(array).all():
        raise ValueError(f"params[{name!r}]: expected finite values within the range of {dtype}")
    return array


def _loaded(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32, copy=False) if np.issubdtype(array.dtype, np.floating) else array
