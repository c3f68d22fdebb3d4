"""COLMAP's models: names, rotations and points as they are in the files, and files that are damaged."""

import struct

import numpy as np
import pytest
from pose_files import NAMES, POSES, K, write_colmap, write_images

from airjax.errors import AirjaxError
from airjax.scene.files.colmap import read_colmap
from airjax.scene.files.lenses import Lens
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
    (sparse / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 17, 32, 24, 30, 31, 15, 13))
    with pytest.raises(AirjaxError, match="got EQUIRECTANGULAR; undistort the images first"):
        load(folder)


# --- what other programs and hands write -------------------------------------------------------------------------


def change(file, old, new):
    text = file.read_bytes()
    assert old in text
    file.write_bytes(text.replace(old, new))


POINTS = b"10.5 20.5 -1 3 4 7 1e1 2 -1"


@pytest.mark.parametrize("second", [b"", b"\n", POINTS + b"\n", POINTS + b"\n\n", b"# none\n", b"\n\n"])
@pytest.mark.parametrize("name", ["%d.png", "a b (%d).png", "1 %d"])
def test_lines_of_points_may_be_missing(tmp_path, second, name):
    """All images of a text model are read, with and without the lines of their points."""
    names = [name % i for i in range(3)]
    write_colmap(tmp_path, binary=False, names=names)
    change(tmp_path / "sparse" / "0" / "images.txt", b"\n\n", b"\n" + second)
    assert [image.name for image in read_colmap(tmp_path / "sparse" / "0").images] == names


def test_images_that_are_no_lines_of_a_model(folder):
    write_colmap(folder, binary=False)
    change(folder / "sparse" / "0" / "images.txt", b"\n\n", b"\n1 2\n")  # points cut short
    with pytest.raises(AirjaxError, match=r"images.txt: damaged or cut short"):
        load(folder)


def test_windows_text_and_no_points(folder):
    """A byte order mark, CRLF, backslashes, and an empty points3D.txt as COLMAP asks for beside known poses."""
    (folder / "images" / "left").mkdir()
    for name in NAMES:
        (folder / "images" / name).rename(folder / "images" / "left" / name)
    write_colmap(folder, binary=False, names=[f"left\\{name}" for name in NAMES], points=())
    for file in (folder / "sparse" / "0").iterdir():
        if data := file.read_bytes():
            file.write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"))
    scene = load(folder)
    assert scene.names == tuple(NAMES) and not scene.notices and scene.points.shape == (0, 3)


@pytest.mark.parametrize("suffix", [".PNG", ".Png", ""])
def test_suffixes_of_the_other_case(folder, suffix):
    names = [name.removesuffix(".png") + suffix for name in NAMES]
    write_colmap(folder, binary=True, names=names)
    assert load(folder).names == tuple(NAMES)
    for name in NAMES:
        (folder / "images" / name).rename(folder / "images" / name.upper())
    assert load(folder).names == tuple(name.upper() for name in NAMES)


def test_only_smaller_photographs(folder):
    """images_2/ serves where images/ is not there; intrinsics are scaled to it."""
    write_colmap(folder, binary=True, intrinsics=np.diag([4, 4, 1]) @ K, size=(96, 128))
    (folder / "images").rename(folder / "images_4")
    write_images(folder / "images_8", size=(12, 16))
    scene = load(folder)
    assert scene.images.shape[1:3] == (24, 32)
    np.testing.assert_allclose(scene.cameras.intrinsics[0], K, rtol=1e-6)
    assert scene.notices == ("photographs of images_4/ used, as those of images/ are not there",)


@pytest.mark.parametrize("binary", [True, False])
def test_the_largest_of_several_models(folder, binary):
    write_colmap(folder, binary=binary)
    sparse = folder / "sparse"
    (sparse / "0").rename(sparse / "1")
    scene = load(folder)
    assert len(scene.names) == 3 and not scene.notices
    write_colmap(folder, binary=binary, names=NAMES[:2], poses=POSES[:2])
    scene = load(folder)
    assert len(scene.names) == 3
    assert scene.notices == ("sparse/1 taken, a model of 3 images, not sparse/0 of 2",)
    images = sparse / "0" / ("images.bin" if binary else "images.txt")
    images.write_bytes(images.read_bytes()[:-50])
    scene = load(folder)
    assert len(scene.names) == 3 and scene.notices == ("sparse/0 passed over: not a whole COLMAP model",)
    images.with_name("cameras" + images.suffix).unlink()
    assert not load(folder).notices


