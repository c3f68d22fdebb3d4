"""Ctrl-C: the program ends at once, wherever it is, with one line and status 130.

Python's own way, a KeyboardInterrupt in the main thread, waits until the compiler is done, is lost where JAX calls
Python from C++, and unwinds through libraries that are not made for it. So a thread of its own waits for the signal,
lets a file that is being written be finished, and ends the process. A KeyboardInterrupt that is raised all the same
(`main` in another program) says the same.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from airjax.commands.session import Screen
from airjax.files import WRITING

INTERRUPTED = 130
_KEPT = "interrupted; the files that were done are kept"
_WAIT = 10.0  # seconds for a file that is being written, on a disk that may not answer

_endings: list[Callable[[], str]] = []
_alarm: list[socket.socket] = []  # open as long as the process lives


@contextlib.contextmanager
def at_interrupt(ending: Callable[[], str]) -> Iterator[None]:
    """While the block runs, Ctrl-C calls `ending` first, and shows the line that it returns, if it returns one."""
    _endings.append(ending)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(ending()) from None
    finally:
        _endings.remove(ending)


def last_line(stop: KeyboardInterrupt | None = None, *, line: str = _KEPT) -> str:
    """What to say at the end: what the exception says, or what `at_interrupt` has to."""
    said = [str(stop)] if stop else [ending() for ending in reversed(_endings)]
    return next(filter(None, said), line)


def watch(line: str = _KEPT) -> None:
    """From now on Ctrl-C ends this process; `line` is shown unless an `at_interrupt` says something else."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    _alarm[:] = [receiver, sender]
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, lambda *_: None)  # the number goes to the socket before this is called
    threading.Thread(target=_wait, args=(receiver, line), name="interrupt", daemon=True).start()


def _wait(receiver: socket.socket, line: str) -> None:
    while signal.SIGINT not in receiver.recv(64):
        pass
    try:
        said = last_line(line=line)
        WRITING.acquire(timeout=_WAIT)
        Screen().error(said)
    finally:
        os._exit(INTERRUPTED)
