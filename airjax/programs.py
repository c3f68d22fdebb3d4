"""Compiled programs: kept on disk ready to run, and forgotten before a process holds too many.

JAX's own cache spares the compiler alone. A new process still traces and lowers every function in Python, which takes
longer than encoding a photograph with it. What `kept` makes is found again by its arguments, before anything is traced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import os
import pickle
import platform
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes

_PACKAGE = Path(__file__).resolve().parent
_MAPS = Path("/proc/self/maps")
_MOST = 30_000  # mapped regions; Linux ends a process at 65,530 of them

# What reading a program raises: there is none, it is damaged, or of another JAX.
_UNUSABLE: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, pickle.UnpicklingError, ValueError, TypeError)
_UNUSABLE += (LookupError, AttributeError, ImportError, RuntimeError)

_CACHE = "jax_enable_compilation_cache"
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision")  # that change what is traced

_folder: Path | None = None  # where programs are kept
_loaded: dict[Any, Callable[..., Any]] = {}  # programs of this process, by function and arguments


class _Unnamed(Exception):
    """Something that no text describes, so that no other process could know it again."""


def keep_programs(folder: Path | None) -> None:
    """From now on, programs of `kept` functions are kept in this folder; None for no longer.

    Whoever can write there can run code in this process, as with any cache of compiled programs.
    """
    global _folder
    _folder = folder
    _loaded.clear()


def kept(*, static_argnames: str | tuple[str, ...] = ()) -> Callable[[Callable], Kept]:
    """A decorator: `jax.jit`, with `keep_programs` for concrete arrays on the first device.

    Static arguments are plain data (numbers, texts, tuples, dataclasses, functions of airjax); with others, under a
    transformation, or where no folder is named, the function is what `jax.jit` makes.
    """
    names = (static_argnames,) if isinstance(static_argnames, str) else static_argnames
    return lambda function: Kept(function, names)


class Kept:
    """A function that `kept` decorates; `jitted` is what `jax.jit` makes of it."""

    def __init__(self, function: Callable, static_argnames: tuple[str, ...]):
        functools.update_wrapper(self, function)
        self.jitted = jax.jit(function, static_argnames=static_argnames)
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._signature, self._static = inspect.signature(function), static_argnames

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _folder is None:
            return self.jitted(*args, **kwargs)
        given = self._signature.bind(*args, **kwargs)
        given.apply_defaults()
        static = {name: given.arguments.pop(name) for name in self._static}
        leaves, tree = jax.tree.flatten(given.arguments)
        kinds = tuple(map(_kind, leaves))
        if None in kinds:
            return self.jitted(*args, **kwargs)
        key = (self, tuple(static.values()), tree, kinds)
        if key not in _loaded:
            _loaded[key] = self._program(static, given.arguments, tree, kinds)
        return _loaded[key](**given.arguments)

    def _program(self, static: dict, arguments: dict, tree: Any, kinds: tuple) -> Callable:
        """The program from the folder, or a new one, which is written there if a text describes it."""
        try:
            name = "\n".join([_surroundings(), self._name, _text(static), _tree_text(tree), repr(kinds)])
        except _Unnamed:
            return functools.partial(self.jitted, **static)
        assert _folder is not None
        path = _folder / f"{hashlib.sha256(name.encode()).hexdigest()}.program"
        try:
            return serialize_executable.deserialize_and_load(*pickle.loads(zlib.decompress(path.read_bytes())))
        except _UNUSABLE:
            with _without_cache():
                compiled = self.jitted.lower(**static, **arguments).compile()
        with contextlib.suppress(AirjaxError, OSError, ValueError, RuntimeError):  # it is only a cache
            data = zlib.compress(pickle.dumps(serialize_executable.serialize(compiled)), 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(path, data)
        return compiled


def _kind(leaf: Any) -> tuple | None:
    """What a program must know of an array; None for one of a transformation, or on other devices than the first."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.shape, leaf.dtype.name, False
    if isinstance(leaf, bool | int | float):
        return (), type(leaf).__name__, True
    if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array):
        return None
    if leaf.devices() != {jax.local_devices()[0]}:
        return None
    return leaf.shape, leaf.dtype.name, leaf.aval.weak_type


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """JAX's own cache turned off: a program that comes out of it can be run, but not be written again."""
    before = getattr(jax.config, _CACHE)
    try:
        jax.config.update(_CACHE, False)
        compilation_cache.reset_cache()
        yield
    finally:
        jax.config.update(_CACHE, before)
        compilation_cache.reset_cache()


def _text(value: Any) -> str:
    """Plain data as text, the same in every process; raises _Unnamed for anything else."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, type) or (isinstance(value, FunctionType) and not value.__closure__):
        name = f"{value.__module__}.{value.__qualname__}"
        if name.startswith("airjax.") and "<" not in name:
            return name
        raise _Unnamed
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if dataclasses.is_dataclass(value):
        return f"{kind}({[(field.name, _text(getattr(value, field.name))) for field in dataclasses.fields(value)]})"
    if isinstance(value, dict):
        return f"{kind}({[(_text(key), _text(part)) for key, part in value.items()]})"
    if isinstance(value, tuple | list):
        return f"{kind}({[_text(part) for part in value]})"
    raise _Unnamed


def _tree_text(tree: Any) -> str:
    """The structure of a pytree as text; see `_text`."""
    node = tree.node_data()
    if node is None:
        return "*" if tree.num_leaves else "-"
    kind, aux = node
    name = f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}{_text(aux)}[{','.join(map(_tree_text, tree.children()))}]"


@functools.cache
def _surroundings() -> str:
    """What else a program depends on: the sources of airjax, versions, settings, the device and the processor."""
    device = jax.local_devices()[0]
    try:
        processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        processor = platform.processor()
    flags = [(name, os.environ[name]) for name in sorted(os.environ) if name.startswith("XLA_")]
    settings = [getattr(jax.config, name) for name in _SETTINGS]
    versions = (
        jax.__version__,
        device.platform,
        device.device_kind,
        device.client.platform_version,
        jax.device_count(),
    )
    sources = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        sources.update(path.read_bytes())
    return repr((sources.hexdigest(), versions, jax.device_count(), settings, flags, platform.machine(), processor))


def make_room() -> None:
    """Forgets all compiled programs where they have become many; to be called between two pieces of work.

    Every program is mapped into memory in hundreds of pieces, and Linux allows a process 65,530 (vm.max_map_count).
    What is forgotten is compiled again, or read from the cache of compiled programs, when it is needed. Elsewhere than
    on Linux nothing is done.
    """
    try:
        with _MAPS.open("rb") as file:
            many = sum(1 for _ in file) > _MOST
    except OSError:
        return
    if many:
        _loaded.clear()
        jax.clear_caches()
