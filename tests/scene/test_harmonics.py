"""Spherical harmonics against their definition in angles, and their integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle3d import harmonics as by_definition

from airjax.scene.harmonics import SH0, basis, degree_of, from_rgb, num_harmonics, to_rgb


def directions(n, seed=0):
    v = np.random.default_rng(seed).normal(size=(n, 3))
    return (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("degree", range(5))
def test_functions_equal_their_definition(degree):
    d = directions(20)
    expected = np.stack([by_definition(v.astype(float), degree) for v in d])
    np.testing.assert_allclose(basis(jnp.asarray(d), degree=degree), expected, atol=2e-6)


def test_functions_are_orthonormal():
    """Mean over the sphere of the products is the identity / 4 pi; Monte Carlo with 2e5 directions, error 1e-3."""
    functions = np.asarray(basis(jnp.asarray(directions(200_000)), degree=4))
    np.testing.assert_allclose(4 * np.pi * functions.T @ functions / 200_000, np.eye(25), atol=0.03)


def test_colours():
    rgb = jnp.array([[0.2, 0.9, 0.0]])
    d = jnp.asarray(directions(1))
    np.testing.assert_allclose(to_rgb(from_rgb(rgb)[:, None], d), rgb, atol=1e-6)
    dark = jnp.full((1, 1, 3), -1 / SH0)
    np.testing.assert_array_equal(to_rgb(dark, d), 0.0)
    assert not np.any(jax.grad(lambda h: jnp.sum(to_rgb(h, d)))(dark))


def test_degrees():
    assert [num_harmonics(degree) for degree in range(5)] == [1, 4, 9, 16, 25]
    assert [degree_of(k) for k in (1, 4, 9, 16, 25)] == [0, 1, 2, 3, 4]
    for bad in (0, 2, 36):
        with pytest.raises(ValueError, match="harmonics: expected 1, 4"):
            degree_of(bad)
    with pytest.raises(ValueError, match="degree: expected 0 to 4"):
        num_harmonics(5)
