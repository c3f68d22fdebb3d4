"""Modules that only POSIX systems have are needed by nobody: everything can be imported on Windows too."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import importlib, pathlib, sys
import flax, jax, matplotlib.figure, orbax.checkpoint, grain, scipy.spatial, tensorboardX  # what they need is theirs
for name in ("fcntl", "grp", "posix", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None  # importing it is an ImportError
paths = [path for folder in ("airjax", "train", "eval") for path in sorted(pathlib.Path(folder).rglob("*.py"))]
for path in paths:
    if path.name != "__main__.py":  # runs the program
        print(importlib.import_module(".".join(path.with_suffix("").parts)).__name__)
from eval.timing import peak_memory
assert peak_memory() == 0
"""


def test_everything_is_imported_without_the_modules_of_posix():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {"airjax.commands.main", "train.loop", "eval.timing"} <= {*done.stdout.split()}
