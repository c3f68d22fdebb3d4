"""Programs on several CPU devices: their number is fixed when JAX starts, so they run in a process of their own."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(devices: int) -> dict[str, str]:
    """For a process with so many CPU devices that otherwise computes as this one does."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # as conftest.py sets it in this process
    }
