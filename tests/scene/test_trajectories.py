"""Paths of a camera: what the views from outside show, and which way is up. Oracle: points projected by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scenes3d import make, random_set

from airjax.scene.trajectories import overview, turntable

Y_DOWN, Z_UP = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])
SIZE = (40, 60)


def pixels(camera, points):
    """(n, 2) pixels and (n,) depths."""
    local = np.asarray(points, float) @ camera.rotation.T + camera.translation
    image = local @ camera.intrinsics.T
    return image[:, :2] / image[:, 2:], local[:, 2]


@pytest.mark.parametrize("down", [Y_DOWN, Z_UP])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_a_full_turn_shows_everything_the_right_way_up(down, scale):
    """At any scale, before the near plane of no preset; the first frame is the camera itself."""
    shift = np.array([100.0, -40.0, 7.0])
    means = scale * (np.random.default_rng(0).uniform(-1, 1, (500, 3)) * [1, 2, 3] + shift)
    camera, distance = overview(make(means, scale * 0.01, 0.5), down=down, image_size=SIZE)
    path = turntable(camera, distance=distance, down=down, num_frames=4)
    np.testing.assert_allclose(path.rotation[0], camera.rotation, atol=1e-4)
    for i in range(4):
        image, depths = pixels(path[i], means)
        inside = ((image > 0) & (image < SIZE[::-1])).all(axis=1)
        assert inside.mean() > 0.95 and depths.min() > 0.2
        assert np.ptp(image, axis=0).max() > 20  # and it is not small
        ends, _ = pixels(path[i], scale * shift + scale * np.stack([-down, down]))
        assert ends[1, 1] > ends[0, 1] + 3 and abs(ends[1, 0] - ends[0, 0]) < 0.5
    facing = path.rotation[:, 2]
    np.testing.assert_allclose(facing @ down, np.sin(np.radians(15)), atol=1e-5)
    np.testing.assert_allclose((facing[0] + facing[2]) / 2, (facing[1] + facing[3]) / 2, atol=1e-5)


def test_floaters_invisible_ones_and_inactive_slots_do_not_count():
    gaussians = random_set(0, 100)
    expected, _ = overview(gaussians, down=Y_DOWN, image_size=SIZE)
    far = np.full((100, 3), 1e4)
    others = make(np.concatenate([gaussians.means, far]), 0.1, np.repeat([0.5, 0.0], 100))
    others = replace(others, scales=np.concatenate([gaussians.scales, np.full((100, 3), 0.1)]))
    seen, _ = overview(
        replace(others, opacities=np.append(gaussians.opacities, np.zeros(100))), down=Y_DOWN, image_size=SIZE
    )
    np.testing.assert_allclose(seen.translation, expected.translation, rtol=1e-6)
    hidden = replace(others, opacities=np.ones(200), active=np.arange(200) < 100)
    plain, _ = overview(replace(gaussians, opacities=np.ones(100)), down=Y_DOWN, image_size=SIZE)
    seen, _ = overview(hidden, down=Y_DOWN, image_size=SIZE)
    np.testing.assert_allclose(seen.translation, plain.translation, rtol=1e-6)
    means = np.array(gaussians.means)
    means[:3] = 1e6
    _, distance = overview(replace(gaussians, means=means), down=Y_DOWN, image_size=SIZE)
    assert distance < 10


@pytest.mark.parametrize(("scales", "opacity"), [(0.1, 0.5), (0.0, 0.5), (0.1, 0.0)])
def test_one_gaussian_is_in_the_middle(scales, opacity):
    """Without size or visible weight too."""
    camera, distance = overview(make([[3, 2, 1]], scales, opacity), down=Y_DOWN, image_size=SIZE)
    image, depths = pixels(camera, [[3, 2, 1]])
    np.testing.assert_allclose(image[0], [30, 20], atol=1e-3)
    np.testing.assert_allclose(depths, distance, rtol=1e-5)
