"""SIGINT and SIGTERM noted for a loop, which looks when it suits it."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Signals:
    """Listens within a `with` block of the main thread; `last` is the number of the newest signal, None for none.

    With `once` the first signal ends the listening: a second one acts as if nobody had listened.
    """

    def __init__(self, *, once: bool = False):
        self.last: int | None = None
        self._once, self._untaken = once, []
        self._previous: dict = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.last = number
        self._untaken.append(number)
        if self._once:
            self._restore()

    def take(self) -> list[int]:
        """Those since the last call."""
        taken, self._untaken = self._untaken, []
        return taken

    def _restore(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    __exit__ = _restore
