"""Crops of a real scene: geometry that holds, bounds, and what cannot be sampled."""

import numpy as np
import pytest

from airjax.errors import AirjaxError
from airjax.scene.cameras import Camera, project_points
from train.scene.crops import PosedScene, sample

RNG = np.random.default_rng(0)
POINTS = RNG.uniform([-3, -2, 4], [3, 2, 7], (400, 3)).astype(np.float32)


def picture(size=(96, 128)):
    """Pixels whose red and green say where they are seen: x / 255 and y / 255."""

    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)


@pytest.fixture
def scene():
    """Eight cameras side by side, 0.25 apart, that look along z."""
    k = np.tile(np.array([[110.0, 0, 64], [0, 110, 48], [0, 0, 1]], np.float32), (8, 1, 1))
    translation = np.stack([-0.25 * np.arange(8), np.zeros(8), np.zeros(8)], axis=1).astype(np.float32)
    rotation = np.tile(np.eye(3, dtype=np.float32), (8, 1, 1))
    images = np.stack([picture()] * 8)
    return PosedScene("somewhere", ((images, k),), rotation, translation, POINTS)


def test_a_crop_keeps_its_geometry(scene):
    """Colours tell the pixel of the photograph: shifted intrinsics must say the same for points of the scene."""
    for seed in range(5):
        views = sample(np.random.default_rng(seed), scene, num_views=4, image_size=(32, 32))
        assert views.images.shape == (4, 32, 32, 3) and np.isnan(views.depths).all() and views.near < views.far
        whole = Camera(scene.levels[0][1], scene.rotation, scene.translation)
        for i in range(4):
            corner = np.rint(255 * views.images[i, 0, 0, :2])
            j = np.flatnonzero((scene.translation == views.cameras.translation[i]).all(axis=1))[0]
            inside, _ = project_points(views.cameras[i], POINTS)
            expected, _ = project_points(whole[j], POINTS)
            np.testing.assert_allclose(inside, expected - corner[None], atol=1e-3)
        centers = -views.cameras.translation
        assert 0.08 * 4 < np.linalg.norm(centers[0] - centers[1]) < 0.6 * 7
        assert len(np.unique(centers[:, 0])) == 4


def test_the_same_seed_gives_the_same_crops(scene):
    a, b = (sample(np.random.default_rng(3), scene, num_views=3, image_size=(32, 32)) for _ in range(2))
    np.testing.assert_array_equal(a.images, b.images)


@pytest.mark.parametrize("change", [{"image_size": (97, 32)}, {"num_views": 9}])
def test_what_cannot_be_sampled(scene, change):
    with pytest.raises(AirjaxError, match="somewhere: expected views that overlap"):
        sample(np.random.default_rng(0), scene, **{"num_views": 4, "image_size": (32, 32), **change})


def test_views_without_a_baseline(scene):
    still = scene._replace(translation=0 * scene.translation)
    with pytest.raises(AirjaxError, match="expected views that overlap"):
        sample(np.random.default_rng(0), still, num_views=4, image_size=(32, 32))
