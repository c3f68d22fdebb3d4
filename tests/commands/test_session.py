"""One run of the program: its clock, and JAX with its cache."""

import re
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from command_line import failing, photo

from airjax.commands import main, session


def test_the_wait_for_the_compiler_is_announced(tmp_path, monkeypatch, capsys, weights):
    """Before the first call, with the folder of the cache, and where there is none."""
    photo(tmp_path / "a.png")
    for folder, words in ((tmp_path / "cache", f"is kept in {tmp_path / 'cache'}"), (None, "in every run")):
        monkeypatch.setattr("airjax.commands.session.enable_compilation_cache", lambda folder=folder: folder)
        with monkeypatch.context() as patch:
            patch.setattr("airjax.image.model.load", failing(KeyboardInterrupt))
            assert main.main(["encode", str(tmp_path / "a.png"), "--weights", str(weights)]) == 130
        assert words in capsys.readouterr().err.splitlines()[0]


def test_clock_knows_the_compiler():
    """Oracle: a program that was not there before, and one that JAX's own events say took five seconds."""
    with session.Clock() as clock:
        jax.jit(lambda x: x * 3 + 1)(np.float32(1))
    assert 0 < clock.compiling < clock.seconds
    with session.Clock() as clock:
        jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 5.0)
    jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 5.0)  # no longer counted
    assert re.fullmatch(r"\d+ ms \(5000 compiling\)", str(clock))
    with session.Clock() as clock, ThreadPoolExecutor(1) as other:  # which has a clock of its own, or none
        other.submit(jax.monitoring.record_event_duration_secs, "/jax/core/compile/backend_compile_duration", 5.0)
    assert clock.compiling == 0


def test_jax_is_started_once_in_a_run(capsys, monkeypatch):
    """However many files there are, and again in the next run."""
    calls = []
    monkeypatch.setattr(session, "enable_compilation_cache", lambda: calls.append(None))
    for screen in (session.Screen(), session.Screen()):
        session.start_jax(screen)
        session.start_jax(screen)
    assert len(calls) == len(capsys.readouterr().err.splitlines()) == 2


@pytest.fixture
def no_cache(monkeypatch):
    """JAX without a compilation cache, as before, whatever a test switches on."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_cache_is_the_users_folder_and_never_an_error(tmp_path, monkeypatch, no_cache):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert session.enable_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert session.enable_compilation_cache() == tmp_path / "cache" / "airjax"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "airjax")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert session.enable_compilation_cache() == tmp_path / "cache" / "airjax"  # the one already chosen stays
