"""Ctrl-C in processes of their own: status 130 and one line at once, whatever is going on, and nothing half written."""

import os
import signal
import subprocess
import sys
import time

import pytest
from command_line import ROOT, photo

from airjax.commands import interrupt

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a signal of POSIX")

KEPT = "airjax: interrupted; the files that were done are kept"
# What a process does when it is interrupted; it prints a line just before.
MOMENTS = {
    "python": "print('now', flush=True)\nwhile True: pass",
    "compiler": (
        "import jax, jax.numpy as jnp\n"
        "def large(x):\n"
        "    for i in range(400): x = jnp.sin(x @ x) + i\n"
        "    return x\n"
        "lowered = jax.jit(large).lower(jnp.ones((64, 64)))\n"
        "print('now', flush=True)\n"
        "while True: lowered.compile()"
    ),
    "swallowed": (  # an exception in a finaliser is printed and forgotten
        "class Loud:\n"
        "    def __del__(self):\n"
        "        import time; time.sleep(2)\n"
        "print('now', flush=True)\n"
        "while True: Loud()"
    ),
    "write": (
        "import os, time\n"
        "from airjax.files import atomic_write_bytes\n"
        "os.fsync = lambda descriptor: (print('now', flush=True), time.sleep(0.6))\n"
        "atomic_write_bytes('a.air', b'all of it')\n"
        "while True: pass"
    ),
}


def interrupted(process, after: float = 0.1) -> tuple[int, list[str], float]:
    """Status, lines of stderr, and seconds until the end of a process that gets Ctrl-C."""
    time.sleep(after)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    return process.returncode, errors.splitlines(), time.monotonic() - start


@pytest.mark.parametrize("moment", MOMENTS)
def test_at_any_moment(tmp_path, moment):
    code = f"from airjax.commands import interrupt\ninterrupt.watch()\n{MOMENTS[moment]}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, **pipes) as process:
        assert process.stdout.readline() == "now\n"
        status, lines, seconds = interrupted(process)
    assert (status, lines) == (130, [KEPT]) and seconds < 5
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert files == ({"a.air": b"all of it"} if moment == "write" else {})


def test_what_is_said_and_done_at_the_end(tmp_path):
    """The innermost that has something to say, and all that have something to do."""
    code = (
        "from pathlib import Path\n"
        "from airjax.commands import interrupt\n"
        "interrupt.watch()\n"
        "with interrupt.at_interrupt(lambda: Path('kept').touch() or 'step 3 is kept'):\n"
        "    with interrupt.at_interrupt(lambda: Path('done').touch() or ''):\n"
        "        print('now', flush=True)\n"
        "        while True: pass"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, **pipes) as process:
        process.stdout.readline()
        assert interrupted(process)[:2] == (130, ["airjax: step 3 is kept"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done", "kept"]


def test_an_exception_says_the_same():
    """Where nobody watches: `main` in another program."""
    with pytest.raises(KeyboardInterrupt) as stop, interrupt.at_interrupt(lambda: "step 3 is kept"):
        raise KeyboardInterrupt
    assert interrupt.last_line(stop.value) == "step 3 is kept"
    with pytest.raises(KeyboardInterrupt) as stop, interrupt.at_interrupt(lambda: ""):
        raise KeyboardInterrupt
    assert f"airjax: {interrupt.last_line(stop.value)}" == KEPT


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 0.5, 2.0])
def test_the_program(tmp_path, weights, after):
    """While weights are loaded, traced and compiled for: no file, no temporary one."""
    photo(tmp_path / "a.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-m", "airjax", "encode", "a.png", "--weights", str(weights), "--effort", "9"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        assert "the first image of a size" in process.stderr.readline()
        status, lines, _ = interrupted(process, after)
    assert (status, lines) == (130, [KEPT])
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["a.png"]