@pytest.mark.parametrize("binary", [True, False])
def test_full_opencv(folder, binary):
    """Its parameters are in OpenCV's order; zeros are no distortion."""
    write_colmap(folder, binary=binary)
    lens = [30.0, 31, 15, 13, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    for params in (lens, lens[:4] + [0.0] * 8):
        if binary:
            data = struct.pack("<QiiQQ12d", 1, 7, 6, 32, 24, *params)
        else:
            data = " ".join(map(str, (7, "FULL_OPENCV", 32, 24, *params))).encode()
        (folder / "sparse" / "0" / ("cameras.bin" if binary else "cameras.txt")).write_bytes(data)
        camera = read_colmap(folder / "sparse" / "0").cameras[7]
        np.testing.assert_array_equal(camera.intrinsics, K)
        assert camera.lens == Lens("brown", tuple(params[4:]))
    assert not load(folder).notices


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("model", "name", "params", "lens"),
    [
        (5, "OPENCV_FISHEYE", (30, 31, 15, 13, 1, 2, 3, 4), Lens("fisheye", (1, 2, 0, 0, 3, 4))),
        (8, "SIMPLE_RADIAL_FISHEYE", (30, 15, 13, 1), Lens("fisheye", (1,))),
        (9, "RADIAL_FISHEYE", (30, 15, 13, 1, 2), Lens("fisheye", (1, 2))),
        (10, "THIN_PRISM_FISHEYE", (30, 31, 15, 13, *range(8)), Lens("fisheye", tuple(range(8)))),
        (14, "SIMPLE_FISHEYE", (30, 15, 13), Lens("fisheye")),
        (7, "FOV", (30, 31, 15, 13, 1), Lens("field of view", (1,))),
        (12, "SIMPLE_DIVISION", (30, 15, 13, -1), Lens("division", (-1,))),
        (16, "EUCM", (30, 31, 15, 13, 0.5, 1), Lens("unified", (0.5, 1))),
    ],
)
def test_other_lenses(tmp_path, binary, model, name, params, lens):
    write_colmap(tmp_path, binary=binary)
    if binary:
        data = struct.pack(f"<QiiQQ{len(params)}d", 1, 7, model, 32, 24, *params)
    else:
        data = " ".join(map(str, (7, name, 32, 24, *params))).encode()
    (tmp_path / "sparse" / "0" / ("cameras.bin" if binary else "cameras.txt")).write_bytes(data)
    camera = read_colmap(tmp_path / "sparse" / "0").cameras[7]
    np.testing.assert_array_equal(
        camera.intrinsics, [[30, 0, 15], [0, params[1] if params[1] == 31 else 30, 13], [0, 0, 1]]
    )
    assert camera.lens == lens


def test_a_place_that_is_none(folder):
    poses = [POSES[0], (POSES[1][0], np.full(3, np.nan)), POSES[2]]
    write_colmap(folder, binary=True, poses=poses)
    scene = load(folder)
    assert scene.names == (NAMES[0], NAMES[2]) and f"left out ({NAMES[1]})" in scene.notices[0]


@pytest.mark.parametrize("word", ["nan", "-nan(ind)", "inf", "0"])
def test_poses_that_are_none(folder, word):
    """One view without a place or without a rotation is left out by its name; the others stay."""
    write_colmap(folder, binary=False)
    file = folder / "sparse" / "0" / "images.txt"
    lines = file.read_text().split("\n")
    number, *pose, camera, name = lines[2].split()
    lines[2] = " ".join([number, *[word] * 4, *pose[4:], camera, name])
    file.write_text("\n".join(lines))
    scene = load(folder)
    assert scene.names == (NAMES[0], NAMES[2])
    (notice,) = scene.notices
    assert notice.startswith(f"1 of 3 views left out ({NAMES[1]}), as their poses are")
