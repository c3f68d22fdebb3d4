"""Timing: a clock written by hand, and processes of known size."""

import itertools

import pytest

from airjax.errors import AirjaxError
from eval import timing
from eval.timing import Row, Timing, copy_row, exp_row, matmul_row, peak_memory, run_python, table, time_warm


def test_median_minimum_and_the_first_call_not_counted(monkeypatch):
    # Pairs of clock readings around the counted calls: 3, 1 and 10 seconds.
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 30.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = itertools.count()
    result = time_warm(lambda: next(calls), 3)
    assert result == (Timing(median=3.0, least=1.0, repetitions=3, spread=4.5), 0)
    assert next(calls) == 4


def test_the_middle_half_of_the_times_and_a_part_of_them():
    # Quartiles of 1, 2, 3, 4, 9, linear between the values, are 2 and 4.
    assert Timing.of([9.0, 1.0, 3.0, 2.0, 4.0]) == Timing(3.0, 1.0, 5, 2.0)
    assert Timing.of([7.0]) == Timing(7.0, 7.0, 1, 0.0)
    assert Timing(3.0, 1.0, 5, 2.0).per(4) == Timing(0.75, 0.25, 5, 0.5)


def test_a_slow_function_is_not_repeated_for_ever(monkeypatch):
    clock = itertools.count()  # a second for every reading
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    counts = [time_warm(lambda: None, 20, seconds=limit)[0].repetitions for limit in (5.0, 0.0, 100.0)]
    assert counts == [5, 3, 20]
    assert time_warm(lambda: None, 2, seconds=0.0)[0].repetitions == 2


def test_no_repetition_times_the_first_call(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    calls = itertools.count()
    measured, first = time_warm(lambda: next(calls), 0)
    assert first == 0 and next(calls) == 1 and measured.median == 1.0


def test_repetitions_below_none_are_refused():
    with pytest.raises(ValueError, match="expected at least 0, got -1"):
        time_warm(lambda: None, -1)


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
    assert Row("a", Timing(2.0, 1.0, 3, 0.5), evaluations=5).as_json() == {
        "what": "a",
        "timing": {"median": 2.0, "least": 1.0, "repetitions": 3, "spread": 0.5},
        "evaluations": 5,
        "peak_bytes": None,
        "flops": None,
        "moved_bytes": None,
    }


def test_plain_loops_count_what_they_move_and_multiply():
    assert copy_row(0.001, 1).moved_bytes == 2 * 4 * 16777
    assert matmul_row(0.001, 1).flops == 2 * 256**3
    assert matmul_row(0.001, 1, precision="highest").what == "plain matmul, float32 at highest, 256^3"


def test_the_plain_loop_counts_its_exponentials():
    row = exp_row(0.001, 1)
    assert row.evaluations == 32 * 4194 and row.timing.median > 0
