"""Pose files: every format says the same, splits are told apart, one line for what is wrong."""

import json

import numpy as np
import pose_files
import pytest
from PIL import Image
from pose_files import (
    NAMES,
    POSES,
    SIZE,
    WRITERS,
    K,
    rewrite,
    write_frames,
    write_images,
    write_llff,
    write_plain,
    write_transforms,
)

from airjax.errors import AirjaxError
from airjax.scene.files.photographs import load
from airjax.scene.files.pose_formats import read_poses


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images")
    return tmp_path


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_says_the_same(folder, name):
    WRITERS[name](folder)
    scene = load(folder)
    assert scene.names == tuple(NAMES) and scene.images.shape == (3, *SIZE, 3)
    for i, (r, t) in enumerate(POSES):
        np.testing.assert_allclose(scene.cameras.rotation[i], r, atol=1e-5)
        np.testing.assert_allclose(scene.cameras.translation[i], t, atol=1e-5)
        expected = np.array([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]]) if name == "llff" else K
        np.testing.assert_allclose(scene.cameras.intrinsics[i], expected, rtol=1e-5)
    assert scene.bounds == ((1.0, 9.0) if name == "llff" else None)
    assert len(scene.points) == (1 if "colmap" in name else 0)


def test_poses_are_double_precision(folder):
    for name, writer in WRITERS.items():
        target = folder / name
        write_images(target / "images")
        writer(target)
        for view, (r, t) in zip(read_poses(target).views, POSES, strict=True):
            np.testing.assert_allclose(view.rotation, r, atol=1e-14)
            np.testing.assert_allclose(view.translation, t, atol=1e-14)


def test_seven_scenes_have_a_color_camera(folder):
    """Its marker are the intrinsics of the depth camera; those of any other camera are taken as they are."""
    depth_camera = np.array([[585.0, 0, 320], [0, 585, 240], [0, 0, 1]])
    write_frames(folder, depth_camera)
    scene = load(folder)
    expected = np.diag([32 / 640, 24 / 480, 1]) @ [[525, 0, 320], [0, 525, 240], [0, 0, 1]]
    np.testing.assert_allclose(scene.cameras.intrinsics[0], expected, rtol=1e-6)
    assert "focal length 525 of the colour camera" in scene.notices[0]
    np.savetxt(folder / "camera-intrinsics.txt", np.diag([1.1, 1, 1]) @ depth_camera)
    scene = load(folder)
    np.testing.assert_allclose(scene.cameras.intrinsics[0], np.diag([1.1, 1, 1]) @ depth_camera, rtol=1e-6)
    assert not scene.notices


# --- what other programs write ---------------------------------------------------------------------------------


def test_masks(folder):
    """Those that the pose file names; those of the photographs' names in masks/; black is not looked at."""
    write_transforms(folder)
    mask = np.full(SIZE, 255, np.uint8)
    mask[:, :7] = 0
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / "1.png")
    rewrite(folder / "transforms.json", lambda content: content["frames"][1].update(mask_path="masks/1.png"))
    scene = load(folder)
    assert scene.notices == ("masks of 1 photographs used: what is black there is not looked at",)
    np.testing.assert_array_equal(scene.masks[1], mask > 0)
    assert scene.masks[[0, 2]].all() and scene.images.shape == (3, *SIZE, 3)
    (folder / "transforms.json").unlink()
    write_plain(folder)
    assert load(folder).masks is None
    assert load(folder).notices == ("the pictures in masks/ have no photograph's name, none of them is used as a mask",)
    Image.fromarray(np.repeat(np.repeat(mask, 2, 0), 2, 1)).save(folder / "masks" / f"{NAMES[2]}.png")  # larger: shrunk
    np.testing.assert_array_equal(load(folder).masks[2], mask > 0)


def test_masks_that_cannot_be_used(folder):
    """Absent: said. Of another shape: refused. A photograph that is hidden whole: left out."""
    write_transforms(folder)
    rewrite(folder / "transforms.json", lambda content: content["frames"][1].update(mask_path="masks/1.png"))
    assert load(folder).notices == ("1 masks that the pose file names are not there",)
    (folder / "masks").mkdir()
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(folder / "masks" / "1.png")
    with pytest.raises(AirjaxError, match=r"1.png: expected a mask of 32x24 pixels, got 24x24"):
        load(folder)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(folder / "masks" / "1.png")
    scene = load(folder)
    assert scene.names == (NAMES[0], NAMES[2]) and scene.masks is None
    assert f"1 photographs left out, which masks or the lens hide: {NAMES[1]}" in scene.notices
    # One of the same name in another folder stays.
    (folder / "images" / "more").mkdir()
    (folder / "images" / NAMES[2]).rename(folder / "images" / "more" / NAMES[1])
    rewrite(
        folder / "transforms.json", lambda content: content["frames"][2].update(file_path=f"images/more/{NAMES[1]}")
    )
    assert load(folder).names == (NAMES[0], NAMES[1])


