"""Tables and JSON; oracles: text and values written by hand."""

import json
import math

import jax
import numpy as np
import pytest

from airjax.errors import AirjaxError
from eval.report import codec_report, environment, finite_mean, format_table, number, write_json


def test_table_is_aligned():
    text = format_table(["image", "dB"], [["a", "9.50"], ["kodim01", "30.12"]])
    assert text == "image       dB\n-------  -----\na         9.50\nkodim01  30.12"


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
    report = codec_report("a", "b", {"psnr-rgb": (30.0, 31.0), "bpp": [0.5, 1.0]}, source="x.png")
    assert report == {
        "name": "a",
        "description": "b",
        "source": "x.png",
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
