"""Folders of photographs: what is found in them, and what is written beside them; read back to the same cameras."""

import json
import struct
from pathlib import Path

import numpy as np
import pose_files
import pytest
from pose_files import POSES, SIZE, K, write_colmap, write_images

from airjax.errors import AirjaxError
from airjax.scene.files.photographs import load
from airjax.scene.files.pose_folder import find_photographs, replaced_by, write_pose_folder

SMALL = (4, 6)


def put(folder, *names):
    """Small photographs, and empty files of other suffixes."""
    for name in names:
        if Path(name).suffix.lower() in (".png", ".jpg"):
            write_images((folder / name).parent, [Path(name).name], SMALL)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()


def test_photographs_are_found_below_and_sorted_as_people_count(tmp_path):
    put(tmp_path, "b/10.png", "b/9.PNG", "a.jpg", "c/d/e.png", "notes.txt", ".hidden/x.png", ".y.png")
    assert find_photographs(tmp_path) == (tmp_path, ("a.jpg", "b/9.PNG", "b/10.png", "c/d/e.png"), ())


def test_images_go_before_what_lies_beside_them(tmp_path):
    put(tmp_path, "images/0.png", "images/left/1.png", "images_4/0.png", "masks/0.png", "sheet.png")
    root, names, notices = find_photographs(tmp_path)
    assert root == tmp_path / "images" and names == ("0.png", "left/1.png")
    assert notices == ("3 pictures outside images/ or in masks/ are not used",)


def test_what_cannot_be_read_is_counted(tmp_path):
    put(tmp_path, "0.png", "1.HEIC", "2.heic", "3.dng", "masks/0.png", "bad\udcff\n.png")
    _, names, notices = find_photographs(tmp_path)
    assert names == ("0.png",)
    expected = ("1 pictures in masks/ are not used", "1 photographs left out, whose names are no text")
    assert notices == (*expected, "1 .dng, 2 .heic files are not used, as they cannot be read")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "expected photographs (.png, .jpg, .jpeg, .webp, .tif, .tiff), found none"),
        (("x.heic",), "found only 1 .heic files"),
        (("masks/x.png",), "found none"),
    ],
)
def test_a_folder_without_photographs_is_one_line(tmp_path, names, words):
    put(tmp_path, *names)
    with pytest.raises(AirjaxError) as caught:
        find_photographs(tmp_path)
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


def test_no_folder_is_one_line(tmp_path):
    (tmp_path / "x.txt").touch()
    for name, found in (("x.txt", "a file that is neither"), ("y", "none")):
        with pytest.raises(AirjaxError, match=f"{name}: expected a folder of photographs, or a video, found {found}"):
            find_photographs(tmp_path / name)


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path):
    """A working folder with a model and points."""
    write_colmap(tmp_path / "work", binary=True)
    write_points(tmp_path / "work" / "points.ply", [(1, 2, 3)])
    return tmp_path / "work"


def write_points(path, points):
    """As COLMAP exports them: float x y z, uchar red green blue."""
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    head += "".join(f"property float {name}\n" for name in "xyz")
    head += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    rows = b"".join(struct.pack("<3f3B", *point, 9, 9, 9) for point in points)
    path.write_bytes(head.encode() + b"end_header\n" + rows)


def write(scene, work, root):
    write_pose_folder(scene, work / "sparse" / "0", work / "points.ply", root=root, work=work)


def both_ways(scene):
    """The scene by transforms.json, and by the COLMAP model."""
    by_transforms = load(scene)
    (scene / "transforms.json").rename(scene / "kept.json")
    by_model = load(scene)
    (scene / "kept.json").rename(scene / "transforms.json")
    return by_transforms, by_model


@pytest.mark.parametrize("where", ["images", "", "elsewhere"])
def test_both_files_are_of_the_same_cameras(tmp_path, work, where):
    """For photographs in images/, in the folder itself, and in another one, from which they are copied."""
    scene = tmp_path / "scene"
    root = tmp_path / "photos" if where == "elsewhere" else scene / where
    write_images(root)
    write(scene, work, root)
    one, other = both_ways(scene)
    assert one.names == other.names and len(one.names) == 3
    for name in ("intrinsics", "rotation", "translation"):
        np.testing.assert_allclose(getattr(one.cameras, name), getattr(other.cameras, name), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.cameras.translation, [t for _, t in POSES], atol=1e-5)
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.points, [(1, 2, 3)])
    np.testing.assert_array_equal(other.points, [(1, 2, 3)])
    copies = sorted((scene / "images").glob("*")) if where == "elsewhere" else []
    assert [copy.read_bytes() for copy in copies] == [(root / copy.name).read_bytes() for copy in copies]
    assert len(copies) == (3 if where == "elsewhere" else 0)


