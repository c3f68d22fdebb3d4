"""Several Gaussians become one where the picture is smooth. Oracles: by hand, on a grid of known colors and depths."""

import jax
import numpy as np
import pytest

from airjax.gaussians import Gaussians3D
from airjax.scene.thinning import thinned

SHAPE = (2, 8, 12)


def grid(colors, active=None):
    """Discs at the places of a grid, in colors (2, 8, 12)."""
    view, row, column = np.indices(SHAPE).reshape(3, -1).astype(np.float32)
    m = len(row)
    means = np.stack([column, row, 10 * view], axis=1)
    scales = np.tile(np.array([0.6, 0.5, 0.15], np.float32), (m, 1))
    quats = np.tile(np.array([1, 0, 0, 0], np.float32), (m, 1))
    quats[::3] *= -2  # the same rotation
    harmonics = np.repeat(np.float32(colors).reshape(m, 1, 1), 3, axis=2)
    active = np.ones(m, bool) if active is None else active.ravel()
    return Gaussians3D(means, scales, quats, np.full(m, 0.7, np.float32), harmonics, active)


DEPTHS = np.full(SHAPE, 5.0)


def test_enough_is_left_alone():
    before = grid(np.zeros(SHAPE))
    found = thinned(before, DEPTHS, most=192)
    assert found.active.all()
    np.testing.assert_array_equal(found.means, before.means)


@pytest.mark.parametrize("most, size", [(48, 2), (12, 4)])
def test_a_smooth_picture_becomes_large_squares(most, size):
    """Of 2 x 192 equal ones: means in the middle of the squares, scales across as many times as wide, colors kept."""
    found = thinned(grid(np.full(SHAPE, 0.25)), DEPTHS, most=most)
    kept = np.flatnonzero(found.active)
    assert len(kept) == most
    middle = (np.array([kept % 12, kept // 12 % 8]).T // size * size + (size - 1) / 2).astype(np.float32)
    np.testing.assert_allclose(found.means[kept, :2], middle, rtol=1e-5)
    np.testing.assert_allclose(found.scales[kept], np.tile([0.6 * size, 0.5 * size, 0.15], (most, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.harmonics[kept], 0.25, rtol=1e-5)
    np.testing.assert_allclose(np.abs(found.quats[kept]), np.tile([1, 0, 0, 0], (most, 1)), atol=1e-6)


def test_details_and_edges_stay():
    """The smooth view is joined; of the other, whose colors or depths differ from cell to cell, all stays."""
    colors = np.zeros(SHAPE)
    colors[1] = np.random.default_rng(0).uniform(size=SHAPE[1:])
    found = thinned(grid(colors), DEPTHS, most=96 + 24).active.reshape(SHAPE)
    assert found[1].all() and found[0].sum() == 24
    depths = DEPTHS.copy()
    depths[1, :, ::2] = 8.0
    found = thinned(grid(np.zeros(SHAPE)), depths, most=96 + 24).active.reshape(SHAPE)
    assert found[1].all() and found[0].sum() == 24


@pytest.mark.parametrize("most", [150, 50, 7, 2, 1])
def test_it_is_never_more_than_that(most):
    """Whatever is in use, and whatever its colors and depths; at least one of each view is left."""
    rng = np.random.default_rng(0)
    shape = (2, 7, 11)
    before = grid(rng.uniform(size=SHAPE), rng.uniform(size=SHAPE) < 0.7)
    before = jax.tree.map(lambda leaf: leaf[: np.prod(shape)], before)
    found = thinned(before, rng.uniform(1, 9, size=shape), most=most)
    assert min(2, before.active.sum()) <= found.active.sum() <= max(most, 2)
    means = found.means[found.active]
    assert (
        np.isfinite(means).all()
        and (means >= before.means.min(axis=0)).all()
        and (means <= before.means.max(axis=0)).all()
    )


def test_unused_members_count_for_nothing():
    """Of a square with three members that are used, the mean is theirs; one that is alone stays as it is."""
    active = np.zeros(SHAPE, bool)
    active[0, :2, :2] = [[True, True], [True, False]]
    active[0, 4, 5] = True
    before = grid(np.arange(192.0).reshape(SHAPE) * 0, active)
    found = thinned(before, DEPTHS, most=2)
    kept = np.flatnonzero(found.active)
    assert len(kept) == 2
    np.testing.assert_allclose(found.means[kept[0], :2], [1 / 3, 1 / 3], rtol=1e-5)
    np.testing.assert_allclose(found.scales[kept[0], 0], 0.6 * np.sqrt(3), rtol=1e-5)
    np.testing.assert_allclose(found.means[kept[1], :2], [5, 4])
