"""Training checkpoints; the oracle is the round trip, and for damaged files the message."""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from airjax.errors import AirjaxError
from train import checkpoint


class State(NamedTuple):
    params: dict
    opt_state: tuple
    key: jax.Array
    step: jax.Array


def make_state(seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    params = {
        "layer": {"w": jnp.asarray(rng.standard_normal((30, 50)), jnp.float32), "none": jnp.zeros((0, 3))},
        "half": jnp.asarray(rng.standard_normal(4), jnp.bfloat16),
    }
    return State(params, optax.adamw(1e-3).init(params), jax.random.key(seed), jnp.int32(seed))


def assert_same(actual, expected):
    """Same structure, and every leaf the same type and bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_state_survives_the_round_trip(tmp_path):
    state = make_state(3)
    checkpoint.save(tmp_path, 12, state, extra={"elapsed": 1.25})
    assert checkpoint.latest_step(tmp_path) == 12
    assert checkpoint.read_extra(tmp_path) == {"elapsed": 1.25}
    assert_same(checkpoint.restore(tmp_path, make_state(0)), state)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), make_state(0))
    assert_same(checkpoint.restore(tmp_path, abstract), state)


def test_the_newest_are_kept_and_each_is_its_own(tmp_path):
    for step in (1, 2, 3, 10, 100_000_000):
        checkpoint.save(tmp_path, step, {"x": jnp.full(2, step)}, keep=2)
    assert checkpoint.steps(tmp_path) == [10, 100_000_000]
    assert checkpoint.restore(tmp_path, {"x": jnp.zeros(2, int)}, step=10)["x"].tolist() == [10, 10]
    checkpoint.save(tmp_path, 10, {"x": jnp.full(2, 7)})  # the same step again replaces it
    assert checkpoint.restore(tmp_path, {"x": jnp.zeros(2, int)}, step=10)["x"].tolist() == [7, 7]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["10", "100000000"]


def test_one_branch_without_the_model(tmp_path):
    state = make_state(1)
    checkpoint.save(tmp_path, 1, state)
    part = checkpoint.restore_part(tmp_path, "params")
    assert_same(jax.tree.map(jnp.asarray, part), state.params)
    with pytest.raises(AirjaxError, match="expected a branch 'ema', found"):
        checkpoint.restore_part(tmp_path, "ema")


def test_an_unfinished_write_is_not_a_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"x": jnp.ones(2)})

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, {"x": jnp.zeros(2)})
    assert checkpoint.latest_step(tmp_path) == 1
    checkpoint.save(tmp_path, 2, {"x": jnp.zeros(2)})
    assert {entry.name for entry in tmp_path.iterdir()} == {"1", "2"}


def test_restoring_something_else_names_the_difference(tmp_path):
    checkpoint.save(tmp_path, 1, {"a": jnp.ones((2, 3)), "b": jnp.ones(1)})
    with pytest.raises(AirjaxError, match=r"a: expected \[\[3, 2\], 'float32'\], found \[\[2, 3\], 'float32'\]"):
        checkpoint.restore(tmp_path, {"a": jnp.ones((3, 2)), "b": jnp.ones(1)})
    with pytest.raises(AirjaxError, match="b: expected nothing, found"):
        checkpoint.restore(tmp_path, {"a": jnp.ones((2, 3))})
    with pytest.raises(AirjaxError, match="expected a checkpoint of step 5, found none"):
        checkpoint.restore(tmp_path, {"a": jnp.ones(1)}, step=5)
    with pytest.raises(AirjaxError, match="expected a checkpoint, found none"):
        checkpoint.restore(tmp_path / "nowhere", {"a": jnp.ones(1)})


@pytest.mark.parametrize("harm", ["cut", "gone", "flip"])
def test_each_damaged_file_is_noticed(tmp_path, harm):
    """Oracle: the message names the file. The checksums are the exception: the other files are whole without them."""
    state = {"x": jnp.arange(5000.0)}
    path = checkpoint.save(tmp_path, 1, state)
    files = [file for file in path.rglob("*") if file.is_file()]
    assert len(files) > 3
    for file in files:
        content = file.read_bytes()
        if harm == "gone":
            file.unlink()
        elif harm == "cut":
            file.write_bytes(content[: len(content) // 2])
        else:
            file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        if file.name != "checksums.txt":
            with pytest.raises(AirjaxError, match=rf"{file}: missing or damaged; delete {path} to use an older"):
                checkpoint.restore(tmp_path, state)
        elif harm != "gone":
            with pytest.raises(AirjaxError, match=f"missing or damaged; delete {path} to use an older"):
                checkpoint.restore(tmp_path, state)
        else:  # as where the process was killed between the rename and the checksums
            assert_same(checkpoint.restore(tmp_path, state), state)
        file.write_bytes(content)
    assert_same(checkpoint.restore(tmp_path, state), state)


def test_reading_leaves_a_write_in_progress_alone(tmp_path):
    """Another process may be writing while weights are exported."""
    checkpoint.save(tmp_path, 1, {"a": {"x": jnp.ones(2)}})
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.restore_part(tmp_path, "a")["x"].tolist() == [1, 1]
    assert checkpoint.steps(tmp_path) == [1]
    assert (tmp_path / "2.orbax-checkpoint-tmp").exists()


def test_save_rejects_nonsense(tmp_path):
    with pytest.raises(ValueError, match="expected step >= 0 and keep >= 1"):
        checkpoint.save(tmp_path, 1, {"x": jnp.ones(1)}, keep=0)
    with pytest.raises(ValueError, match="'a/b' twice"):
        checkpoint.save(tmp_path, 1, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)})
