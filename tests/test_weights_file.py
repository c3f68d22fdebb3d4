"""Checkpoints and weights; the oracle is the round trip, and for damaged files the message."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from airjax import weights_file
from airjax.commands.session import enable_compilation_cache
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
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step_00000010", "step_100000000"]


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
        patch.setattr(weights_file, "_sync", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, {"x": jnp.zeros(2)})
    assert checkpoint.latest_step(tmp_path) == 1
    checkpoint.save(tmp_path, 2, {"x": jnp.zeros(2)})
    assert {entry.name for entry in tmp_path.iterdir()} == {"step_00000001", "step_00000002"}


def test_restoring_something_else_names_the_difference(tmp_path):
    checkpoint.save(tmp_path, 1, {"a": jnp.ones((2, 3)), "b": jnp.ones(1)})
    with pytest.raises(AirjaxError, match=r"a: expected \[\[3, 2\], 'float32'\], found \[\[2, 3\], 'float32'\]"):
        checkpoint.restore(tmp_path, {"a": jnp.ones((3, 2)), "b": jnp.ones(1)})
    with pytest.raises(AirjaxError, match="b: expected nothing, found"):
        checkpoint.restore(tmp_path, {"a": jnp.ones((2, 3))})
    with pytest.raises(AirjaxError, match="expected a checkpoint of step 5, found none"):
        checkpoint.restore(tmp_path, {"a": jnp.ones(1)}, step=5)
    with pytest.raises(AirjaxError, match="expected a weights_file, found none"):
        checkpoint.restore(tmp_path / "nowhere", {"a": jnp.ones(1)})


@pytest.mark.parametrize("harm", ["cut", "gone", "flip"])
def test_each_damaged_file_is_noticed(tmp_path, harm):
    state = {"x": jnp.arange(5000.0)}
    files = [file for file in checkpoint.save(tmp_path, 1, state).rglob("*") if file.is_file()]
    assert len(files) > 3
    for file in files:
        whole = file.read_bytes()
        if harm == "gone":
            file.unlink()
        elif harm == "cut":
            file.write_bytes(whole[: len(whole) // 2])
        elif file.name != "meta.json":
            file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        else:
            continue
        with pytest.raises(AirjaxError, match=f"{file.name}: missing or damaged; delete .*step_00000001"):
            checkpoint.restore(tmp_path, state)
        file.write_bytes(whole)
    assert_same(checkpoint.restore(tmp_path, state), state)


def test_save_rejects_nonsense(tmp_path):
    with pytest.raises(ValueError, match="expected step >= 0 and keep >= 1"):
        checkpoint.save(tmp_path, 1, {"x": jnp.ones(1)}, keep=0)
    with pytest.raises(ValueError, match="'a/b' twice"):
        checkpoint.save(tmp_path, 1, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)})


# --- weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_weights_survive_the_round_trip(tmp_path, storage):
    """Exact in float32; in float16 equal to numpy's rounding, which is the definition of that storage."""
    rng = np.random.default_rng(0)
    params = {
        "stage": {"w": rng.standard_normal((3, 4)).astype(np.float32), "t": np.float32(0.1)},
        "view": rng.standard_normal((4, 6)).astype(np.float32).T,  # not contiguous
        "jax": jnp.asarray(rng.standard_normal(5), jnp.bfloat16),
        "count": np.arange(3),
        "none": np.zeros((0, 2), np.float32),
    }
    path = tmp_path / "weights.safetensors"
    weights_file.save_weights(path, params, {"note": "Grüße"}, storage=storage)
    loaded, metadata = weights_file.load_weights(path)
    assert metadata == {"note": "Grüße"}

    def rounded(leaf):
        leaf = np.asarray(leaf)
        return leaf if leaf.dtype.kind == "i" else leaf.astype(storage).astype(np.float32)

    assert_same(loaded, jax.tree.map(rounded, params))
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]


def test_hash_follows_the_content(tmp_path):
    """Oracle: the published SHA-256 of the three letters abc (FIPS 180-2, appendix B.1)."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert weights_file.weights_hash(tmp_path / "abc") == "ba7816bf8f01cfea"
    with pytest.raises(AirjaxError, match="cannot read the weights file"):
        weights_file.weights_hash(tmp_path / "none")


def test_bad_weights_files_are_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(AirjaxError, match=r"weights.safetensors: expected a weights file .* found none"):
        weights_file.load_weights(path)
    with pytest.raises(AirjaxError, match="found a folder"):
        weights_file.load_weights(tmp_path)
    weights_file.save_weights(path, {"w": np.ones((20, 20), np.float32)})
    whole = path.read_bytes()
    for damaged in (b"", b"abc", whole[:20], whole[:-1], b"\xff" * 100, whole[:8] + b"{" * 50):
        path.write_bytes(damaged)
        with pytest.raises(AirjaxError, match=r"weights.safetensors: expected a whole safetensors file"):
            weights_file.load_weights(path)


def test_a_failed_write_keeps_the_old_weights(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    weights_file.save_weights(path, {"w": np.ones(2, np.float32)})

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space left"):
        weights_file.save_weights(path, {"w": np.zeros(2, np.float32)})
    assert weights_file.load_weights(path)[0]["w"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["weights.safetensors"]


@pytest.mark.parametrize(
    ("params", "options", "error", "message"),
    [
        ({"w": np.array([1.0, np.nan])}, {}, ValueError, r"params\['w'\]: expected finite values"),
        ({"w": np.array([1e5])}, {"storage": "float16"}, ValueError, "within the range of float16"),
        ({"w": np.ones(1)}, {"storage": "int8"}, ValueError, "storage: expected one of .* got 'int8'"),
        ({"a/b": np.ones(1)}, {}, ValueError, 'without "/", got'),
        ({"a": [np.ones(1)]}, {}, TypeError, "expected an array, got list"),
        ([np.ones(1)], {}, TypeError, "expected nested dicts, got list"),
        ({"w": np.ones(1)}, {"metadata": {"hours": 3}}, TypeError, r"metadata\['hours'\]: expected text"),
    ],
)
def test_weights_that_cannot_be_stored(tmp_path, params, options, error, message):
    with pytest.raises(error, match=message):
        weights_file.save_weights(tmp_path / "w.safetensors", params, **options)
    assert not list(tmp_path.iterdir())


# --- compilation cache ---------------------------------------------------------------------------------


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
