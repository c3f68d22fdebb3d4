"""COLMAP's models: names, rotations and points as they are in the files, and files that are damaged."""

import struct

import numpy as np
import pytest
from pose_files import NAMES, POSES, write_colmap, write_images

from airjax.errors import AirjaxError
from airjax.scene.files.colmap import read_colmap
from airjax.scene.files.photographs import load


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images")
    return tmp_path


@pytest.mark.parametrize("binary", [True, False])
def test_rotations_keep_double_precision(tmp_path, binary):
    """F14: in float32 they would be wrong by 1e-7."""
    write_colmap(tmp_path, binary=binary)
    model = read_colmap(tmp_path / "sparse" / "0")
    for image, (r, t) in zip(model.images, POSES, strict=True):
        assert image.rotation.dtype == np.float64
        np.testing.assert_allclose(image.rotation, r, atol=1e-14)
        np.testing.assert_array_equal(image.translation, t)
    np.testing.assert_array_equal(model.points, [[1, 2, 3]])


@pytest.mark.parametrize("binary", [True, False])
def test_names_with_spaces(tmp_path, binary):
    """F14: a name goes on to the end of its line, in a folder of its own too."""
    names = ["my photo 1.png", "left/my  photo 2.png", "3.png"]
    write_images(tmp_path / "images", [names[0], names[2]])
    write_images(tmp_path / "images" / "left", ["my  photo 2.png"])
    write_colmap(tmp_path, binary=binary, names=names)
    assert [image.name for image in read_colmap(tmp_path / "sparse" / "0").images] == names
    assert set(load(tmp_path).names) == {"my photo 1.png", "my  photo 2.png", "3.png"}


def test_images_that_are_not_there_are_left_out(folder):
    (folder / "images" / NAMES[0]).unlink()
    write_colmap(folder, binary=False)
    scene = load(folder)
    assert scene.names == tuple(NAMES[1:])
    assert scene.notices == ("1 of 3 images of the model are not there, and are left out",)
    for name in NAMES[1:]:
        (folder / "images" / name).unlink()
    with pytest.raises(AirjaxError, match="expected the images of the model, found none"):
        load(folder)


def test_points_that_are_no_numbers_are_left_out(folder):
    points = [(1, 2, 3), (float("nan"), 0, 0), (0, float("inf"), 0), (1e300, 0, 0), (4, 5, 6)]
    write_colmap(folder, binary=True, points=points)
    np.testing.assert_array_equal(load(folder).points, [[1, 2, 3], [4, 5, 6]])


def test_a_model_without_its_images(folder):
    write_colmap(folder, binary=False)
    (folder / "sparse" / "0" / "images.txt").unlink()
    with pytest.raises(AirjaxError, match=r"images.txt: expected a file of the COLMAP model, found none"):
        load(folder)


def test_colmap_files_cut_short_or_of_another_lens(folder):
    write_colmap(folder, binary=True)
    sparse = folder / "sparse" / "0"
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        whole = (sparse / name).read_bytes()
        for data in (whole[:-3], whole[:11], b"\xff" * 8 + whole[8:]):
            (sparse / name).write_bytes(data)
            with pytest.raises(AirjaxError, match=f"{name}: (damaged or cut short|expected a known camera)"):
                load(folder)
        (sparse / name).write_bytes(whole)
    (sparse / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 5, 32, 24, 30, 31, 15, 13))
    with pytest.raises(AirjaxError, match="got model number 5; undistort the images first"):
        load(folder)
