"""Poses that pycolmap finds, against those that photographs were made with; and what it cannot use."""

import shutil
import sys
import threading
from types import ModuleType, SimpleNamespace

import corner
import numpy as np
import pytest
from PIL import ExifTags, Image

from airjax.errors import AirjaxError
from airjax.scene import poses
from airjax.scene.files.colmap import read_colmap
from airjax.scene.files.photographs import load
from airjax.scene.files.pose_folder import find_photographs, write_pose_folder
from airjax.scene.pairs import near_and_alike
from airjax.scene.pose_copies import Copy, make_copies
from airjax.scene.poses import find_poses

NAMES = [f"{i:03d}.png" for i in range(corner.VIEWS)]


def put_noise(folder, name, size=corner.SIZE, **options):
    """A photograph of nothing that others show."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / name, **options)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A corner of a room; a view of it in a folder, one made smaller, one of noise, one that is broken: their poses."""
    pytest.importorskip("pycolmap")
    photos, work = (tmp_path_factory.mktemp(name) for name in ("photos", "work"))
    known = corner.write_photographs(photos)
    (photos / "in").mkdir()
    shutil.move(photos / "005.png", photos / "in" / "x y.png")
    with Image.open(photos / "001.png") as image:
        image.resize((200, 150), Image.Resampling.BOX).save(photos / "001.png")
    put_noise(photos, "999.png")
    (photos / "broken.jpg").write_bytes((photos / "002.png").read_bytes()[:2000])
    told = []
    names = find_photographs(photos).names
    answer = find_poses(names, photos, work, max_size=240, progress=lambda *line: told.append(line))
    return SimpleNamespace(photos=photos, work=work, known=known, answer=answer, told=told)


def test_poses_are_the_known_ones_up_to_a_similarity(found):
    names = {"in/x y.png": 5} | {name: i for i, name in enumerate(NAMES[:5])}
    assert set(found.answer.names) == set(names) and found.answer.without == ("999.png",)
    model = read_colmap(found.answer.model)
    by_number = {names[image.name]: (image.rotation, image.translation) for image in model.images}
    assert corner.similarity_error([by_number[i] for i in range(6)], found.known) < 0.01


def test_cameras_are_those_of_the_photographs(found):
    """Features were looked for in smaller copies; sizes and focal lengths are of the photographs all the same."""
    model = read_colmap(found.answer.model)
    cameras = {image.name: model.cameras[image.camera] for image in model.images}
    assert cameras["000.png"].size == corner.SIZE and cameras["001.png"].size == (150, 200)
    assert cameras["000.png"].intrinsics[0, 0] == pytest.approx(corner.FOCAL, rel=0.01)
    assert cameras["001.png"].intrinsics[0, 0] == pytest.approx(corner.FOCAL * 200 / 256, rel=0.03)
    assert len(model.cameras) == 2  # of the noise there is none


def test_points_lie_on_the_walls_and_fit(found):
    """Through the known similarity; the error is in pixels of the photographs, from the features in the model."""
    import pycolmap

    model = pycolmap.Reconstruction(found.answer.model)
    assert found.answer.num_points == model.num_points3D() > 300
    errors = [
        np.linalg.norm(image.project_point(model.points3D[point.point3D_id].xyz) - point.xy)
        for image in model.images.values()
        for point in image.points2D
        if point.has_point3D()
    ]
    assert found.answer.error == pytest.approx(np.mean(errors), rel=0.1) and found.answer.error < 0.5


def test_many_photographs_are_compared_where_they_look_alike(found):
    """Noise is near none of them: only its own two nearest are compared with it."""
    import pycolmap

    database = found.work / "database.db"
    data = pycolmap.Database.open(database)
    names = sorted((image.name for image in data.read_all_images()), key=lambda name: name[-10:])
    data.close()
    copies = [Copy(name, name, (1, 1), None, None, (1, 1)) for name in names]
    descriptors = poses._descriptors(pycolmap, copies, database)
    assert [array.shape[1] for array in descriptors] == [128] * 7
    pairs = near_and_alike(descriptors, neighbors=0, alike=2)
    noise = 5  # its number in the order of find_photographs, as that of the copies
    assert sum(noise in pair for pair in pairs) == 2 and len(pairs) < 15


def test_what_was_left_out_and_done_is_told(found):
    (line,) = found.answer.notices
    assert line.startswith("1 of 8 photographs left out, which cannot be read: ") and "broken.jpg" in line
    stages = dict.fromkeys(stage for stage, _, _ in found.told)
    assert list(stages) == ["read", "features", "match", "place"]
    last = {stage: (done, total) for stage, done, total in found.told}
    assert last == {"read": (8, 8), "features": (7, 7), "match": (21, 21), "place": (7, 7)}
    assert all(0 <= done <= total for _, done, total in found.told)


def test_the_folder_that_is_written_is_a_scene(found, tmp_path):
    write_pose_folder(tmp_path, found.answer.model, found.answer.points, root=found.photos, work=tmp_path)
    scene = load(tmp_path)
    assert len(scene.names) == 6 and (tmp_path / "images" / "in" / "x y.png").is_file()


