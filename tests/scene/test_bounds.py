"""Depth bounds come from the best source, and hold what each view sees. Oracle: known depths of procedural rooms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pose_files import write_colmap
from tiny import NUM_VIEWS, VIEW_SIZE, blank_scene, room_views

from airjax.errors import AirjaxError
from airjax.scene import bounds as module
from airjax.scene.bounds import find_bounds, pixels_in_sight
from airjax.scene.cameras import unproject
from airjax.scene.files.photographs import load
from airjax.scene.triangulate import Triangulated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def views():
    """A procedural room with its depths."""
    return room_views()


@pytest.fixture
def no_search(monkeypatch):
    def fails(*args, **options):
        raise AssertionError("triangulated")

    monkeypatch.setattr(module, "triangulate", fails)


def test_bounds_come_from_the_best_source(monkeypatch, no_search):
    """The user, then the pose file, then its points, then a search; each of the two bounds apart."""
    points = np.random.default_rng(0).uniform([-1, -1, 4], [9, 1, 8], (500, 3)).astype(np.float32)
    scene = blank_scene(bounds=(2.0, 20.0), points=points)
    assert find_bounds(scene, near=3.0, far=30.0)[:2] == (3.0, 30.0)
    assert find_bounds(scene)[:2] == (2.0, 20.0) and find_bounds(scene).notices == ()
    assert find_bounds(scene, far=9.0)[:2] == (2.0, 9.0) and find_bounds(scene, near=9.0)[:2] == (9.0, 20.0)
    bounds = find_bounds(replace(scene, bounds=None))
    assert 3 < bounds.near < 4 and 8 < bounds.far < 10.5
    assert bounds.notices[0].endswith("those of the 500 points of the pose file") and bounds.triangulated is None
    assert find_bounds(replace(scene, bounds=None), near=1.0).near == 1.0
    with pytest.raises(AssertionError, match="triangulated"):  # too few points
        find_bounds(replace(scene, bounds=None, points=points[:3]))
    found = Triangulated(points, points)
    monkeypatch.setattr(module, "triangulate", lambda *args, **options: found)
    bounds = find_bounds(replace(scene, bounds=None, points=points[:3]))
    assert 3 < bounds.near < 4 and 8 < bounds.far < 10.5 and bounds.triangulated is found
    assert bounds.notices[0].endswith(", triangulated from the photographs")


@pytest.mark.parametrize("near, far", [(5, 2), (-1, 2), (2, 2), (None, 1), (30, None)])
def test_bounds_that_are_none(near, far):
    with pytest.raises(AirjaxError, match="room: expected near below far, both above 0, got"):
        find_bounds(blank_scene(bounds=(2.0, 20.0), source="room"), near=near, far=far)


def test_points_count_where_they_are_seen():
    """Oracle: by hand. Points behind the cameras, beyond the edges and without a number are passed over."""
    points = [[0, 0, 5], [1, 0, 4], [0, 0, -5], [100, 0, 5], [float("nan"), 0, 5], [0, float("inf"), 5]]
    scene = blank_scene(2, points=np.array(points, np.float32))
    first, second = pixels_in_sight(scene, scene.points)
    assert first.depths.tolist() == second.depths.tolist() == [5, 4] and first.numbers.tolist() == [0, 1]
    np.testing.assert_allclose(first.pixels, [[12, 8], [17, 8]])
    np.testing.assert_allclose(second.pixels, [[8, 8], [12, 8]])
    assert [len(view.depths) for view in pixels_in_sight(scene, np.zeros((0, 3)))] == [0, 0]


def test_every_view_has_bounds_of_its_own():
    """A view that looks at near things has near bounds; one that sees too few points has those of the scene."""
    centers = np.stack([np.arange(9), np.zeros(9)], axis=1)
    depth = np.where(np.arange(9) < 5, 4.0, 8.0)
    rng = np.random.default_rng(0)
    near_by = [
        np.c_[rng.normal(center, 0.05, (40, 2)), np.full(40, z)] for center, z in zip(centers, depth, strict=True)
    ]
    scene = blank_scene(points=np.concatenate(near_by[:-1]).astype(np.float32))
    intrinsics = np.array([[200.0, 0, 12], [0, 200, 8], [0, 0, 1]], np.float32)
    scene = replace(scene, cameras=replace(scene.cameras, intrinsics=np.tile(intrinsics, (9, 1, 1))))
    found = find_bounds(scene)
    for i in range(8):
        assert found.views[i].tolist() == pytest.approx([depth[i] / 1.25, depth[i] * 1.25])
    assert found.views[8].tolist() == [found.near, found.far] == pytest.approx([3.2, 10.0])
    assert find_bounds(scene, near=3.0, far=9.0).views.tolist() == [[3.0, 9.0]] * 9
    assert find_bounds(scene, far=9.0).views[7].tolist() == pytest.approx([6.4, 9.0])


def test_bounds_of_a_colmap_model(views, tmp_path, no_search):
    """F11: of a folder with a model, whose points lie on the surfaces of the room, one in a hundred of them anywhere.

    Oracle: the depths that the room was drawn with; 96 % of them lie within the bounds, which are not wide.
    """
    images = tmp_path / "room" / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names, points = [f"{i}.png" for i in range(NUM_VIEWS)], []
    for i, name in enumerate(names):
        Image.fromarray(np.rint(255 * np.clip(views.images[i], 0, 1)).astype(np.uint8)).save(images / name)
        pixels = rng.uniform([0, 0], VIEW_SIZE[::-1], (100, 2)).astype(np.float32)
        x, y = np.floor(pixels).astype(int).T
        points.append(unproject(jax.tree.map(jnp.asarray, views.cameras[i]), pixels, views.depths[i][y, x]))
    points = np.concatenate([*points, 1e4 * rng.normal(size=(6, 3))])
    poses = list(zip(views.cameras.rotation, views.cameras.translation, strict=True))
    lens = {"intrinsics": views.cameras.intrinsics[0], "size": VIEW_SIZE}
    write_colmap(tmp_path / "room", binary=True, names=names, poses=poses, points=points.tolist(), **lens)
    scene = load(tmp_path / "room")
    np.testing.assert_allclose(scene.cameras.rotation, views.cameras.rotation, atol=1e-5)
    bounds = find_bounds(scene)
    depths = views.depths[np.isfinite(views.depths)]
    assert np.mean((depths > bounds.near) & (depths < bounds.far)) > 0.96
    assert bounds.near > np.quantile(depths, 0.005) / 1.5 and bounds.far < np.quantile(depths, 0.995) * 1.5
    assert "depths from" in bounds.notices[0] and find_bounds(scene, near=1.5).near == 1.5
