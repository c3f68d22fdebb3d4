"""Triangulated points against scenes whose depths are known."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import noise_atlas

from airjax.errors import AirjaxError
from airjax.scene.bounds import find_bounds
from airjax.scene.cameras import Camera, project_points
from airjax.scene.files.photographs import load, scene_of
from airjax.scene.procedural import random_views
from airjax.scene.triangulate import supported, triangulate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def views():
    atlas = noise_atlas()
    draw = jax.jit(lambda key: random_views(key, atlas, image_size=(96, 128), num_views=5))
    return jax.tree.map(np.asarray, draw(jax.random.key(5)))


def test_points_lie_on_the_surfaces(views):
    """In the first view, most points that it sees are where its depths say, and the bounds hold nearly all depths."""
    told = []
    found = triangulate(views.images, views.cameras, progress=lambda *counts: told.append(counts))
    assert told == [(i, 5) for i in range(1, 6)]
    assert len(found.points) > 300 and found.colors.shape == found.points.shape
    seen, depth = (np.asarray(a) for a in project_points(views.cameras[0], jnp.asarray(found.points)))
    inside = (depth > 0) & (seen > 0).all(axis=1) & (seen < [128, 96]).all(axis=1)
    j, i = np.floor(seen[inside]).astype(int).T
    error = np.abs(np.log(depth[inside] / views.depths[0][i, j]))
    assert np.median(error) < 0.05 and inside.sum() > 200
    near, far = find_bounds(scene_of(views.images, views.cameras, points=found.points))[:2]
    inner = np.quantile(views.depths, [0.1, 0.9])
    assert near < inner[0] and inner[1] < far < 2 * views.depths.max()


def test_what_is_masked_matches_nothing(views):
    """A view behind its mask: what it shows changes nothing, and the others have points."""
    masks = np.ones(views.images.shape[:3], bool)
    masks[2] = False
    found = []
    for seed in (0, 1):
        noise = np.random.default_rng(seed).random(views.images.shape, np.float32)
        images = np.where(masks[..., None], views.images, noise)
        found.append(triangulate(images, views.cameras, masks=masks, max_views=3))
    np.testing.assert_array_equal(found[0].points, found[1].points)
    assert len(found[0].points) > 100


def test_the_unit_of_the_world_does_not_matter(views):
    base = triangulate(views.images, views.cameras)
    cameras = Camera(views.cameras.intrinsics, views.cameras.rotation, 100 * views.cameras.translation)
    large = triangulate(views.images, cameras)
    assert np.abs(large.points).mean() / np.abs(base.points).mean() == pytest.approx(100, rel=0.02)


def test_bounds_of_a_real_scene(data_dir):
    """Those of fern are known from its pose file, which took them from matched features: within a factor of 1.5."""
    scene = load(data_dir / "scenes" / "fern", max_size=192)
    found = find_bounds(replace(scene, bounds=None))
    for ours, theirs in zip(found[:2], scene.bounds, strict=True):
        assert 1 / 1.5 < ours / theirs < 1.5


def test_views_that_show_nothing_in_common(views):
    rng = np.random.default_rng(0)
    with pytest.raises(AirjaxError, match="room: expected views that overlap, found only"):
        triangulate(rng.uniform(size=views.images.shape).astype(np.float32), views.cameras, source="room")
    same = jax.tree.map(lambda leaf: np.repeat(leaf[:1], 5, axis=0), views.cameras)
    with pytest.raises(AirjaxError, match="room: expected cameras at different places"):
        triangulate(views.images, same, source="room")


def test_points_that_stand_alone_are_dropped():
    """Of a surface all cells stay; a false match on it goes, and so do two beside one another."""
    sure = np.zeros((9, 12), bool)
    sure[:, :6] = True
    depths = np.full((9, 12), 4.0)
    depths[4, 3] = 9.0
    sure[2, 10:] = True
    kept = supported(depths, sure)
    assert not kept[4, 3] and not kept[2, 10:].any() and kept[:, :6].sum() == 53