# --- cameras ---------------------------------------------------------------------------------------------------------


def staged(folder, names, **options):
    """What pycolmap would see of photographs."""
    pycolmap = options.pop("pycolmap", ModuleType("pycolmap"))
    arguments = {"camera": "size", "max_size": 100, "progress": lambda *_: None} | options
    views, _ = make_copies(pycolmap, names, folder, folder / ".copies", **arguments)
    return views


def test_photographs_are_seen_as_stored(tmp_path):
    """COLMAP ignores the EXIF orientation, and so does the reader of its models."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name in ("a.jpg", "b.jpg"):
        put_noise(tmp_path, name, (40, 60), exif=exif)
    for view in staged(tmp_path, ["a.jpg", "b.jpg"]):
        with Image.open(tmp_path / ".copies" / view.copy) as copy:
            assert copy.size == (60, 40) and view.size == (40, 60)


@pytest.mark.parametrize(
    ("camera", "groups"), [("size", [0, 0, 1, 2]), ("image", [0, 1, 2, 3])], ids=lambda value: str(value)
)
def test_who_shares_a_camera(tmp_path, camera, groups):
    """Equal size and focal length by EXIF; or nobody."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 50
    put_noise(tmp_path, "0.jpg"), put_noise(tmp_path, "1.jpg"), put_noise(tmp_path, "2.jpg", exif=exif)
    put_noise(tmp_path, "3.jpg", (60, 40))
    views = staged(tmp_path, [f"{i}.jpg" for i in range(4)], camera=camera)
    assert [int(view.copy[1:7]) for view in views] == groups


def test_folders_share_a_camera_if_their_sizes_are_equal(tmp_path):
    for name in ("0.png", "1.png"):
        put_noise(tmp_path / "a", name)
        put_noise(tmp_path / "b", name, (50, 60))
    names = ["a/0.png", "b/0.png", "a/1.png", "b/1.png"]
    assert [int(view.copy[1:7]) for view in staged(tmp_path, names, camera="folder")] == [0, 1, 0, 1]
    with pytest.raises(AirjaxError, match=r"0\.png: expected 256x192 pixels as a/0\.png has, .*--camera single"):
        staged(tmp_path, names, camera="single")


def test_focal_lengths_come_from_exif(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 36
    put_noise(tmp_path, "a.jpg", (240, 360), exif=exif)
    put_noise(tmp_path, "b.jpg", (240, 360))
    one, other = staged(tmp_path, ["a.jpg", "b.jpg"], pycolmap=pycolmap)
    assert one.focal == pytest.approx(360, rel=0.02) and other.focal is None
    database = tmp_path / "x.db"
    with poses._quiet(pycolmap):
        poses._extract(pycolmap, [one, other], tmp_path / ".copies", database, lambda *_: None)
    data = pycolmap.Database.open(database)
    cameras = {image.name: data.read_camera(image.camera_id) for image in data.read_all_images()}
    data.close()
    assert cameras[one.copy].has_prior_focal_length and not cameras[other.copy].has_prior_focal_length
    assert cameras[one.copy].mean_focal_length() == pytest.approx(100, rel=0.02)  # of a copy of 100 pixels


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_fewer_than_two_photographs_are_one_line(tmp_path):
    put_noise(tmp_path, "0.png")
    (tmp_path / "1.png").write_bytes(b"none")
    with pytest.raises(AirjaxError, match=r"expected at least 2 photographs, found 1, and 1 that cannot be read \("):
        staged(tmp_path, ["0.png", "1.png"])


def test_photographs_without_overlap_are_one_line(tmp_path):
    pytest.importorskip("pycolmap")
    for name in ("0.png", "11.png"):
        put_noise(tmp_path, name, (60, 80))
    (work := tmp_path / ".work").mkdir()
    with pytest.raises(AirjaxError, match=r"expected photographs that overlap, .* found no poses for any of the 2"):
        find_poses(["0.png", "11.png"], tmp_path, work)


def test_without_pycolmap_the_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(AirjaxError, match=r"finding poses needs pycolmap.*pip install 'airjax\[poses\]'"):
        find_poses([], tmp_path, tmp_path)


class FakeToken:
    def __init__(self):
        self.cancelled = threading.Event()

    def cancel(self):
        self.cancelled.set()


def fake_pycolmap():
    module = ModuleType("pycolmap")
    module.CancellationToken = FakeToken
    return module


def test_an_interrupt_ends_the_work_first():
    """The thread is told and waited for, so that nothing writes to a folder that is being removed."""
    ended = []

    def work(cancellation_token):
        assert cancellation_token.cancelled.wait(10)
        ended.append(True)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        poses._run(fake_pycolmap(), work, interrupt)
    assert ended == [True]


def test_an_error_of_pycolmap_is_one_line():
    def fail(cancellation_token):
        raise ValueError("[x.cc:12] Check failed:\nno")

    with pytest.raises(AirjaxError, match=r"pycolmap gave up \(\[x.cc:12\] Check failed: no\)"):
        poses._run(fake_pycolmap(), fail)
