"""The types of numbers that options take."""

import argparse

import pytest

from airjax.commands.options import steps_or_seconds


@pytest.mark.parametrize("text, expected", [("0", 0), ("200", 200), ("30s", 30.0), ("0.5s", 0.5), ("2m", 120.0)])
def test_steps_or_seconds(text, expected):
    found = steps_or_seconds(1000, 600.0)(text)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("text", ["", "s", "-1", "1001", "1.5", "601s", "11m", "-3s", "nans", "3h", "2 steps"])
def test_no_steps_or_seconds(text):
    with pytest.raises(
        argparse.ArgumentTypeError, match="a whole number of steps from 0 to 1000, or a time up to 600s"
    ):
        steps_or_seconds(1000, 600.0)(text)
