"""The compact predictor against the same network written out in numpy float64, and what its shape promises."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.nn import air_stage as module
from airjax.nn.air_stage import NO_QUALITY, RAW_ROWS, PredictorConfig, apply_in_bands, compact_predictor, patches_of

CONFIG, PATCH = PredictorConfig(features=8, blocks=2, expansion=2), 3
GRID = (9, 5)


@cache
def network():
    """(predictor, random weights, random patches): no weight is zero or one as in a fresh network."""
    predictor = compact_predictor(CONFIG, PATCH)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(predictor.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32), shapes)
    patches = jnp.asarray(rng.normal(0, 0.3, (*GRID, 3 * PATCH**2)), jnp.float32)
    return predictor, params, patches


apply = jax.jit(compact_predictor(CONFIG, PATCH).apply)


def neighbours(x):
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    return [padded[i : i + x.shape[0], j : j + x.shape[1]] for i in range(3) for j in range(3)]


def written_out(params, patches):
    def dense(x, p):
        return x @ p["kernel"] + p["bias"]

    def norm(x, p):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    contrast = np.sqrt(sum(neighbours(np.mean(patches**2, axis=-1, keepdims=True))) / 9 + 1e-5)
    x = dense(np.concatenate([patches / contrast, np.log(contrast)], axis=-1), params["embed"])
    for i in range(CONFIG.blocks):
        p = params[f"block{i}"]
        y = sum(part * kernel for part, kernel in zip(neighbours(x), p["depthwise"], strict=True))
        y = dense(norm(y, p["norm"]), p["up"])
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))  # the usual form of GELU
        x = x + dense(y, p["down"])
    raw = dense(norm(x, params["norm"]), params["head"])
    mean = patches.reshape(*patches.shape[:2], PATCH * PATCH, 3).mean(axis=2)
    raw[..., 5:] = contrast * raw[..., 5:] + params["mean_share"] * mean
    return raw


def test_equals_the_network_written_out():
    _, params, patches = network()
    params64, patches64 = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, patches))
    expected = written_out(params64, patches64)
    assert expected.shape == (*GRID, RAW_ROWS)
    # Sums of a few dozen terms in float32, a few layers deep.
    np.testing.assert_allclose(apply(params, patches), expected, atol=1e-4 * np.abs(expected).max())


def test_a_raw_row_depends_on_patches_within_reach():
    """Property, by the gradient: exactly zero beyond `reach`, and not zero at it."""
    predictor, params, patches = network()
    grad = jax.jit(jax.grad(lambda patches: jnp.sum(predictor.apply(params, patches)[4, 2])))(patches)
    rows = np.abs(grad).max(axis=(1, 2)) > 0
    distance = np.abs(np.arange(GRID[0]) - 4)
    np.testing.assert_array_equal(rows, distance <= predictor.reach)


@pytest.mark.parametrize("bands", [1, 2])
def test_bands_equal_one_piece(monkeypatch, bands):
    """Rows come out of windows as they do out of the whole grid; the last window is moved inside."""
    predictor, params, patches = network()
    monkeypatch.setattr(module, "BAND_PATCHES", bands * GRID[1])
    calls = []

    def counting(params, patches, *others):
        calls.append(patches.shape)
        return predictor.apply(params, patches, *others)

    inside = np.ones((*GRID, 1), np.float32)
    inside[-1] = inside[:, -2:] = 0
    for part in (np.ones_like(inside), inside):
        in_bands = jax.jit(partial(apply_in_bands, predictor._replace(apply=counting)))
        found = in_bands(params, patches * part, NO_QUALITY, part)
        expected = jax.jit(predictor.apply)(params, patches * part, NO_QUALITY, part)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert {shape[0] for shape in calls} == {bands + 2 * predictor.reach}


def test_what_is_not_inside_changes_nothing():
    """Raw rows of a part of a grid are those of the part alone, whatever the size of the whole."""
    predictor, params, patches = network()
    rows, columns = GRID[0] - 1, GRID[1] - 2
    inside = np.zeros((*GRID, 1), np.float32)
    inside[:rows, :columns] = 1
    whole = jax.jit(predictor.apply)(params, patches * inside, NO_QUALITY, inside)
    alone = apply(params, patches[:rows, :columns])
    np.testing.assert_allclose(whole[:rows, :columns], alone, atol=1e-4)


def test_a_fresh_network_starts_near_the_patch_mean():
    """Colours 0.7 of the mean, within the noise of a head of 0.02 on eight normalised features; geometry centred."""
    predictor, _, patches = network()
    params = jax.jit(predictor.init)(jax.random.key(1))
    raw = np.asarray(apply(params, patches))
    mean = np.asarray(patches).reshape(*GRID, -1, 3).mean(axis=2)
    assert np.abs(raw[..., 5:] - 0.7 * mean).max() < 0.1
    assert np.abs(raw[..., :5]).max() < 0.3
    silent = {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}
    raw = np.asarray(apply(silent, patches))
    np.testing.assert_allclose(raw[..., 5:], 0.7 * mean, atol=1e-6)
    np.testing.assert_array_equal(raw[..., :5], 0)


def test_finite_at_every_contrast():
    """Value and gradient, from black to far outside [0, 1]."""
    predictor, params, patches = network()

    @jax.jit
    @partial(jax.grad, argnums=(0, 1), has_aux=True)
    def grads_and_raw(params, patches):
        raw = predictor.apply(params, patches)
        return jnp.sum(jnp.sin(raw)), raw

    for level in (0.0, 1e-30, 1e-4, 1.0, 1e4):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads_and_raw(params, level * patches)))


@pytest.mark.parametrize("config", [CONFIG, PredictorConfig()])
@pytest.mark.parametrize("patch_size", [PATCH, 8])
def test_multiply_adds_are_those_of_the_weights(config, patch_size):
    """Each number of a matrix or filter is used once per patch."""
    shapes = jax.eval_shape(compact_predictor(config, patch_size).init, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    used = sum(x.size for path, x in leaves if path[-1].key in ("kernel", "depthwise"))
    assert config.multiply_adds(patch_size) == used


def test_patches_go_row_by_row():
    image = np.random.default_rng(0).uniform(size=(6, 9, 3)).astype(np.float32)
    patches = np.asarray(patches_of(jnp.asarray(image), 3))
    assert patches.shape == (2, 3, 27)
    for i in range(2):
        for j in range(3):
            np.testing.assert_array_equal(patches[i, j], image[3 * i : 3 * i + 3, 3 * j : 3 * j + 3].ravel())
