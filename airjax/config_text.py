"""Configurations as the text that weights files hold: frozen dataclasses of numbers, text, tuples and one another."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, TypeVar

from airjax.errors import AirjaxError

Config = TypeVar("Config")


def config_to_text(config: Any) -> str:
    """JSON of a configuration."""
    return json.dumps(dataclasses.asdict(config))


def config_from_text(text: str, kind: type[Config], *, source: str) -> Config:
    """Inverse of `config_to_text`; `source` names the file in the AirjaxError for anything else."""
    try:
        return _made(kind, json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AirjaxError(f"{source}: expected a {kind.__name__} in JSON, got {text[:80]!r}") from error


def _made(kind: Any, value: Any) -> Any:
    """A value of JSON as a field of a kind."""
    if isinstance(kind, types.UnionType):  # of a kind and None
        kind = next(part for part in kind.__args__ if part is not type(None))
    if value is None:
        return None
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _made(hints[name], part) for name, part in value.items()})
    return tuple(value) if isinstance(value, list) else value
