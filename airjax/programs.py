"""How many compiled programs a process may hold."""

from __future__ import annotations

from pathlib import Path

import jax

_MAPS = Path("/proc/self/maps")
_MOST = 30_000  # mapped regions; Linux ends a process at 65,530 of them


def make_room() -> None:
    """Forgets all compiled programs where they have become many; to be called between two pieces of work.

    Every program is mapped into memory in hundreds of pieces, and Linux allows a process 65,530 (vm.max_map_count).
    What is forgotten is compiled again, or read from the cache of compiled programs, when it is needed. Elsewhere than
    on Linux nothing is done.
    """
    try:
        with _MAPS.open("rb") as file:
            many = sum(1 for _ in file) > _MOST
    except OSError:
        return
    if many:
        jax.clear_caches()
