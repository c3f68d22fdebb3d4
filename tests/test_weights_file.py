"""Weights files; the oracle is the round trip, and for damaged files the message."""

import os
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from airjax import weights_file
from airjax.errors import AirjaxError


def assert_same(actual, expected):
    """Same structure, and every leaf the same type and bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


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

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(AirjaxError, match=r"weights.safetensors: cannot be written \(No space left"):
        weights_file.save_weights(path, {"w": np.zeros(2, np.float32)})
    assert weights_file.load_weights(path)[0]["w"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["weights.safetensors"]


@pytest.mark.forbidden
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


def test_files_are_those_of_the_library(tmp_path):
    """Bytes that the library of the format writes for the same arrays; written one by one, they take less memory."""
    rng = np.random.default_rng(0)
    params = {
        "b": rng.standard_normal((2, 3)).astype(np.float32),
        "a": np.arange(3),
    }
    params |= {"n": np.zeros((0, 2), np.float32), "s": np.float32(3), "h": np.arange(5, dtype=np.uint8)}
    weights_file.save_weights(tmp_path / "w.safetensors", params, {"é": "ü"})
    assert (tmp_path / "w.safetensors").read_bytes() == save({k: np.asarray(v) for k, v in params.items()}, {"é": "ü"})
    large = {f"w{i}": np.ones((256, 1024), np.float32) for i in range(8)}
    tracemalloc.start()
    weights_file.save_weights(tmp_path / "w.safetensors", large, storage="float16")
    assert tracemalloc.get_traced_memory()[1] < 2**21  # bytes; all of them have 2**23
    tracemalloc.stop()
