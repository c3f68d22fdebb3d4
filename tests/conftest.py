"""Strict numerics for every test: no silent rank or dtype promotion, highest matmul precision."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees the compiled programs of a module at its end: each holds memory maps, and a process has only so many."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of photographs beside the checkout; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no photographs at {DATA}")
    return DATA