def test_lenses_and_sizes_of_their_own(tmp_path):
    """Cameras that differ, of several models, in subfolders: the same cameras and the same undistorted pixels."""
    scene, work, names = tmp_path / "scene", tmp_path / "work", ["a/x.png", "b/x.png", "c d.png"]
    sizes = [SIZE, (SIZE[0] * 2, SIZE[1] * 2), SIZE]
    lenses = ["SIMPLE_RADIAL 32 24 30 16 12 0.1", "OPENCV 64 48 60 61 31 25 0.1 -0.05 0.01 0.002"]
    lenses.append("FULL_OPENCV 32 24 30 31 15 13 0.1 0.01 0.001 0.002 0.003 0.05 0.01 0.001")
    for name, size in zip(names, sizes, strict=True):
        write_images((scene / "images" / name).parent, [Path(name).name], size)
    (work / "sparse" / "0").mkdir(parents=True)
    (work / "points.ply").touch()
    rows = [
        " ".join(map(str, (i, *pose_files.quat(r), *t, i, name))) + "\n\n"
        for i, ((r, t), name) in enumerate(zip(POSES, names, strict=True))
    ]
    model = work / "sparse" / "0"
    (model / "cameras.txt").write_text("".join(f"{i} {lens}\n" for i, lens in enumerate(lenses)))
    (model / "images.txt").write_text("".join(rows))
    (model / "points3D.txt").write_text("")
    write(scene, work, scene / "images")
    one, other = both_ways(scene)
    np.testing.assert_allclose(one.cameras.intrinsics, other.cameras.intrinsics, rtol=1e-6)
    np.testing.assert_array_equal(one.masks, other.masks)
    np.testing.assert_allclose(one.images, other.images, atol=1e-6)
    frames = json.loads((scene / "transforms.json").read_text())["frames"]
    assert [frame["file_path"] for frame in frames] == [f"images/{name}" for name in ("c d.png", "a/x.png", "b/x.png")]


def test_one_camera_is_said_once(tmp_path, work):
    write_images(tmp_path / "scene")
    write(tmp_path / "scene", work, tmp_path / "scene")
    content = json.loads((tmp_path / "scene" / "transforms.json").read_text())
    assert (content["fl_x"], content["fl_y"], content["cx"], content["w"]) == (K[0, 0], K[1, 1], K[0, 2], SIZE[1])
    assert content["ply_file_path"] == "sparse_pc.ply" and (tmp_path / "scene" / "sparse_pc.ply").is_file()
    assert all(set(frame) == {"file_path", "transform_matrix"} for frame in content["frames"])


def test_what_would_be_replaced_is_told_and_replaced(tmp_path, work):
    scene, photos = tmp_path / "scene", tmp_path / "photos"
    write_images(photos)
    assert replaced_by(scene, photos, pose_files.NAMES) == []
    write_images(scene / "images", pose_files.NAMES[1:2], SMALL)
    (scene / "sparse" / "0").mkdir(parents=True)
    (scene / "sparse" / "0" / "old.txt").touch()
    there = replaced_by(scene, photos, pose_files.NAMES)
    assert there == [scene / "sparse" / "0", scene / "images" / pose_files.NAMES[1]]
    assert replaced_by(scene, scene / "images", pose_files.NAMES) == there[:1]
    assert replaced_by(scene, None, ()) == [scene / "sparse" / "0", scene / "images"]
    write(scene, work, photos)
    assert load(scene).images.shape[1:3] == SIZE and not (scene / "sparse" / "0" / "old.txt").exists()


def test_a_scene_that_cannot_be_written_is_one_line(tmp_path, work):
    write_images(tmp_path / "photos")
    (tmp_path / "scene").touch()
    with pytest.raises(AirjaxError, match="scene: poses cannot be written"):
        write(tmp_path / "scene", work, tmp_path / "photos")


# --- points of transforms.json ---------------------------------------------------------------------------------------


def test_points_that_are_not_finite_are_no_points(tmp_path):
    write_images(tmp_path / "images")
    pose_files.write_transforms(tmp_path, ply_file_path="p.ply")
    write_points(tmp_path / "p.ply", [(1, 2, 3), (np.nan, 0, 0), (np.inf, 0, 0), (4, 5, 6)])
    np.testing.assert_array_equal(load(tmp_path).points, [(1, 2, 3), (4, 5, 6)])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"x", "expected a .ply file"),
        (b"ply\nend_header\n", "expected vertices"),
        ("cut", "cut short"),
    ],
)
def test_points_that_cannot_be_read_are_a_notice(tmp_path, content, words):
    write_images(tmp_path / "images")
    pose_files.write_transforms(tmp_path, ply_file_path="p.ply")
    if content == "cut":
        write_points(tmp_path / "p.ply", [(1, 2, 3)] * 9)
        content = (tmp_path / "p.ply").read_bytes()[:-1]
    if content is not None:
        (tmp_path / "p.ply").write_bytes(content)
    scene = load(tmp_path)
    assert scene.points.shape == (0, 3)
    assert any("its points are not used" in line and words in line for line in scene.notices)
