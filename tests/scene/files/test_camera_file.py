"""Cameras in files: the first view in a .ply file, and files of cameras."""

import json
from functools import partial

import jax
import numpy as np
import pose_files
import pytest
from PIL import Image
from pose_files import POSES, SIZE, WRITERS, K, camera_path, inria_cameras, write_colmap, write_images, write_transforms
from scenes3d import random_set

from airjax.errors import AirjaxError
from airjax.scene.cameras import Camera
from airjax.scene.files.camera_file import (
    Snapshot,
    down_of,
    from_comments,
    origin_comment,
    origin_in,
    read_cameras,
    to_comment,
)
from airjax.scene.files.photographs import load
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


def test_an_origin_survives_its_comment(tmp_path):
    origin = np.array([448000.1, 5411000 + 1 / 3, -1e-17])
    write_ply(tmp_path / "a.ply", random_set(0, 2), comments=[to_comment(VIEW), origin_comment(origin)])
    np.testing.assert_array_equal(origin_in(read_ply(tmp_path / "a.ply").comments), origin)
    for text in ("", "[1, 2]", "[1, 2, NaN]", "[1, 2, 1e31]", "1", '"x"', "[[1], 2, 3]", "[1, 2, 3"):
        np.testing.assert_array_equal(origin_in(["x", f"airjax origin {text}"]), np.zeros(3))


@pytest.mark.parametrize("write", [write_transforms, lambda x: write_colmap(x, binary=True, poses=far_poses())])
def test_cameras_are_moved_to_an_origin(tmp_path, monkeypatch, write):
    """Oracle: the loader of the capture. Cameras of a viewer of the Gaussians, near 0, stay where they are."""
    (tmp_path / "path.json").write_text(json.dumps(camera_path()))
    monkeypatch.setattr(pose_files, "POSES", far_poses())
    write_images(tmp_path / "images")
    write(tmp_path)
    scene = load(tmp_path)
    cameras, _, notices = read_cameras(tmp_path, origin=scene.origin)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), cameras, scene.cameras)
    assert notices[-1].startswith("cameras moved to the origin of the Gaussians, (448")
    assert cameras.translation.dtype == np.float32
    near = read_cameras(tmp_path / "path.json", origin=scene.origin)
    check_poses(near.cameras)
    assert not near.notices


def far_poses():
    return [(r, t - r @ np.array([448000.25, 5411000.5, 150.0])) for r, t in POSES]


def frame(**changes):
    parts = {"K": CAMERA.intrinsics, "R": CAMERA.rotation, "t": CAMERA.translation}
    return {key: part.tolist() for key, part in parts.items()} | {"w": 40, "h": 24} | changes


