"""Strict numerics for every test: no silent rank or dtype promotion, highest matmul precision.

The annotations of airjax are checked at run time too, by jaxtyping and beartype (`runtime_types`).
"""

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import pytest
import runtime_types

runtime_types.install()  # before any conftest below this one imports airjax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# Tracing makes millions of objects that live on; looking at all of them again and again takes a tenth of the time.
gc.set_threshold(200_000, 50, 50)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser):
    parser.addoption("--no-shapes", action="store_true", help="do not check the annotations of airjax at run time")


@pytest.fixture(autouse=True)
def unchecked_where_forbidden(request):
    """A call that the annotations forbid would fail before the function can refuse it in its own words."""
    forbidden = request.node.get_closest_marker("forbidden") is not None
    jaxtyping.config.update("jaxtyping_disable", forbidden or request.config.getoption("--no-shapes"))
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees the compiled programs at the end of a module where there are many: each holds memory maps."""
    yield
    if many_maps():
        jax.clear_caches()


@pytest.fixture(autouse=True)
def programs_are_not_kept():
    """A command that runs in this process keeps its programs, and must not go on after its test."""
    yield
    if programs := sys.modules.get("airjax.programs"):
        programs.keep_programs(None)


def many_maps() -> bool:
    """Whether this process holds a third of the memory maps that Linux gives it, or nobody can tell."""
    try:
        with open("/proc/self/maps", "rb") as file:
            return sum(1 for _ in file) > 20_000
    except OSError:
        return True


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of photographs beside the checkout; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no photographs at {DATA}")
    return DATA