def test_windows_files(folder):
    """Backslashes, suffixes of the other case and a byte order mark, in both formats with names."""
    for write, name in ((write_transforms, "transforms.json"), (write_plain, "cameras.json")):
        write(folder)
        text = (folder / name).read_text().replace("images/", ".\\\\images\\\\").replace(".png", ".PNG")
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text.replace(", ", ",\r\n").encode())
        scene = load(folder)
        assert scene.names == tuple(NAMES) and not scene.notices
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["nerfstudio", "plain", "llff"])
def test_only_smaller_photographs(folder, name):
    """images_2/ serves where images/ is not there; intrinsics are scaled to it."""
    WRITERS[name](folder)
    if name == "plain":
        rewrite(folder / "cameras.json", lambda content: [frame.update(w=32, h=24) for frame in content["frames"]])
    whole = load(folder)
    for file in (folder / "images").iterdir():
        file.unlink()
    (folder / "images").rmdir()
    write_images(folder / "images_2", size=(12, 16))
    scene = load(folder)
    assert scene.names == tuple(NAMES) and "photographs of images_2/ used" in scene.notices[0]
    np.testing.assert_allclose(scene.cameras.intrinsics, np.diag([0.5, 0.5, 1]) @ whole.cameras.intrinsics, rtol=1e-6)


# --- what a user gets wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(R=[[1, 0, 0]]), r"expected a matrix of shape \(3, 3\), got \(1, 3\)"),
        (lambda f: f.update(R=(2 * np.eye(3)).tolist()), "000.png: expected a rotation in its pose"),
        (lambda f: f.update(t=[float("nan"), 0, 0]), "000.png: expected a pose of finite numbers, got NaN"),
        (lambda f: f.update(t="here"), "cameras.json: expected an entry 't'"),
        (lambda f: f.update(K=[[0, 0, 1], [0, 5, 1], [0, 0, 1]]), "000.png: expected a focal length > 0"),
        (lambda f: f.pop("file_path"), "cameras.json: expected an entry 'file_path'"),
    ],
)
def test_poses_that_are_wrong(folder, change, message):
    write_plain(folder)
    content = json.loads((folder / "cameras.json").read_text())
    for frame in content["frames"]:
        change(frame)
    (folder / "cameras.json").write_text(json.dumps(content))
    with pytest.raises(AirjaxError, match=message):
        load(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 2.0])
@pytest.mark.parametrize("name", [name for name in WRITERS if "colmap" not in name])  # of COLMAP: test_colmap.py
def test_a_pose_that_is_none(folder, monkeypatch, name, number):
    """A view whose pose is no number or no rotation is left out, by its name; the others stay."""
    rotation, translation = POSES[1]
    with np.errstate(invalid="ignore"):
        monkeypatch.setattr(pose_files, "POSES", [POSES[0], (number * rotation, translation), POSES[2]])
        WRITERS[name](folder)
    scene = load(folder)
    assert scene.names == (NAMES[0], NAMES[2])
    line = "1 of 3 views left out (001.png), as their poses are no finite numbers or no rotations"
    assert scene.notices == (line,)
    assert scene.bounds == ((1.0, 9.0) if name == "llff" else None)


def test_pose_files_that_are_wrong(folder):
    (folder / "transforms.json").write_text("{")
    with pytest.raises(AirjaxError, match=r"transforms.json: expected a pose file in JSON"):
        load(folder)
    write_transforms(folder, camera_model="FISHEYE624")
    with pytest.raises(AirjaxError, match="expected a perspective or fisheye camera, got 'FISHEYE624'"):
        load(folder)
    write_transforms(folder, w=320)
    with pytest.raises(AirjaxError, match="expected the proportions of 320x24 pixels"):
        load(folder)
    (folder / "transforms.json").unlink()
    (folder / "poses_bounds.npy").write_bytes(b"no array")
    with pytest.raises(AirjaxError, match=r"poses_bounds.npy: expected an array of poses"):
        load(folder)
    np.save(folder / "poses_bounds.npy", np.zeros((2, 17)))
    with pytest.raises(AirjaxError, match="expected 2 images in images/, found 3"):
        load(folder)


def test_bounds_that_are_wrong(folder):
    write_plain(folder, near=2.0, far=1.0)
    with pytest.raises(AirjaxError, match=r"cameras.json: expected 0 < near < far, got 2.0 and 1.0"):
        load(folder)
    (folder / "cameras.json").unlink()
    write_llff(folder)
    rows = np.load(folder / "poses_bounds.npy")
    rows[1, 15] = -3
    np.save(folder / "poses_bounds.npy", rows)
    with pytest.raises(AirjaxError, match=r"poses_bounds.npy: expected 0 < near < far, got -3.0 and 9.0"):
        load(folder)


def test_arrays_of_poses_that_lie(folder):
    """A header that claims 10^12 rows allocates nothing; an archive and an array of words are refused too."""
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 17), }\n"
    (folder / "poses_bounds.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    with pytest.raises(AirjaxError, match="expected an array of poses"):
        load(folder)
    with open(folder / "poses_bounds.npy", "wb") as file:
        np.savez(file, np.zeros((3, 17)))
    with pytest.raises(AirjaxError, match="expected an array of poses"):
        load(folder)
    np.save(folder / "poses_bounds.npy", np.full((3, 17), "one"))
    with pytest.raises(AirjaxError, match=r"expected an array .views, 17. of numbers"):
        load(folder)


def test_files_of_numbers_that_are_wrong(folder):
    write_frames(folder)
    (folder / "poses" / "001.pose.txt").write_text("1 2 3")
    with pytest.raises(AirjaxError, match=r"001.pose.txt: expected 16 numbers, found 3"):
        load(folder)
    (folder / "camera-intrinsics.txt").write_text("five hundred")
    with pytest.raises(AirjaxError, match=r"camera-intrinsics.txt: expected 9 numbers, found something else"):
        load(folder)
