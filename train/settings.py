"""Settings: the Python files that describe a run or an evaluation, and the dataclasses that they return."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import runpy
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from airjax.errors import AirjaxError

_ABSENT = object()  # no value of a setting
_LONGEST_NAME = 120  # characters, before the hash of a longer one


def free(default: Any) -> Any:
    """A dataclass field that changes what a run shows or keeps, not its results: a resumed run may have another."""
    return dataclasses.field(default=default, metadata={"free": True})


def where(default: Any) -> Any:
    """A dataclass field that says where data lie: of a resumed run their content is compared, not their place."""
    return dataclasses.field(default=default, metadata={"where": True})


def settings_of(value: Any) -> Any:
    """A configuration as JSON values.

    Dataclasses become objects with their class as "kind", named tuples objects, functions and classes their names.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: settings_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return settings_of(value._asdict())
    if isinstance(value, dict):
        return {str(key): settings_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [settings_of(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else getattr(value, "__qualname__", repr(value))


def marked_names(value: Any, name: str, *marks: str) -> set[str]:
    """Dotted names of the fields of a configuration called `name` that are `free`, or say `where`."""
    names: set[str] = set()
    for key, item in value.items() if isinstance(value, dict) else ():
        names |= marked_names(item, f"{name}.{key}", *marks)
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        inner = f"{name}.{field.name}"
        is_marked = any(field.metadata.get(mark) for mark in marks)
        names |= {inner} if is_marked else marked_names(getattr(value, field.name), inner, *marks)
    return names


def leaves(settings: Any, name: str = "") -> dict[str, Any]:
    """The values of nested settings, as `settings_of` gives them, by dotted name.

    A nested dataclass is its class, and beside it its fields: "phase.estimator" is "Budget". Lists are values, but
    those of dataclasses are numbered.
    """
    if isinstance(settings, dict):
        found = {name: settings["kind"]} if "kind" in settings else {}
        parts = {key: item for key, item in settings.items() if key != "kind"}
    elif isinstance(settings, list) and any(isinstance(item, dict) for item in settings):
        found, parts = {name: f"{len(settings)} of them"}, dict(enumerate(settings))
    else:
        return {name: settings}
    for key, item in parts.items():
        found |= leaves(item, f"{name}.{key}" if name else str(key))
    return found


def differences(value: Any, base: Any) -> dict[str, Any]:
    """What a configuration has other than another one and changes its results, by dotted name."""
    before, now = (leaves(settings_of(config)) for config in (base, value))
    ignored = {"name", "description", *(name[1:] for name in marked_names(value, "", "free", "where"))}
    return {name: now[name] for name in now if name not in ignored and before.get(name, _ABSENT) != now[name]}


def name_with(name: str, changes: Mapping[str, Any]) -> str:
    """The name of a run folder that says what was changed: "joint-optimizer.learning_rate=0.001"."""
    return safe_name("-".join([name, *(f"{key}={text_of(value)}" for key, value in sorted(changes.items()))]))


def text_of(value: Any) -> str:
    """A setting as the command line takes it, about: lists with commas."""
    if isinstance(value, list):
        return ",".join(map(text_of, value))
    return "none" if value is None else str(value)


def safe_name(text: str) -> str:
    """A name for every file system. One that had to be changed ends in a hash, so that no two become the same."""
    safe = re.sub(r"[^\w.,=+-]+", "_", text, flags=re.ASCII)[:_LONGEST_NAME]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check_at_least(config: Any, low: int, *names: str) -> None:
    """Refuse fields below `low`; None passes. Raises AirjaxError: names the first such field."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < low:
            raise AirjaxError(f"{name}: expected at least {low}, got {value}")


def check_divides(batch_size: int, num_devices: int, flag: str) -> None:
    """Refuse a batch that does not divide among so many devices. Raises AirjaxError: names the flag."""
    if batch_size % num_devices:
        raise AirjaxError(
            f"{flag}: expected a multiple of {num_devices}, the number of devices, got {batch_size}; "
            f"or give --loop.devices, how many of them to use"
        )


def load_config(path: Path, function: str, *, folder: Path) -> tuple[Path, Callable[..., Any]]:
    """A config file, or the bare name of one in `folder`, and its function of that name; the file is run.

    Raises AirjaxError: no such file, a mistake in it, or no such function.
    """
    if len(path.parts) == 1 and not path.suffix:
        names = sorted(file.stem for file in folder.glob("[a-z]*.py"))
        if path.name not in names:
            raise AirjaxError(f"{path}: expected a config file (.py), or one of {', '.join(names)}")
        path = folder / f"{path.name}.py"
    if not path.is_file() or path.suffix != ".py":
        raise AirjaxError(f"{path}: expected a config file (.py)")
    with config_errors(path):
        make = runpy.run_path(str(path)).get(function)
    if not callable(make):
        raise AirjaxError(f"{path}: expected a function {function}(), found none")
    return path, make


@contextlib.contextmanager
def config_errors(path: Path) -> Iterator[None]:
    """Turns whatever a config file does wrong into one line that names the file.

    Raises AirjaxError: with the message of the mistake, and its line where it lies in the file.
    """
    try:
        yield
    except AirjaxError as error:
        raise AirjaxError(f"{path}: {error}") from error
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else path
        raise AirjaxError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error
