"""Tables and JSON; oracles: text and values written by hand."""

import dataclasses
import importlib.util
import json
import math
from typing import NamedTuple

import jax
import numpy as np
import pytest

from airjax.errors import AirjaxError
from eval import report
from eval.report import cached, codec_report, environment, finite_mean, format_table, number, write_json, write_report


def test_table_is_aligned():
    text = format_table(["image", "dB"], [["a", "9.50"], ["kodim01", "30.12"]])
    assert text == "image       dB\n-------  -----\na         9.50\nkodim01  30.12"


def test_table_as_markdown():
    text = format_table(["image", "dB"], [["a", "9.50"], ["kodim01", "30.12"]], markdown=True)
    assert text == "| image   |    dB |\n| ------- | ----: |\n| a       |  9.50 |\n| kodim01 | 30.12 |"


def test_table_refuses_rows_of_another_length():
    with pytest.raises(ValueError, match="expected 2 cells"):
        format_table(["image", "dB"], [["a"]])


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(28_000, 0, "28,000"), (31.4159, 2, "31.42"), (math.inf, 2, "inf"), (None, 2, "-"), (math.nan, 1, "-")],
)
def test_cells(value, digits, text):
    assert number(value, digits) == text


@pytest.mark.parametrize(
    ("values", "mean"), [([1.0, 3.0], 2.0), ([30.0, math.inf], 30.0), ([math.inf], None), ([], None)]
)
def test_mean_leaves_perfect_images_out(values, mean):
    assert finite_mean(values) == mean


def test_report_has_the_layout_of_compressai():
    assert codec_report("a", "b", {"psnr-rgb": (30.0, 31.0), "bpp": [0.5, 1.0]}) == {
        "name": "a",
        "description": "b",
        "results": {"psnr-rgb": [30.0, 31.0], "bpp": [0.5, 1.0]},
    }


def test_report_refuses_lists_of_different_lengths():
    with pytest.raises(ValueError, match="lists of one length"):
        codec_report("a", "b", {"psnr-rgb": [30.0], "bpp": []})


def test_json_holds_no_infinity_and_no_nan(tmp_path):
    path = tmp_path / "new" / "report.json"
    write_json(path, {"psnr": [math.inf, 30.5, (math.nan, -math.inf)], "inner": {"x": math.inf}, "n": 3})

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"psnr": [None, 30.5, [None, None]], "inner": {"x": None}, "n": 3}


def test_json_leaves_the_old_report_when_it_cannot_be_made(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": np.float32(1)})  # no JSON type: a mistake of the caller, said before anything is written
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_json_into_a_folder_of_that_name_is_refused(tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(AirjaxError, match=r"report\.json.*expected a file, got a folder"):
        write_json(tmp_path / "report.json", {})


def test_environment_names_versions_and_device():
    found = environment()
    assert found["packages"]["jax"] == jax.__version__
    assert found["num_devices"] == jax.device_count()
    json.dumps(found, allow_nan=False)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    name: str
    sides: tuple[int, ...] = (1, 2)


def test_a_report_holds_its_settings_and_each_environment_once(tmp_path):
    path = tmp_path / "report.json"
    write_report(path, Evaluation("x"), {"psnr": [math.inf]})
    settings = {"kind": "Evaluation", "name": "x", "sides": [1, 2]}
    assert json.loads(path.read_text()) == {"psnr": [None], "settings": settings, "environments": [environment()]}
    laptop, server = {"jax": "1"}, {"jax": "2"}
    write_report(path, Evaluation("x"), {}, environments=[laptop, server, laptop])
    assert json.loads(path.read_text())["environments"] == [laptop, server]


# --- the cache of measurements -----------------------------------------------------------------------------------


class Numbers(NamedTuple):
    best: float
    all: list[float]


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """`cached` in a folder of its own, with a library and a module that tests may change, and how often it measured."""
    (tmp_path / "library" / "room").mkdir(parents=True)
    (tmp_path / "library" / "room" / "x.py").write_text("x = 1")
    (tmp_path / "study.py").write_text("y = 1")
    spec = importlib.util.spec_from_file_location("study", tmp_path / "study.py")
    study = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(report, "_LIBRARY", tmp_path / "library")
    monkeypatch.setattr(report, "code_version", report.code_version.__wrapped__)
    calls = []

    def measure():
        calls.append(1)
        return Numbers(math.inf, [0.1, math.nan, float(len(calls))])

    def call(arrays=np.arange(3), settings=Evaluation("x")):  # noqa: B008
        measured = cached(measure, Numbers, tmp_path / "cache", arrays=arrays, settings=settings, code=study)
        return measured, len(calls)

    return call


def test_a_measurement_is_made_once(counted):
    (first, _), (again, calls) = counted(), counted()
    assert calls == 1 and again.environment == first.environment == environment()
    assert isinstance(again.record, Numbers) and again.record.best == math.inf  # the file keeps infinities and NaN
    np.testing.assert_array_equal(again.record.all, first.record.all)


def test_whatever_decides_the_result_is_its_key(counted, tmp_path, monkeypatch):
    """Arrays, their types and shapes, settings and their class, the library, the study, JAX."""
    counted()
    arrays = np.arange(4), np.arange(3, dtype=np.float64), np.arange(3)[None], (np.arange(3), np.arange(3))
    other = dataclasses.make_dataclass("Other", [("name", str), ("sides", tuple)])
    for i, changes in enumerate([{"arrays": a} for a in arrays] + [{"settings": s} for s in (3, other("x", (1, 2)))]):
        assert counted(**changes)[1] == counted(**changes)[1] == i + 2
    (tmp_path / "library" / "room" / "x.py").write_text("x = 2")
    assert counted()[1] == counted()[1] == 8
    (tmp_path / "library" / "new.py").write_text("x = 2")
    assert counted()[1] == 9
    (tmp_path / "study.py").write_text("y = 2")
    assert counted()[1] == counted()[1] == 10
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    assert counted()[1] == counted()[1] == 11


def test_numbers_keep_the_environment_they_were_measured_in(counted, monkeypatch):
    measured_in = environment()
    counted()
    monkeypatch.setattr(report, "environment", lambda: {"device": "another"})
    assert counted()[0].environment == measured_in
    assert counted(settings="more")[0].environment == {"device": "another"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"record": {}, "environment": {}}', '{"record": {"best": 1}}'])
def test_a_damaged_measurement_is_made_again(counted, tmp_path, text):
    counted()
    (path,) = (tmp_path / "cache").iterdir()
    path.write_text(text)
    assert counted()[1] == counted()[1] == 2


def test_the_version_of_the_code_is_that_of_this_process():
    assert report.code_version(report) == report.code_version(report) != report.code_version(json)
