"""Settings; oracle: values written by hand."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from airjax.errors import AirjaxError
from train.settings import check_at_least, free, free_names, settings_of


class Rates(NamedTuple):
    means: float
    colors: float


@dataclasses.dataclass(frozen=True)
class Inner:
    sides: tuple[int, ...] = (1, 2)
    shown: int = free(3)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    path: Path = Path("a/b")
    rates: Rates | None = None
    count: int | None = None
    memory: int = free(4)


def test_settings_are_json():
    settings = settings_of(
        {"run": Outer(Inner(), rates=Rates(0.5, 1.0)), "step": np.float32(0.5), "function": np.mean, "kind": Rates}
    )
    assert json.loads(json.dumps(settings)) == {
        "run": {
            "kind": "Outer",
            "inner": {"kind": "Inner", "sides": [1, 2], "shown": 3},
            "path": "a/b",
            "rates": {"means": 0.5, "colors": 1.0},
            "count": None,
            "memory": 4,
        },
        "step": 0.5,
        "function": "mean",
        "kind": "Rates",
    }


def test_two_classes_with_the_same_fields_are_told_apart():
    other = dataclasses.make_dataclass("Other", [("sides", tuple), ("shown", int)])
    assert settings_of(other((1, 2), 3)) != settings_of(Inner())


def test_names_of_free_fields():
    assert free_names({"a": Outer(Inner()), "b": 3}, "run") == {"run.a.memory", "run.a.inner.shown"}
    assert free_names(None, "run") == set()


def test_lowest_values():
    check_at_least(Outer(Inner(), count=2), 2, "count", "memory")
    check_at_least(Outer(Inner()), 2, "count")
    with pytest.raises(AirjaxError, match=r"^memory: expected at least 5, got 4$"):
        check_at_least(Outer(Inner()), 5, "count", "memory")
