"""Hostile scene files: .ply, COLMAP and pose files, damaged at random or lying about their lengths.

Property: content or an AirjaxError of one line, quickly, with little memory. A case depends on its number only; a case
that fails is written into the folder of the test.
"""

import gzip
import json
import struct
import time
import tracemalloc
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_splats import to_compressed_ply, to_splat, to_spz
from pose_files import (
    NAMES,
    camera_path,
    inria_cameras,
    write_colmap,
    write_frames,
    write_images,
    write_llff,
    write_plain,
    write_transforms,
)
from scenes3d import random_set

from airjax.errors import AirjaxError
from airjax.scene.files.camera_file import from_comments, origin_in, read_cameras
from airjax.scene.files.colmap import read_colmap
from airjax.scene.files.lenses import MODELS, Lens, resample, source_places
from airjax.scene.files.packed_splats import from_compressed_ply, from_splat, from_spz
from airjax.scene.files.photographs import load
from airjax.scene.files.ply import from_ply, to_ply
from airjax.scene.files.pose_formats import read_poses

MAX_SECONDS, MAX_MEMORY = 1.0, 2**24  # of one case; bytes
LIES = [0, 1, 2, 255, 2**15, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]
NUMBERS = [b"-1", b"0", b"1e308", b"-1e400", b"nan", b"inf", b"9" * 5000, b"99999999999", b"\xff", b"", b"\0"]


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """One of: bytes changed, a part cut out, the end cut off, a part twice, a number in its place replaced."""
    data = bytearray(data)
    kind = rng.integers(6)
    start, stop = sorted(rng.integers(0, len(data) + 1, 2))
    if kind == 0:
        for position in rng.integers(0, len(data), rng.integers(1, 9)):
            data[position] = rng.integers(256)
    elif kind == 1:
        del data[start : start + rng.integers(1, 40)]
    elif kind == 2:
        del data[start:]
    elif kind == 3:
        data[start:start] = data[start:stop]
    elif kind == 4:
        size = int(rng.choice([4, 8]))
        value = LIES[rng.integers(len(LIES))] % 2 ** (8 * size)
        data[start : start + size] = value.to_bytes(size, "little")
    else:
        words = bytes(data).split(b" ")
        words[rng.integers(len(words))] = NUMBERS[rng.integers(len(NUMBERS))]
        data = b" ".join(words)
    return bytes(data)


def survives(read, *args) -> bool:
    """Whether a file is read rather than refused; anything else fails."""
    start = time.perf_counter()
    try:
        read(*args)
        return True
    except AirjaxError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, error
        return False
    finally:
        assert time.perf_counter() - start < MAX_SECONDS


def survive(folder, files, read, *, cases, seed):
    """Every case is survived; some of them are read and some refused."""
    whole = {file: file.read_bytes() for file in files}
    rng, outcomes = np.random.default_rng(seed), []
    tracemalloc.start()
    try:
        for case in range(cases):
            file = files[case % len(files)]
            file.write_bytes(damaged(rng, whole[file]))
            outcomes.append(survives(read, folder))  # a failure leaves the file
            file.write_bytes(whole[file])
        assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY
    finally:
        tracemalloc.stop()
    assert 0.02 < np.mean(outcomes) < 0.98


# --- .ply ------------------------------------------------------------------------------------------------------


def check_ply(data: bytes) -> None:
    check_gaussians(from_ply, data)


def check_gaussians(read, data: bytes) -> None:
    found = read(data, source="x.ply")
    gaussians, comments, _ = found
    for name in ("means", "scales", "quats", "opacities", "harmonics"):
        part = getattr(gaussians, name)
        assert part.dtype == np.float32 and len(part) == gaussians.num_slots and np.isfinite(part).all()
    assert (gaussians.scales >= 0).all() and (gaussians.opacities >= 0).all() and (gaussians.opacities <= 1).all()
    from_comments(comments)
    assert origin_in(comments).shape == (3,)


