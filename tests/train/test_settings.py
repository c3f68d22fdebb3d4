"""Settings; oracle: values written by hand."""

import dataclasses
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from airjax.errors import AirjaxError
from train.settings import check_at_least, check_divides, differences, free, marked_names, name_with, settings_of, where


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
    folders: tuple[str, ...] = where(())


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
            "folders": [],
        },
        "step": 0.5,
        "function": "mean",
        "kind": "Rates",
    }


def test_two_classes_with_the_same_fields_are_told_apart():
    other = dataclasses.make_dataclass("Other", [("sides", tuple), ("shown", int)])
    assert settings_of(other((1, 2), 3)) != settings_of(Inner())


def test_names_of_marked_fields():
    config = {"a": Outer(Inner()), "b": 3}
    assert marked_names(config, "run", "free") == {"run.a.memory", "run.a.inner.shown"}
    assert marked_names(config, "run", "where", "free") == {"run.a.memory", "run.a.inner.shown", "run.a.folders"}
    assert marked_names(None, "run", "free") == set()


def test_what_was_changed_is_in_the_name():
    base = Outer(Inner())
    other = Outer(Inner((3, 4), shown=9), Path("c/d"), memory=7, folders=("photos",))
    assert differences(base, base) == {}
    changes = differences(other, base)
    assert changes == {"inner.sides": [3, 4], "path": "c/d"}
    assert re.fullmatch(r"run-inner.sides=3,4-path=c_d-[0-9a-f]{8}", name_with("run", changes))
    assert name_with("run", differences(Outer(Inner(), count=2), base)) == "run-count=2"
    long = [name_with("run", {"path": end * 300}) for end in "ab"]
    assert len(set(long)) == 2 and all(len(name) < 140 for name in long)


def test_a_batch_divides_among_the_devices():
    check_divides(8, 4, "--batch")
    with pytest.raises(AirjaxError, match=r"^--batch: expected a multiple of 8, the number of devices, got 2; or give"):
        check_divides(2, 8, "--batch")


def test_lowest_values():
    check_at_least(Outer(Inner(), count=2), 2, "count", "memory")
    check_at_least(Outer(Inner()), 2, "count")
    with pytest.raises(AirjaxError, match=r"^memory: expected at least 5, got 4$"):
        check_at_least(Outer(Inner()), 5, "count", "memory")
