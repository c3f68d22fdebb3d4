"""transforms.json: splits, lenses, entries that are not used, one line for what is wrong."""

import json

import numpy as np
import pytest
from pose_files import NAMES, rewrite, write_images, write_transforms

from airjax.errors import AirjaxError
from airjax.scene.files.lenses import Lens
from airjax.scene.files.photographs import load
from airjax.scene.files.pose_formats import read_poses


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images")
    return tmp_path


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
    for key in ("latlong", "equirectangular", "ftheta_p0"):
        write_transforms(folder, **{key: True, "k1": 0.1})
        with pytest.raises(AirjaxError, match=f"expected a perspective or fisheye camera, got '{key}'"):
            load(folder)
        write_transforms(folder, **{key: False})
        assert not load(folder).notices
    write_transforms(folder, k4=0.1)
    with pytest.raises(AirjaxError, match="expected k4, k5 and k6 of 0 for this camera, got"):
        load(folder)
    write_transforms(folder, k4=0.1, camera_model="FULL_OPENCV")
    assert read_poses(folder).views[0].lens == Lens("brown", (0, 0, 0, 0, 0, 0.1, 0, 0))


def test_entries_that_are_not_used(folder):
    """Those of the file and of its frames that may matter and say something, in one line."""
    write_transforms(folder, rolling_shutter=[0, 0, 0.1, 0], white_transparent=False, linear_colors=True, aabb_scale=4)
    line = "entries that are not used, though they may change what is meant: "
    assert load(folder).notices == (f"{line}linear_colors, rolling_shutter",)
    write_transforms(folder, p3=0.0, k7=0.1, depth_file_path="a.png", applied_scale=2.0)
    rewrite(folder / "transforms.json", lambda content: content["frames"][1].update(time=0.5, sharpness=3.0))
    assert load(folder).notices == (f"{line}k7, time",)
    write_transforms(folder, camera_model="OPENCV_FISHEYE", fl_x=30.0, p1=0.1, k6=0.1)
    assert f"{line}k6, p1" in load(folder).notices
    write_transforms(folder, **{"bad\nname": 1, **{f"x{i:02}": 1 for i in range(20)}})
    (notice,) = load(folder).notices
    assert notice.startswith(f"{line}bad\\nname, x00, x01") and notice.endswith("and 11 more")


def test_fields_of_view_with_a_size(folder):
    """The principal point and the vertical field of view count, as beside focal lengths."""
    write_transforms(folder, camera_angle_x=1.0, camera_angle_y=0.6)

    def without(*keys):
        rewrite(folder / "transforms.json", lambda content: [content.pop(key) for key in keys])

    without("fl_x", "fl_y")
    scene, (fx, fy) = load(folder), (16 / np.tan(0.5), 12 / np.tan(0.3))
    np.testing.assert_allclose(scene.cameras.intrinsics[0], [[fx, 0, 15], [0, fy, 13], [0, 0, 1]], rtol=1e-6)
    without("w", "h")
    scene = load(folder)
    np.testing.assert_allclose(scene.cameras.intrinsics[0], [[fx, 0, 16], [0, fx, 12], [0, 0, 1]], rtol=1e-6)
    assert scene.notices[0].endswith("what is meant: camera_angle_y, cx, cy")


def test_a_pose_as_windows_prints_it(folder):
    write_transforms(folder)
    file = folder / "transforms.json"
    rewrite(file, lambda content: content["frames"][1]["transform_matrix"][0].__setitem__(3, "here"))
    file.write_text(file.read_text().replace('"here"', "-nan(ind)"))
    assert load(folder).names == (NAMES[0], NAMES[2])


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
