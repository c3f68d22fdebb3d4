"""XLA's compilation cache in the user's cache folder, so that only the first run of a program compiles."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def enable_compilation_cache() -> Path | None:
    """Keep compiled programs in $XDG_CACHE_HOME/airjax (default ~/.cache/airjax); return the folder.

    Returns None, and changes nothing, where that folder cannot be made or written. A folder that the user has
    set (JAX_COMPILATION_CACHE_DIR) is left as it is.
    """
    if jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "airjax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return folder