@pytest.mark.parametrize("form", ["ours", "ascii", "big endian", "2DGS", "Mip-Splatting"])
def test_damaged_ply_files(form):
    data = to_ply(random_set(0, 4, degree=1), comments=['airjax view {"w": 3, "h": 4}', "airjax origin [1e6, 2, 3]"])
    head, body = data.split(b"end_header\n")
    if form == "ascii":
        table = np.frombuffer(body, "<f4").reshape(4, -1)
        body = "\n".join(" ".join(map(str, row)) for row in table.tolist()).encode()
        head = head.replace(b"binary_little_endian", b"ascii")
    elif form == "big endian":
        head, body = head.replace(b"little", b"big"), np.frombuffer(body, "<f4").astype(">f4").tobytes()
    elif form == "2DGS":
        head = head.replace(b"scale_2", b"left")
    elif form == "Mip-Splatting":
        head = head.replace(b"float nx", b"float filter_3D")
    data = head + b"end_header\n" + body
    check_ply(data)
    rng = np.random.default_rng(0)
    outcomes = [survives(check_ply, damaged(rng, data)) for _ in range(500)]
    assert 0.02 < np.mean(outcomes) < 0.98


READERS = {"splat": from_splat, "spz 2": from_spz, "spz 3": from_spz, "compressed": from_compressed_ply}


@pytest.mark.parametrize("form", READERS)
def test_damaged_packed_splats(form):
    """Those of .spz before they are compressed, and after."""
    some = random_set(0, 4, degree=1)
    unpack = form.startswith("spz")
    data = to_spz(some, version=int(form[-1])) if unpack else to_splat(some)
    data = to_compressed_ply(some) if form == "compressed" else data
    rng, outcomes = np.random.default_rng(0), []
    read = partial(check_gaussians, READERS[form])
    tracemalloc.start()
    try:
        for i in range(300):
            inside = unpack and i % 4
            hurt = damaged(rng, gzip.decompress(data) if inside else data)
            outcomes.append(survives(read, gzip.compress(hurt) if inside else hurt))
        assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY
    finally:
        tracemalloc.stop()
    assert 0.02 < np.mean(outcomes) < 0.98


def test_spz_bombs():
    """A file that unpacks to a thousand times its size, or says so, takes no memory."""
    header = struct.pack("<IIIBBBB", 0x5053474E, 3, 2**31, 0, 12, 0, 0)
    data = gzip.compress(header + bytes(2**22))
    tracemalloc.start()
    try:
        assert not survives(partial(from_spz, source="x"), data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"vertex 4", b"vertex " + b"9" * 5000),
        (b"vertex 4", b"vertex 99999999999999999999"),
        (b"vertex 4", b"vertex 0"),
        (b"vertex 4", "vertex \u00b2".encode("latin-1")),
        (b"float ", b"double "),
        (b"property", b"comment"),
    ],
)
def test_ply_headers_that_lie(old, new):
    data = to_ply(random_set(0, 4, degree=0)).replace(old, new)
    tracemalloc.start()
    try:
        assert survives(check_ply, data) == (new == b"vertex 0")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# --- COLMAP ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False])
def test_damaged_colmap_models(tmp_path, binary):
    write_images(tmp_path / "images")
    write_colmap(tmp_path, binary=binary, points=[(1.0, 2.0, 3.0)] * 3)
    files = sorted((tmp_path / "sparse" / "0").iterdir())
    survive(tmp_path, files, read_poses, cases=400, seed=1)


def test_colmap_counts_that_lie(tmp_path):
    """Every 8 bytes in turn claim 2^63 things."""
    write_colmap(tmp_path, binary=True)
    folder = tmp_path / "sparse" / "0"
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for start in range(len(whole) - 7):
            file.write_bytes(whole[:start] + (2**63).to_bytes(8, "little") + whole[start + 8 :])
            survives(read_colmap, folder)
        file.write_bytes(whole)


