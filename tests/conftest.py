"""Strict numerics for every test: no silent rank or dtype promotion, highest matmul precision.

`--shapes` also checks every annotation of a function of airjax at run time, by jaxtyping and beartype.
"""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser):
    parser.addoption("--shapes", action="store_true", help="check every annotation of airjax at run time")


def pytest_configure(config):
    if config.getoption("--shapes"):
        import runtime_types

        runtime_types.install()


def pytest_collection_modifyitems(config, items):
    """With `--shapes`, a call that the annotations forbid fails before the function can refuse it in its own words."""
    if config.getoption("--shapes"):
        skip = pytest.mark.skip(reason="gives a function what its annotations forbid")
        for item in items:
            if item.get_closest_marker("forbidden"):
                item.add_marker(skip)


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
