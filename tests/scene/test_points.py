"""Gaussians at points; oracle: all distances in a plain loop."""

import numpy as np

from airjax.scene.harmonics import from_rgb
from airjax.scene.points import OPACITY, at_points


def test_sizes_are_root_mean_squares_of_three_distances():
    """Twins included: a point at the same place is a neighbor at distance 0, and no size is 0."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 3)).astype(np.float32)
    points[:5] = points[0]
    colors = rng.uniform(size=(40, 3)).astype(np.float32)
    gaussians = at_points(points, colors)
    for i, point in enumerate(points):
        nearest = sorted(np.linalg.norm(points.astype(float) - point, axis=1))[1:4]
        size = max(np.sqrt(np.mean(np.square(nearest))), 1e-7)
        np.testing.assert_allclose(gaussians.scales[i], size * np.array([1.01, 1, 0.99]), rtol=1e-5)
    np.testing.assert_array_equal(gaussians.means, points)
    np.testing.assert_allclose(gaussians.harmonics[:, 0], from_rgb(colors), rtol=1e-6)
    assert gaussians.active.all() and (gaussians.opacities == np.float32(OPACITY)).all()
    assert gaussians.scales.dtype == np.float32
