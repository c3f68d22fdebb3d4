"""Timing: a clock written by hand, and processes of known size."""

import itertools

import pytest

from airjax.errors import AirjaxError
from eval import timing
from eval.timing import Row, Timing, exp_row, peak_memory, run_python, table, time_warm


def test_median_minimum_and_the_first_call_not_counted(monkeypatch):
    # Pairs of clock readings around the counted calls: 3, 1 and 10 seconds.
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 30.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = itertools.count()
    result = time_warm(lambda: next(calls), 3)
    assert result == (Timing(median=3.0, least=1.0, repetitions=3), 0)
    assert next(calls) == 4


def test_repetitions_below_one_are_refused():
    with pytest.raises(ValueError, match="expected at least 1, got 0"):
        time_warm(lambda: None, 0)


def test_memory_of_a_process_is_its_own():
    ballast = bytearray(b"1") * 300_000_000  # ours must not show up in the children
    code = "block = bytearray(b'1') * {}"
    (_, small), (seconds, large) = run_python(["-c", code.format(1)]), run_python(["-c", code.format(200_000_000)])
    # Resident pages vary by some megabytes from run to run.
    assert 190e6 < large - small < 230e6
    assert small < 100e6 < len(ballast) < peak_memory()
    assert seconds > 0


def test_a_failing_process_is_one_line():
    with pytest.raises(AirjaxError, match=r"expected exit status 0, got 3 \(last\)$"):
        run_python(["-c", "import sys; print('first'); print('last', file=sys.stderr); sys.exit(3)"])


def test_table_shows_rates_and_nothing_where_there_is_none():
    text = table([Row("a", Timing(2.0, 1.0, 3), evaluations=10**9), Row("b", Timing(-0.1, -0.1, 1), evaluations=5)])
    assert text.splitlines()[2].split() == ["a", "2,000.0", "1,000.0", "3", "1,000,000,000", "0.50", "-", "-"]
    assert text.splitlines()[3].split() == ["b", "-100.0", "-100.0", "1", "5", "-", "-", "-"]


def test_a_row_as_json():
    assert Row("a", Timing(2.0, 1.0, 3), evaluations=5).as_json() == {
        "what": "a",
        "timing": {"median": 2.0, "least": 1.0, "repetitions": 3},
        "evaluations": 5,
        "peak_bytes": None,
        "flops": None,
    }


def test_the_plain_loop_counts_its_exponentials():
    row = exp_row(0.001, 1)
    assert row.evaluations == 32 * 4194 and row.timing.median > 0
