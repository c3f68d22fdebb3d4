"""Quaternions by their laws, on any input. Oracle of the matrix: scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from airjax.scene.quaternions import from_rotation, multiply, rotations

# Any direction, half turns and axes among them, of any length that float32 can square.
PARTS = st.sampled_from([0.0, 1.0, -1.0, 1e-6]) | st.floats(-1, 1, width=32)
DIRECTIONS = st.lists(PARTS, min_size=4, max_size=4).map(np.float32).filter(lambda q: np.linalg.norm(q) > 1e-3)
LENGTHS = st.floats(-12, 12).map(lambda power: np.float32(10**power))


def matrix(quat) -> np.ndarray:
    return np.asarray(rotations(np.float32(quat)[None]))[0]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(DIRECTIONS, LENGTHS)
def test_any_length_gives_the_rotation(quat, length):
    expected = Rotation.from_quat(np.float64(quat), scalar_first=True).as_matrix()
    np.testing.assert_allclose(matrix(quat * length), expected, atol=2e-6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(DIRECTIONS)
def test_a_matrix_gives_its_quaternion_back(quat):
    """Also at half turns, where w = 0 and the sign is free."""
    back = np.asarray(from_rotation(matrix(quat)))
    assert back[0] >= 0 and np.linalg.norm(back) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(matrix(back), matrix(quat), atol=2e-6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(DIRECTIONS, DIRECTIONS)
def test_a_product_is_one_rotation_after_the_other(a, b):
    product = np.asarray(multiply(a[None], b[None]))[0]
    np.testing.assert_allclose(matrix(product), matrix(a) @ matrix(b), atol=4e-6)
    assert np.linalg.norm(product) == pytest.approx(np.linalg.norm(a) * np.linalg.norm(b), rel=1e-5)


def test_length_zero_is_the_identity():
    np.testing.assert_array_equal(matrix(np.zeros(4)), np.eye(3))