LENS = (30.0, 31.0, 15.0, 13.0, 0.1, -0.02, 0.01, -0.003)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damaged_lenses(tmp_path, binary):
    """Of a fisheye, down to the pixels."""
    write_images(tmp_path / "images")
    write_colmap(tmp_path, binary=binary)
    file = tmp_path / "sparse" / "0" / ("cameras.bin" if binary else "cameras.txt")
    if binary:
        file.write_bytes(struct.pack("<QiiQQ8d", 1, 7, 5, 32, 24, *LENS))
    else:
        file.write_text(" ".join(map(str, (7, "OPENCV_FISHEYE", 32, 24, *LENS))))
    survive(tmp_path, [file], load, cases=100, seed=5)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    model=st.sampled_from(sorted(MODELS)),
    numbers=st.lists(st.floats() | st.floats(-2, 2), max_size=8),
    k=st.lists(st.floats(-1e30, 1e30) | st.floats(1, 100), min_size=4, max_size=4),
)
def test_lenses_of_any_numbers(model, numbers, k):
    """Property: pixels come from the photograph and its edges, whatever the lens, without a warning."""
    intrinsics = np.array([[abs(k[0]) + 1e-30, 0, k[1]], [0, abs(k[2]) + 1e-30, k[3]], [0, 0, 1]])
    places = source_places((3, 4), intrinsics, Lens(model, tuple(numbers)))
    assert places.rows.min() >= -1 and places.rows.max() <= 3 and places.seen.dtype == bool
    assert places.columns.min() >= -1 and places.columns.max() <= 4 and np.isfinite(places.rows).all()
    assert (resample(np.ones((3, 4), np.float32), places) == 1).all()


# --- pose files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_transforms, write_plain, write_llff, write_frames])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damaged_pose_files(tmp_path, write):
    write_images(tmp_path / "images")
    write(tmp_path)
    files = sorted(file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".png")
    survive(tmp_path, files, load if write is write_transforms else read_poses, cases=150, seed=2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(NAMES[0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["fl_x", "fl_y", "cx", "w", "h", "k1", "camera_angle_x", "camera_model", "frames", "file_path", "K", "R", "t"]
KEYS += ["transform_matrix", "near", "far", "cy", "camera_angle_y", "is_fisheye", "latlong", "k2", "k3", "k4", "p1"]
KEYS += ["mask_path", "train_filenames", "test_filenames", "rolling_shutter", "applied_transform"]
LENS_MODELS = ["OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE", "SIMPLE_RADIAL", "EQUIRECTANGULAR"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Both kinds of JSON, in two folders."""
    folders = {}
    for write in (write_transforms, write_plain):
        folder = tmp_path_factory.mktemp("scene")
        write_images(folder / "images")
        write(folder)
        (file,) = folder.glob("*.json")
        folders[file] = json.loads(file.read_text())
    return folders


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    key=st.sampled_from(KEYS) | st.text(max_size=4),
    value=JSON | st.sampled_from(LENS_MODELS),
    in_frame=st.booleans(),
)
def test_json_of_any_value(plain, key, value, in_frame):
    """Property: any JSON in the place of any entry is read or refused."""
    for file, content in plain.items():
        first, *others = content["frames"]
        changed = {**content, "frames": [{**first, key: value}, *others]} if in_frame else {**content, key: value}
        file.write_text(json.dumps(changed))
        survives(read_poses, file.parent)
        survives(read_cameras, file)


PATH_KEYS = ["camera_path", "camera_type", "render_height", "render_width", "camera_to_world", "fov", "crop"]
PATH_KEYS += ["rotation", "position", "width", "height", "fx", "fy", "frames", "transform_matrix"]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(key=st.sampled_from(PATH_KEYS), value=JSON, in_frame=st.booleans())
def test_camera_paths_of_any_value(plain, key, value, in_frame):
    """Property: as above, for the files of cameras of other programs."""
    file = min(plain).with_name("path.json")
    path, cameras = camera_path(), inria_cameras()
    changed = path["camera_path"][0] if in_frame else path
    changed[key] = cameras[0][key] = value
    for content in (path, cameras, {"frames": value}, value):
        file.write_text(json.dumps(content))
        survives(read_cameras, file)
        survives(partial(read_cameras, origin=np.array([1e6, 0.1, 0])), file)
        survives(read_cameras, file.parent)


@pytest.mark.parametrize("content", [camera_path(), inria_cameras()], ids=["path", "inria"])
def test_damaged_files_of_cameras(tmp_path, content):
    file = tmp_path / "c.json"
    file.write_text(json.dumps(content))
    survive(file, [file], read_cameras, cases=150, seed=3)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"frames": ' + "[" * 100_000, "1" * 5000, '{"frames": 1e999}', "\0"])
def test_json_beyond_all_measure(tmp_path, text):
    for name, read in (("transforms.json", read_poses), ("cameras.json", read_poses)):
        folder = tmp_path / name.removesuffix(".json")
        folder.mkdir()
        (folder / name).write_text(text)
        assert not survives(read, folder) and not survives(read_cameras, folder / name)
    assert from_comments([f"airjax view {text}"]) is None
