"""Measured numbers: tables for the screen, JSON reports with settings and environment, and a cache of measurements."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

import airjax
from airjax.files import atomic_write_bytes
from train.settings import settings_of

Record = TypeVar("Record", bound=NamedTuple)
_PACKAGES = ("airjax", "jax", "jaxlib", "flax", "numpy", "pillow")
_LIBRARY = Path(airjax.__file__).parent


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, markdown: bool = False) -> str:
    """Lines of aligned columns, the first to the left and the others to the right; with bars between them as Markdown.

    Raises ValueError: a row of another length than the head.
    """
    lines = [list(head), *(list(row) for row in rows)]
    for line in lines:
        if len(line) != len(head):
            raise ValueError(f"rows: expected {len(head)} cells like the head, got {len(line)}: {line}")
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    if markdown:
        lines[1][1:] = ["-" * (width - 1) + ":" for width in widths[1:]]
    padded = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    if markdown:
        return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def number(value: float | None, digits: int) -> str:
    """A cell: `digits` after the point, "inf" for a perfect PSNR, "-" for none."""
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def finite_mean(values: Iterable[float]) -> float | None:
    """Mean of the finite values, None where there are none.

    A perfect image has an infinite PSNR. It is left out of a mean instead of being given an invented number, so a
    mean can only be too low; whoever prints it says how many were left out.
    """
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def codec_report(name: str, description: str, results: Mapping[str, Sequence]) -> dict[str, Any]:
    """One codec in CompressAI's layout; each list of `results` has one entry per operating point.

    Raises ValueError: lists of different lengths.
    """
    lengths = {key: len(values) for key, values in results.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"results: expected lists of one length, got {lengths}")
    return {"name": name, "description": description, "results": {key: list(values) for key, values in results.items()}}


def environment() -> dict[str, Any]:
    """What numbers of this process are measured with: versions, device, cores."""
    return {
        "python": platform.python_version(),
        "packages": {name: text for name in _PACKAGES if (text := _version(name))},
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def write_report(
    path: Path, config: Any, content: Mapping[str, Any], *, environments: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Writes the report `content` with the settings of its evaluation `config`; otherwise as `write_json`.

    `environments` are those of the measurements in it (`Measured.environment`), each different one is listed once; none
    for that of this process.
    """
    distinct: list[Mapping[str, Any]] = []
    for item in environments:
        if item not in distinct:
            distinct.append(item)
    write_json(path, {**content, "settings": settings_of(config), "environments": distinct or [environment()]})


def write_json(path: Path, report: Any) -> None:
    """Writes a report, whole or not at all; infinities and NaN, which JSON lacks, become null.

    The folder is made if absent. Raises AirjaxError: the file cannot be written; OSError: the folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_without_infinities(report), indent=2, allow_nan=False)
    atomic_write_bytes(path, f"{text}\n".encode())


def _without_infinities(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class Measured(NamedTuple):
    """Numbers, and what they were measured with, now or before; see `environment`."""

    record: Any
    environment: dict[str, Any]


def cached(
    measure: Callable[[], Record], kind: type[Record], folder: Path, *, arrays: Any, settings: Any, code: ModuleType
) -> Measured:
    """What `measure` gives, or gave before by the same code for the same arrays and settings, kept in `folder`.

    So an interrupted evaluation goes on where it was.

    Args:
      measure: gives a `kind` of numbers and lists of them; `code` is its module.
      arrays: pytree of all that is measured.
      settings: how, as `settings_of` takes it.
    """
    identity = hashlib.sha256(json.dumps([code_version(code), settings_of(settings)]).encode())
    for array in map(np.asarray, jax.tree.leaves(arrays)):
        identity.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    path = folder / f"{identity.hexdigest()[:24]}.json"
    if path.exists():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged: measured again
            content = json.loads(path.read_text(encoding="utf-8"))
            return Measured(kind(**content["record"]), content["environment"])
    measured = Measured(measure(), environment())
    folder.mkdir(parents=True, exist_ok=True)
    content = {"record": measured.record._asdict(), "environment": measured.environment}
    atomic_write_bytes(path, json.dumps(content).encode())  # infinities and NaN as Python writes and reads them
    return measured


@functools.cache  # of what this process runs, even if a file is edited meanwhile
def code_version(code: ModuleType) -> str:
    """Hash of the source text of the library and of one module, and of JAX's version."""
    digest = hashlib.sha256(jax.__version__.encode())
    for path in (*sorted(_LIBRARY.rglob("*.py")), Path(code.__file__)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
