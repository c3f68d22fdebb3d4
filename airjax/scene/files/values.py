"""Entries of pose files. Nothing in a file is trusted: an AirjaxError names the file and what was expected."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from airjax.errors import AirjaxError
from airjax.files import display_name, reason

LARGEST = 1e30  # of a number in a pose; float32 holds 1e38
# NaN and infinity as Windows and numpy print them.
_NO_JSON = re.compile(r"(?<=[\[\s,:])([-+]?)(nan\(\w*\)|nan|inf|1\.#\w+)(?=[\s,\]}])", re.IGNORECASE)


def read_json(file: Path) -> dict:
    """The object in a file; NaN and infinity may be written as any program does."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        try:
            content = json.loads(text)
        except ValueError:
            content = json.loads(_NO_JSON.sub("NaN", text))  # such numbers are refused where they are used
    except (OSError, ValueError, RecursionError) as error:
        name = display_name(file)
        raise AirjaxError(f"{name}: expected a pose file in JSON, got something else ({reason(error)})") from error
    if not isinstance(content, dict):
        raise AirjaxError(f"{display_name(file)}: expected a JSON object, got {type(content).__name__}")
    return content


def entry_of(content: Any, key: str, kind: type, file: Path) -> Any:
    """The entry of an object in a file; one of another kind is an error."""
    if not isinstance(content, dict) or not isinstance(content.get(key), kind):
        raise AirjaxError(f"{display_name(file)}: expected an entry {key!r}, found none that is a {kind.__name__}")
    return content[key]


def number_of(value: Any, key: str, file: Path) -> float:
    """A value that has to be a finite number; `key` names it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        raise AirjaxError(f"{display_name(file)}: expected a number as {key!r}, got {short(value)}")
    return float(value)


def read_matrix(value: Any, shape: tuple[int, ...], file: Path) -> np.ndarray:
    """An array of a shape from JSON, float64; an AirjaxError that names the file for anything else."""
    try:
        matrix = np.asarray(value, float)
    except (TypeError, ValueError, OverflowError) as error:
        raise AirjaxError(f"{display_name(file)}: expected a matrix of numbers, got something else") from error
    if matrix.shape != shape:
        raise AirjaxError(f"{display_name(file)}: expected a matrix of shape {shape}, got {matrix.shape}")
    return matrix


def read_numbers(file: Path, count: int) -> np.ndarray:
    """The numbers of a text file."""
    try:
        numbers = np.array([float(word) for word in file.read_text(encoding="utf-8-sig").split()])
    except (OSError, ValueError) as error:
        raise AirjaxError(f"{display_name(file)}: expected {count} numbers, found something else") from error
    if len(numbers) != count:
        raise AirjaxError(f"{display_name(file)}: expected {count} numbers, found {len(numbers)}")
    return numbers


def short(value: Any) -> str:
    """A value from a file for a message."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**9 else "a huge number"
    return text if len(text) < 80 else text[:77] + "..."
