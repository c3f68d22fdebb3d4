"""Compiled programs are forgotten before a process has too many."""

import jax
import jax.numpy as jnp
import pytest

from airjax import programs


@pytest.mark.parametrize(("regions", "left"), [(3, 1), (5, 0)])
def test_programs_are_forgotten_when_they_are_many(monkeypatch, tmp_path, regions, left):
    maps = tmp_path / "maps"
    maps.write_text("region\n" * regions)
    monkeypatch.setattr(programs, "_MAPS", maps)
    monkeypatch.setattr(programs, "_MOST", 4)
    double = jax.jit(lambda x: 2 * x)
    double(jnp.ones(3))
    programs.make_room()
    assert double._cache_size() == left


def test_where_nothing_is_known_nothing_is_forgotten(monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "_MAPS", tmp_path / "none")
    double = jax.jit(lambda x: 2 * x)
    double(jnp.ones(3))
    programs.make_room()
    assert double._cache_size() == 1
