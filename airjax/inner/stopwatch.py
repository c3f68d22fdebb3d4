"""`Stopwatch`: seconds that pass while no program is compiled."""

from __future__ import annotations

import time

import jax

_COMPILING = "/jax/core/compile/"  # tracing, lowering and compiling are events of this name


class Stopwatch:
    """Wall-clock time since it was started, without what JAX took to compile; a context manager.

    What compiles depends on what ran before, and in the next run it comes from the cache: a limit that counted it would
    mean something else each time.
    """

    def __enter__(self) -> Stopwatch:
        self._begin = time.perf_counter()
        self._compiling: list[tuple[float, float]] = []  # from, to; apart from one another
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *exception: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if not event.startswith(_COMPILING):
            return
        end = time.perf_counter()
        start = max(self._begin, end - duration_secs)
        while self._compiling and self._compiling[-1][0] >= start:  # a part of this: programs are traced in programs
            self._compiling.pop()
        self._compiling.append((start, end))

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._begin - sum(end - start for start, end in self._compiling)
