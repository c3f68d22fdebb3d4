"""The origin of scenes far from 0: chosen only where float32 loses something, and undone exactly."""

import numpy as np
import pytest

from airjax.scene.cameras import Camera
from airjax.scene.origin import centers_of, origin_of, relative

UTM = np.array([448000.0, 5411000.0, 150.0])


def cameras_at(centers):
    """Cameras at these places that look in all directions."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(len(centers), 3, 3)))[0]
    rotations = q * np.linalg.det(q)[:, None, None]
    intrinsics = np.tile(np.eye(3), (len(centers), 1, 1))
    return Camera(intrinsics, rotations, -np.einsum("vij,vj->vi", rotations, centers))


CENTERS = np.random.default_rng(1).normal(size=(6, 3))
WALK = np.stack([np.linspace(0, 3000, 3000), np.zeros(3000), np.zeros(3000)], axis=1)


@pytest.mark.parametrize(
    "centers",
    [CENTERS, 1e-6 * CENTERS, 1e6 * CENTERS, CENTERS + 5, CENTERS + 100, WALK, WALK + 6000, np.zeros((3, 3))],
    ids=["around 0", "micrometers", "large", "beside 0", "a hundred away", "a walk", "a walk elsewhere", "one place"],
)
def test_ordinary_scenes_stay_as_they_are(centers):
    cameras = cameras_at(centers)
    origin = origin_of(cameras)
    np.testing.assert_array_equal(origin, np.zeros(3))
    assert relative(cameras, origin) is cameras


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e3])
@pytest.mark.parametrize("outlier", [False, True])
def test_far_scenes_lie_around_their_origin(scale, outlier):
    """Whatever the unit, and with a view whose place is unknown, at 0; float32 then holds what float64 does."""
    centers = scale * (CENTERS + UTM)
    if outlier:
        centers[3] = 0
    cameras = cameras_at(centers)
    origin = origin_of(cameras)
    assert np.linalg.norm(origin - scale * UTM) < 3 * scale
    moved = centers_of(relative(cameras, origin))
    np.testing.assert_allclose(moved + origin, centers, rtol=0, atol=1e-8 * scale)
    np.testing.assert_allclose(moved[:3].astype(np.float32), (centers - origin)[:3], rtol=0, atol=1e-6 * scale)


def test_a_city_in_earth_coordinates():
    """Kilometers wide, and still rounded by half a meter."""
    assert origin_of(cameras_at(UTM + 5000 * np.random.default_rng(0).normal(size=(2000, 3)))).any()


def test_numbers_that_are_none():
    assert not origin_of(cameras_at(np.full((3, 3), np.nan))).any()
