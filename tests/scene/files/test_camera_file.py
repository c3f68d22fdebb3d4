"""Cameras in files: the first view in a .ply file, and files of cameras."""

import json

import jax
import numpy as np
import pytest
from scenes3d import random_set

from airjax.errors import AirjaxError
from airjax.scene.cameras import Camera
from airjax.scene.files.camera_file import Snapshot, from_comments, read_cameras, to_comment
from airjax.scene.files.ply import read_ply, write_ply

CAMERA = Camera(
    np.array([[30.0, 0, 20], [0, 30, 12], [0, 0, 1]], np.float32), np.eye(3, dtype=np.float32), np.ones(3, np.float32)
)
VIEW = Snapshot(CAMERA, (24, 40), 4.0, (1.0, 0.5, 0.0))


def test_a_view_survives_its_comment(tmp_path):
    write_ply(tmp_path / "a.ply", random_set(0, 2), comments=["by somebody", to_comment(VIEW)])
    comments = read_ply(tmp_path / "a.ply").comments
    found = from_comments(comments)
    assert comments[0] == "by somebody" and from_comments(comments[:1]) is None
    assert (found.image_size, found.focus, found.background) == (VIEW.image_size, VIEW.focus, VIEW.background)
    jax.tree.map(np.testing.assert_array_equal, found.camera, VIEW.camera)


@pytest.mark.parametrize(
    "comment", ["airjax view", "airjax view {}", "airjax view [1]", 'airjax view {"w": 3', "airjax view null"]
)
def test_a_view_that_makes_no_sense_is_none(comment):
    assert from_comments(["x", comment]) is None


@pytest.mark.parametrize(
    "change",
    [{"focus": 0}, {"focus": float("nan")}, {"background": [1, 2]}, {"w": float("inf")}, {"K": [[10**400] * 3] * 3}],
)
def test_a_view_with_a_wrong_number_is_none(change):
    content = json.loads(to_comment(VIEW).removeprefix("airjax view ")) | change
    assert from_comments([f"airjax view {json.dumps(content)}"]) is None


def frame(**changes):
    parts = {"K": CAMERA.intrinsics, "R": CAMERA.rotation, "t": CAMERA.translation}
    return {key: part.tolist() for key, part in parts.items()} | {"w": 40, "h": 24} | changes


def test_a_file_of_cameras(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"frames": [frame(), frame(t=[1, 2, 3])]}))
    cameras, size = read_cameras(tmp_path / "c.json")
    assert size == (24, 40)
    np.testing.assert_array_equal(cameras.translation, [[1, 1, 1], [1, 2, 3]])
    np.testing.assert_array_equal(cameras.intrinsics[1], CAMERA.intrinsics)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"frames": []}, "found no frames"),
        ({"frames": [frame(), frame(w=20)]}, "expected frames of one size, got 2 sizes"),
        ({"frames": [frame(w=float("inf"))]}, "expected a file of cameras"),
        ({"frames": [frame(R=[[1e30] * 3] * 3)]}, "expected a file of cameras"),
        ({"frames": [frame(K=[[0] * 3] * 3)]}, "expected a file of cameras"),
        ([], "expected a file of cameras"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(AirjaxError, match=rf"c\.json: .*{message}"):
        read_cameras(tmp_path / "c.json")
