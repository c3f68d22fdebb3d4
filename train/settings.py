"""Settings: the Python files that describe a run or an evaluation, and the dataclasses that they return."""

from __future__ import annotations

import contextlib
import dataclasses
import runpy
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from airjax.errors import AirjaxError


def free(default: Any) -> Any:
    """A dataclass field that changes what a run shows or keeps, not its results: a resumed run may have another."""
    return dataclasses.field(default=default, metadata={"free": True})


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


def free_names(value: Any, name: str) -> set[str]:
    """Dotted names of the `free` fields of a configuration called `name`."""
    names: set[str] = set()
    for key, item in value.items() if isinstance(value, dict) else ():
        names |= free_names(item, f"{name}.{key}")
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        inner = f"{name}.{field.name}"
        names |= {inner} if field.metadata.get("free") else free_names(getattr(value, field.name), inner)
    return names


def check_at_least(config: Any, low: int, *names: str) -> None:
    """Refuse fields below `low`; None passes. Raises AirjaxError: names the first such field."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < low:
            raise AirjaxError(f"{name}: expected at least {low}, got {value}")


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
