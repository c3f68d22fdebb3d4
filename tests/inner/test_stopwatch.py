"""Time without compilation; oracles: a program that takes longer to compile than to run, and a sleep."""

import time

import jax
import jax.numpy as jnp
import pytest

from airjax.inner import stopwatch as module
from airjax.inner.stopwatch import Stopwatch

pytestmark = pytest.mark.slow


def test_compilation_does_not_count():
    @jax.jit
    def slow_to_compile(x):
        for _ in range(150):
            x = jnp.sin(x) + jnp.roll(x, 1)
        return x

    x = jax.block_until_ready(jnp.ones(8))
    begin = time.perf_counter()
    with Stopwatch() as watch:
        jax.block_until_ready(slow_to_compile(x))
        first, wall = watch.seconds, time.perf_counter() - begin
    assert 0 <= first < 0.5 * wall
    before = list(watch._compiling)
    jax.jit(lambda x: x + 3)(x)  # stopped: nothing is listened to
    assert watch._compiling == before


def test_what_is_not_compilation_counts():
    with Stopwatch() as watch:
        time.sleep(0.02)
        assert 0.02 <= watch.seconds < 2


def test_what_is_compiled_within_something_else_counts_once(monkeypatch):
    """Oracle: by hand, with a clock that stands where it is set."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    with Stopwatch() as watch:
        for end, event, duration in ((103, "a", 1), (105, "b", 1), (106, "c", 5), (110, "d", 2), (111, None, 9)):
            now[0] = float(end)
            watch._listen(f"/jax/core/compile/{event}" if event else "/jax/other", float(duration))
        now[0] = 112.0
        assert watch.seconds == 12 - 5 - 2
