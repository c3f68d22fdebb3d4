"""The compilation cache of the commands."""

import jax
import pytest

from airjax.commands.session import enable_compilation_cache


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
    assert enable_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert enable_compilation_cache() == tmp_path / "cache" / "airjax"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "airjax")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert enable_compilation_cache() == tmp_path / "cache" / "airjax"  # the one already chosen stays
