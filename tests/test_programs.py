"""Compiled programs: kept on disk and found again by their arguments; forgotten before a process has too many."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax import programs
from airjax.gaussians import Gaussians2D


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


# --- kept on disk -----------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array


@dataclass(frozen=True)
class Options:
    times: float = 2.0


@pytest.fixture
def folder(tmp_path):
    """A folder where programs are kept during the test."""
    programs.keep_programs(tmp_path / "programs")
    yield tmp_path / "programs"
    programs.keep_programs(None)


@pytest.fixture
def scaled():
    """A kept function that counts how often it is traced."""

    @programs.kept(static_argnames=("options", "how"))
    def scaled(pair, factor=1.0, *, options: Options = Options(), how=None) -> Pair:
        scaled.traced += 1
        a, b = pair
        return Pair(options.times * a, factor * b.astype(jnp.float32))

    scaled.traced = 0
    return scaled


PAIR = Pair(np.arange(3, dtype=np.float32), jnp.ones((2, 2)))


def new_process():
    """What a process knows at its start."""
    programs._loaded.clear()
    jax.clear_caches()


def test_a_new_process_traces_nothing(folder, scaled):
    first = scaled(PAIR, 3.0)
    new_process()
    second = scaled(PAIR, 3.0)
    assert scaled.traced == 1 and len(list(folder.iterdir())) == 1
    assert isinstance(second, Pair)
    for result in (first, second):
        np.testing.assert_array_equal(result.a, [0, 2, 4])
        np.testing.assert_array_equal(result.b, np.full((2, 2), 3))


def test_numbers_are_arguments_and_options_are_not(folder, scaled):
    assert float(scaled(PAIR, 3.0).b[0, 0]) == 3
    assert float(scaled(PAIR, 4.0).b[0, 0]) == 4
    assert scaled.traced == 1
    assert float(scaled(PAIR, 4.0, options=Options(5.0)).a[1]) == 5
    assert float(scaled(PAIR, options=Options(5.0), factor=1.0).a[1]) == 5
    assert scaled.traced == 2 and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "pair",
    [
        Pair(np.zeros(4, np.float32), PAIR.b),
        Pair(PAIR.a, np.ones((2, 2), np.int32)),
        Pair(np.float32(0), PAIR.b),
        (PAIR.a, PAIR.b),
    ],
    ids=["shape", "dtype", "rank", "structure"],
)
def test_every_difference_of_arguments_is_another_program(folder, scaled, pair):
    scaled(PAIR)
    scaled(pair)
    assert scaled.traced == 2 and len(list(folder.iterdir())) == 2


def test_other_sources_are_other_programs(folder, scaled, monkeypatch):
    scaled(PAIR)
    new_process()
    monkeypatch.setattr(programs, "_surroundings", lambda: "another version")
    scaled(PAIR)
    assert scaled.traced == 2


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-9], lambda data: b"x" + data, lambda data: 9 * b"0"]
)
def test_a_damaged_program_is_made_again(folder, scaled, damage):
    scaled(PAIR)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    new_process()
    np.testing.assert_array_equal(scaled(PAIR).a, [0, 2, 4])
    assert scaled.traced == 2
    new_process()
    scaled(PAIR)
    assert scaled.traced == 2


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, scaled):
    (tmp_path / "file").write_text("")
    programs.keep_programs(tmp_path / "file")
    try:
        np.testing.assert_array_equal(scaled(PAIR).a, [0, 2, 4])
    finally:
        programs.keep_programs(None)


def test_what_no_text_describes_is_not_kept(folder, scaled):
    """Another function might have its address in the next process."""
    for how in (lambda: None, object()):
        np.testing.assert_array_equal(scaled(PAIR, how=how).a, [0, 2, 4])
    assert not folder.exists()
    scaled(PAIR, how=Gaussians2D)
    assert len(list(folder.iterdir())) == 1


def test_transformations_see_the_function(folder, scaled):
    gradient = jax.grad(lambda a: jnp.sum(scaled(Pair(a, PAIR.b)).a))(jnp.ones(3))
    np.testing.assert_array_equal(gradient, [2, 2, 2])
    mapped = jax.vmap(lambda a: scaled(Pair(a, PAIR.b)).a)(jnp.ones((4, 3)))
    assert mapped.shape == (4, 3) and not folder.exists()


def test_without_a_folder_it_is_jit(scaled):
    scaled(PAIR)
    scaled(PAIR)
    assert scaled.traced == scaled.jitted._cache_size() == 1
