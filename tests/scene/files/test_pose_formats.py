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


def test_field_of_view_and_splits(folder):
    write_transforms(folder)
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    for split, frames in (("train", content["frames"][:2]), ("test", content["frames"][2:])):
        for frame in frames:
            frame["file_path"] = frame["file_path"].removesuffix(".png")
        text = json.dumps({"camera_angle_x": 1.0, "frames": frames})
        (folder / f"transforms_{split}.json").write_text(text)
    scene = load(folder)
    assert sorted(scene.splits) == ["test", "train", "train"]
    focal = 16 / np.tan(0.5)
    expected = [[focal, 0, 16], [0, focal, 12], [0, 0, 1]]
    np.testing.assert_allclose(scene.cameras.intrinsics[0], expected, rtol=1e-5)
    assert scene.take([1]).names == (scene.names[1],)


def test_validation_views_are_neither_train_nor_test(folder):
    """F9: a Blender scene with its transforms_val.json."""
    write_transforms(folder)
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    for split, frame in zip(("train", "val", "test"), content["frames"], strict=True):
        (folder / f"transforms_{split}.json").write_text(json.dumps({**content, "frames": [frame]}))
    assert [view.split for view in read_poses(folder).views] == ["test", "train", "val"]
    (folder / "transforms_val.json").rename(folder / "transforms_extra.json")
    assert [view.split for view in read_poses(folder).views] == ["", "test", "train"]


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


def rewrite(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_nerfstudio_splits(folder):
    """Its lists of files: test goes before train, what is in no list is left out."""
    write_transforms(folder)
    paths = [f"images/{name}" for name in NAMES]

    def splits(**lists):
        write_transforms(folder, **lists)
        poses = read_poses(folder)
        return [view.split for view in poses.views], poses.notices

    assert splits(train_filenames=paths[:2], test_filenames=paths[2:]) == (["train", "train", "test"], ())
    assert splits(test_filenames=[paths[0].replace("/", "\\")]) == (["test", "", ""], ())
    lists = {"train_filenames": paths, "val_filenames": paths[1:], "test_filenames": paths[2:]}
    assert splits(**lists) == (["train", "val", "test"], ())
    del lists["test_filenames"]
    notice = "validation views (2) kept back as test views, as there are no others"
    assert splits(**lists) == (["train", "test", "test"], (notice,))
    notice = "1 of 3 images left out, as train_filenames and its like do not name them"
    assert splits(train_filenames=paths[:2]) == (["train", "train"], (notice,))
    notice = "1 names in train_filenames and its like are of no frame"
    assert splits(test_filenames=[paths[2], "002.png"]) == (["", "", "test"], (notice,))
    with pytest.raises(AirjaxError, match="expected images that train_filenames and its like name, found none"):
        splits(train_filenames=NAMES)
    with pytest.raises(AirjaxError, match="expected an entry 'test_filenames', found none that is a list"):
        splits(test_filenames="images/000.png")


def test_validation_views_without_test_views(folder):
    """A Blender scene with transforms_train.json and transforms_val.json alone."""
    write_transforms(folder)
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    for split, frames in (("train", content["frames"][:2]), ("val", content["frames"][2:])):
        (folder / f"transforms_{split}.json").write_text(json.dumps({**content, "frames": frames}))
    scene = load(folder)
    assert scene.splits == ("train", "train", "test")
    assert scene.notices == ("validation views (1) kept back as test views, as there are no others",)


def test_lenses_that_are_not_ours(folder):
    for key in ("is_fisheye", "equirectangular"):
        write_transforms(folder, **{key: True, "k1": 0.1})
        with pytest.raises(AirjaxError, match=f"expected a perspective camera, got '{key}'"):
            load(folder)
        write_transforms(folder, **{key: False})
        assert not load(folder).notices
    write_transforms(folder, k4=0.1)
    with pytest.raises(AirjaxError, match="expected k4, k5 and k6 of 0 for this camera, got"):
        load(folder)
    write_transforms(folder, k4=0.1, camera_model="FULL_OPENCV")
    assert read_poses(folder).views[0].distortion == (0, 0, 0, 0, 0, 0.1, 0, 0)


def test_entries_that_are_not_used(folder):
    write_transforms(folder, rolling_shutter=[0, 0, 0.1, 0], white_transparent=False, linear_colors=True)
    line = "not used, though they tell how the photographs are meant: linear_colors, rolling_shutter"
    assert load(folder).notices == (line,)


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
    assert f"1 photographs left out, which their masks hide: {NAMES[1]}" in scene.notices
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


def test_a_pose_as_windows_prints_it(folder):
    write_transforms(folder)
    file = folder / "transforms.json"
    rewrite(file, lambda content: content["frames"][1]["transform_matrix"][0].__setitem__(3, "here"))
    file.write_text(file.read_text().replace('"here"', "-nan(ind)"))
    assert load(folder).names == (NAMES[0], NAMES[2])


def test_pose_files_that_are_wrong(folder):
    (folder / "transforms.json").write_text("{")
    with pytest.raises(AirjaxError, match=r"transforms.json: expected a pose file in JSON"):
        load(folder)
    write_transforms(folder, camera_model="OPENCV_FISHEYE")
    with pytest.raises(AirjaxError, match="expected a perspective camera, got 'OPENCV_FISHEYE'"):
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fl_x": "30"}, "expected a number as 'fl_x', got '30'"),
        ({"fl_x": 10**400}, "expected a number as 'fl_x', got a huge number"),
        ({"cx": True}, "expected a number as 'cx', got True"),
        ({"k1": float("nan")}, "expected a number as 'k1', got nan"),
        ({"w": 0}, "expected an image of 1 pixel or more in its pose"),
        ({"frames": {}}, "expected an entry 'frames', found none that is a list"),
        ({"frames": []}, "expected the images that it lists, found none of 0"),
        ({"frames": [{"file_path": "x\0" * 9000, "transform_matrix": []}]}, "found none of 1"),
    ],
)
def test_transforms_that_are_wrong(folder, changes, message):
    write_transforms(folder, **changes)
    with pytest.raises(AirjaxError, match=message):
        load(folder)


@pytest.mark.parametrize("angle", [0, -1, 3.2, float("inf")])
def test_fields_of_view_that_are_none(folder, angle):
    write_transforms(folder)
    content = json.loads((folder / "transforms.json").read_text())
    del content["fl_x"]
    (folder / "transforms.json").write_text(json.dumps(content | {"camera_angle_x": angle}))
    with pytest.raises(AirjaxError, match=r"expected (a field of view between|a number as 'camera_angle_x')"):
        load(folder)


def test_intrinsics_that_are_missing(folder):
    write_transforms(folder)
    content = json.loads((folder / "transforms.json").read_text())
    for key, message in (("h", "expected 'h' beside fl_x, found none"), ("fl_x", "expected fl_x or camera_angle_x")):
        del content[key]
        (folder / "transforms.json").write_text(json.dumps(content))
        with pytest.raises(AirjaxError, match=message):
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