def test_a_file_of_cameras(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"frames": [frame(), frame(t=[1, 2, 3])]}))
    cameras, size, notices = read_cameras(tmp_path / "c.json")
    assert size == (24, 40) and not notices
    np.testing.assert_array_equal(cameras.translation, [[1, 1, 1], [1, 2, 3]])
    np.testing.assert_array_equal(cameras.intrinsics[1], CAMERA.intrinsics)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"frames": []}, "found no frames"),
        ({"frames": [frame(w=float("inf"))]}, "expected a file of cameras"),
        ({"frames": [frame(R=[[1e30] * 3] * 3)]}, "expected a file of cameras"),
        ({"frames": [frame(K=[[0] * 3] * 3)]}, "expected a file of cameras"),
        ([], "found no frames"),
        ([1], "expected a file of cameras"),
        ({}, "expected a file of cameras"),
        (3, "expected a file of cameras"),
        ({"frames": [{"transform_matrix": np.eye(4).tolist(), "fl_x": 30}]}, "expected 'w' beside fl_x"),
        ({"frames": [{"transform_matrix": 1, "camera_angle_x": 1}]}, "expected a matrix of shape"),
        ({"frames": [{"transform_matrix": np.eye(4).tolist()}]}, "expected fl_x or camera_angle_x"),
        ({"camera_path": []}, "expected a file of cameras"),
        ({"camera_type": "fisheye", "camera_path": []}, "expected a path of perspective cameras, got 'fisheye'"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(AirjaxError, match=rf"c\.json: .*{message}"):
        read_cameras(tmp_path / "c.json")


def test_cameras_of_several_sizes_get_the_largest(tmp_path):
    """The smaller one sees as much more on each side."""
    (tmp_path / "c.json").write_text(json.dumps({"frames": [frame(), frame(w=20, h=30)]}))
    cameras, size, notices = read_cameras(tmp_path / "c.json")
    assert size == (30, 40) and notices == ("cameras of 2 image sizes are all drawn at 40x30",)
    np.testing.assert_array_equal(cameras.intrinsics[:, :2, 2], [[20, 15], [30, 12]])


def check_poses(cameras):
    np.testing.assert_allclose(cameras.rotation, [r for r, _ in POSES], atol=1e-6)
    np.testing.assert_allclose(cameras.translation, [t for _, t in POSES], atol=1e-5)


def test_cameras_of_3d_gaussian_splatting(tmp_path):
    """As a file, and as the folder that it lies in."""
    (tmp_path / "cameras.json").write_text(json.dumps(inria_cameras()))
    for path in (tmp_path, tmp_path / "cameras.json"):
        cameras, size, notices = read_cameras(path)
        check_poses(cameras)
        assert size == SIZE and not notices
        np.testing.assert_allclose(cameras.intrinsics[2], [[30, 0, 16], [0, 31, 12], [0, 0, 1]])


def test_a_camera_path_of_nerfstudio(tmp_path):
    file = tmp_path / "p.json"
    file.write_text(json.dumps(camera_path()))
    cameras, size, notices = read_cameras(file)
    check_poses(cameras)
    focal = 12 / np.tan(np.pi / 6)
    np.testing.assert_allclose(cameras.intrinsics[0], [[focal, 0, 16], [0, focal, 12], [0, 0, 1]], rtol=1e-6)
    assert size == SIZE and not notices
    file.write_text(json.dumps(camera_path(crop={"crop_scale": [1, 1, 1]})))
    assert read_cameras(file).notices == ("the crop of the camera path is not applied",)
    file.write_text(json.dumps({**camera_path(), "render_height": 0}))
    with pytest.raises(AirjaxError, match="expected a file of cameras"):
        read_cameras(file)


def test_transforms_of_nerfstudio_need_no_photographs(tmp_path):
    """A file and its folder; the sizes of photographs that are there go before those of the file."""
    write_transforms(tmp_path, k1=0.1)
    cameras, size, notices = read_cameras(tmp_path / "transforms.json")
    check_poses(cameras)
    assert size == SIZE and notices == ("drawn without the lens distortion of the poses",)
    np.testing.assert_allclose(cameras.intrinsics, [K] * 3)
    write_images(tmp_path / "images", size=(12, 16))
    for path in (tmp_path / "transforms.json", tmp_path):
        cameras, size, _ = read_cameras(path)
        check_poses(cameras)
        assert size == (12, 16)
        np.testing.assert_allclose(cameras.intrinsics, [np.diag([0.5, 0.5, 1]) @ K] * 3)
    write_images(tmp_path / "images", size=(32, 24))  # turned: not the photographs of the poses
    assert read_cameras(tmp_path).image_size == SIZE


def test_fields_of_view_need_the_size_of_a_photograph(tmp_path):
    write_transforms(tmp_path, camera_angle_x=1.0)
    content = json.loads((tmp_path / "transforms.json").read_text())
    (tmp_path / "transforms.json").write_text(json.dumps({key: content[key] for key in ("frames", "camera_angle_x")}))
    with pytest.raises(AirjaxError, match=r"000\.png: expected the size of this image in .*transforms\.json"):
        read_cameras(tmp_path / "transforms.json")
    write_images(tmp_path / "images")
    cameras, size, _ = read_cameras(tmp_path / "transforms.json")
    assert size == SIZE
    np.testing.assert_allclose(cameras.intrinsics[1, 0], [16 / np.tan(0.5), 0, 16], rtol=1e-6)


@pytest.mark.parametrize("name", WRITERS)
def test_folders_are_read_without_their_photographs(tmp_path, monkeypatch, name):
    """All formats, as the loader of scenes reads them."""
    write_images(tmp_path / "images")
    WRITERS[name](tmp_path)
    expected = load(tmp_path)
    monkeypatch.setattr(Image.Image, "load", None)
    cameras, size, _ = read_cameras(tmp_path)
    assert size == expected.images.shape[1:3]
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), cameras, expected.cameras)


@pytest.mark.parametrize("binary", [True, False])
def test_a_colmap_model_needs_no_photographs(tmp_path, binary):
    write_colmap(tmp_path, binary=binary)
    cameras, size, notices = read_cameras(tmp_path / "sparse" / "0")
    check_poses(cameras)
    assert size == SIZE and not notices
    np.testing.assert_allclose(cameras.intrinsics, [K] * 3)
    write_colmap(tmp_path, binary=binary, names=(), poses=())
    with pytest.raises(AirjaxError, match="0: expected one camera or more, found none"):
        read_cameras(tmp_path / "sparse" / "0")


def test_the_words_of_a_header_say_where_down_is():
    np.testing.assert_array_equal(down_of(["Generated by Nerfstudio 1.1.5", "Vertical Axis: z"]), [0, 0, -1])
    for comments in ([], ["Vertical axis: y"], ["z"]):
        np.testing.assert_array_equal(down_of(comments), [0, 1, 0])
