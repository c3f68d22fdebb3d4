"""Scenes from folders: every format says the same, real scenes agree with their poses, one line for what is wrong."""

import json
import struct

import numpy as np
import pytest
from PIL import Image

from airjax.errors import AirjaxError
from airjax.scene.cameras import Camera
from airjax.scene.files.photographs import load, undistort

SIZE = (24, 32)
K = np.array([[30.0, 0, 15], [0, 31, 13], [0, 0, 1]])


def rotation(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


POSES = [(rotation(i), np.array([0.1 * i, -0.2, 1.5 + i])) for i in range(3)]
NAMES = [f"{i:03d}.png" for i in range(3)]


def write_images(folder, names=NAMES, size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)


def write_transforms(folder, **changes):
    frames = []
    for name, (r, t) in zip(NAMES, POSES, strict=True):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = r.T @ np.diag([1, -1, -1]), -r.T @ t
        frames.append({"file_path": f"images/{name}", "transform_matrix": pose.tolist()})
    content = {"fl_x": 30.0, "fl_y": 31.0, "cx": 15.0, "cy": 13.0, "w": 32, "h": 24, "frames": frames} | changes
    (folder / "transforms.json").write_text(json.dumps(content))


def write_plain(folder, **changes):
    frames = [
        {"file_path": f"images/{name}", "K": K.tolist(), "R": r.tolist(), "t": t.tolist()}
        for name, (r, t) in zip(NAMES, POSES, strict=True)
    ]
    (folder / "cameras.json").write_text(json.dumps({"frames": frames} | changes))


def quat(r):
    w = 0.5 * np.sqrt(1 + np.trace(r))
    return w, *(np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]) / (4 * w))


def write_colmap(folder, *, binary):
    folder = folder / "sparse" / "0"
    folder.mkdir(parents=True)
    quats = [quat(r) for r, _ in POSES]
    if binary:
        (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 1, 32, 24, 30, 31, 15, 13))
        images = struct.pack("<Q", 3)
        for i, (name, q, (_, t)) in enumerate(zip(NAMES, quats, POSES, strict=True)):
            images += struct.pack("<i7di", i, *q, *t, 7) + name.encode() + b"\0" + struct.pack("<Qddq", 1, 1, 2, -1)
        (folder / "images.bin").write_bytes(images)
        point = struct.pack("<QQ3d3BdQii", 1, 5, 1.0, 2.0, 3.0, 1, 2, 3, 0.5, 1, 0, 0)
        (folder / "points3D.bin").write_bytes(point)
        return
    (folder / "cameras.txt").write_text("# a comment\n7 PINHOLE 32 24 30 31 15 13\n")
    lines = []
    for i, (name, q, (_, t)) in enumerate(zip(NAMES, quats, POSES, strict=True)):
        lines += [" ".join(map(repr, map(float, (*q, *t)))), ""]
        lines[-2] = f"{i} {lines[-2]} 7 {name}"
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    (folder / "points3D.txt").write_text("5 1 2 3 1 2 3 0.5 0 0\n")


def write_llff(folder):
    rows = []
    for r, t in POSES:
        c2w = r.T
        pose = np.stack([c2w[:, 1], c2w[:, 0], -c2w[:, 2], -r.T @ t, [24, 32, 30.0]], axis=1)
        rows.append([*pose.ravel(), 1.0, 9.0])
    np.save(folder / "poses_bounds.npy", np.array(rows))


WRITERS = {
    "nerfstudio": write_transforms,
    "plain": write_plain,
    "colmap binary": lambda folder: write_colmap(folder, binary=True),
    "colmap text": lambda folder: write_colmap(folder, binary=False),
    "llff": write_llff,
}


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


def test_intrinsics_follow_the_images(folder):
    """Poses for images four times as large, and images that are made smaller on the way in, with a notice."""
    write_transforms(folder, fl_x=120.0, fl_y=124.0, cx=60.0, cy=52.0, w=128, h=96)
    np.testing.assert_allclose(load(folder).cameras.intrinsics[0], K, rtol=1e-5)
    scene = load(folder, max_size=16)
    assert scene.images.shape == (3, 12, 16, 3)
    np.testing.assert_allclose(scene.cameras.intrinsics[0], np.diag([0.5, 0.5, 1]) @ K, rtol=1e-5)
    assert any("made smaller" in line for line in scene.notices)
    whole = np.asarray(Image.open(folder / "images" / NAMES[0]), float) / 255
    np.testing.assert_allclose(scene.images[0], whole.reshape(12, 2, 16, 2, 3).mean(axis=(1, 3)), atol=1e-6)


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


def test_undistortion_inverts_the_lens():
    """A smooth picture seen through the lens, by the definition of the lens, comes back."""
    h, w = 40, 60
    intrinsics = np.array([[50.0, 0, 29], [0, 52, 21], [0, 0, 1]])
    lens = (0.1, -0.05, 0.002, -0.003, 0.01)

    def picture(x, y):
        return np.stack([np.sin(6 * x), np.cos(5 * y), np.sin(4 * x + 3 * y)], axis=-1) / 2 + 0.5

    x, y = np.meshgrid((np.arange(w) + 0.5 - 29) / 50, (np.arange(h) + 0.5 - 21) / 52)
    u, v = x.copy(), y.copy()  # where the ray of each pixel of the distorted image comes from: by fixed point
    for _ in range(50):
        rr = u * u + v * v
        radial = 1 + lens[0] * rr + lens[1] * rr**2 + lens[4] * rr**3
        u = (x - 2 * lens[2] * u * v - lens[3] * (rr + 2 * u * u)) / radial
        v = (y - lens[2] * (rr + 2 * v * v) - 2 * lens[3] * u * v) / radial
    found = undistort(picture(u, v).astype(np.float32), intrinsics, lens)
    error = np.abs(found - picture(x, y))[4:-4, 4:-4]
    assert error.max() < 0.01  # linear interpolation of waves of 50 pixels
    assert np.abs(picture(u, v) - picture(x, y)).max() > 0.05


# --- real scenes -------------------------------------------------------------------------------------------


def match_error(first, second, one: Camera, other: Camera, *, patch=6, reach=70):
    """Median distance in pixels of matched patches of `first` from their epipolar lines in `second`.

    Patches with the most detail are looked for within `reach` pixels of the epipolar line's middle, in the whole
    neighbourhood and not only on the line: an oracle that uses no pose to match.
    """
    grey = [image.mean(axis=-1) for image in (first, second)]
    h, w = grey[0].shape
    side = 2 * patch + 1
    windows = np.lib.stride_tricks.sliding_window_view(grey[1], (side, side))
    flat = windows.reshape(windows.shape[0], windows.shape[1], -1)
    normalised = flat - flat.mean(axis=-1, keepdims=True)
    normalised /= np.linalg.norm(normalised, axis=-1, keepdims=True) + 1e-6
    r = other.rotation @ one.rotation.T
    t = other.translation - r @ one.translation
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    fundamental = np.linalg.inv(other.intrinsics).T @ cross @ r @ np.linalg.inv(one.intrinsics)
    detail = np.abs(np.diff(grey[0], axis=0))[:, :-1] + np.abs(np.diff(grey[0], axis=1))[:-1]
    distances = []
    for y in range(40, h - 40, 24):
        for x in range(40, w - 40, 24):
            block = detail[y - 8 : y + 8, x - 8 : x + 8]
            i, j = np.unravel_index(np.argmax(block), block.shape)
            cy, cx = y - 8 + i, x - 8 + j
            query = grey[0][cy - patch : cy + patch + 1, cx - patch : cx + patch + 1].ravel()
            query = query - query.mean()
            if query.std() < 0.05:
                continue
            query /= np.linalg.norm(query)
            top, left = max(0, cy - patch - reach), max(0, cx - patch - reach)
            scores = normalised[top : cy - patch + reach, left : cx - patch + reach] @ query
            if scores.max() < 0.92:
                continue
            i, j = np.unravel_index(np.argmax(scores), scores.shape)
            line = fundamental @ np.array([cx + 0.5, cy + 0.5, 1.0])
            point = np.array([left + j + patch + 0.5, top + i + patch + 0.5, 1.0])
            distances.append(abs(line @ point) / np.hypot(line[0], line[1]))
    assert len(distances) >= 8
    return float(np.median(distances))


# Pairs of neighbouring views whose pictures move by less than the reach, and a bound on the median distance: twice what
# the data's own check of the poses found, and at least a pixel, as matches are whole pixels.
REAL = {
    "fox": ((0, 1), 1.0),
    "fern": ((0, 1), 1.0),
    "castle_p30": ((3, 4), 1.0),
    "fountain_p11": ((4, 5), 1.0),
    "entry_p10": ((0, 1), 1.0),
    "redkitchen": ((20, 21), 2.4),
}


@pytest.mark.parametrize("name", REAL)
def test_real_scenes_agree_with_their_poses(data_dir, name):
    (i, j), bound = REAL[name]
    scene = load(data_dir / "scenes" / name)
    pair = scene.take([i, j])
    assert match_error(*pair.images, pair.cameras[0], pair.cameras[1]) < bound


def test_lego_agrees_with_its_poses(data_dir):
    """Its views lie far apart: the nearest two of all are compared."""
    scene = load(data_dir / "scenes" / "lego")
    assert scene.white and scene.splits.count("train") == 100 and scene.splits.count("test") == 25
    centers = np.asarray(scene.cameras.center)
    distance = np.linalg.norm(centers[:, None] - centers[None], axis=-1) + 9 * np.eye(len(centers))
    i, j = np.unravel_index(np.argmin(distance), distance.shape)
    pair = scene.take([i, j])
    assert match_error(*pair.images, pair.cameras[0], pair.cameras[1]) < 1.0
    view = scene.splits.index("train")
    transparent = np.asarray(Image.open(data_dir / "scenes" / "lego" / "train" / scene.names[view]))[..., 3] == 0
    np.testing.assert_array_equal(scene.empty[view], transparent)
    assert 0.5 < transparent.mean() < 0.9 and 0.5 < scene.shrunk(100).empty[view].mean() < transparent.mean()


def test_nothing_is_known_to_be_empty_without_transparency(folder):
    write_plain(folder)
    scene = load(folder)
    assert scene.empty.shape == scene.images.shape[:3] and not scene.empty.any()
    np.testing.assert_array_equal(scene.background, np.zeros(3))


# --- what a user gets wrong ----------------------------------------------------------------------------------


def test_folders_that_are_none(tmp_path):
    with pytest.raises(AirjaxError, match="expected a folder of photographs with poses, found none"):
        load(tmp_path / "nowhere")
    write_images(tmp_path / "images")
    with pytest.raises(AirjaxError, match=r"expected poses .transforms.json, poses_bounds.npy"):
        load(tmp_path)


def test_one_view(folder):
    write_plain(folder)
    content = json.loads((folder / "cameras.json").read_text())
    (folder / "cameras.json").write_text(json.dumps({"frames": content["frames"][:1]}))
    with pytest.raises(AirjaxError, match="expected at least 2 photographs with poses, found 1"):
        load(folder)


def test_images_that_are_missing_or_of_another_size(folder):
    write_plain(folder)
    (folder / "images" / NAMES[1]).unlink()
    with pytest.raises(AirjaxError, match=r"001.png: expected an image of the pose file, found none"):
        load(folder)
    write_images(folder / "images", [NAMES[1]], (30, 40))
    with pytest.raises(AirjaxError, match=r"001.png: expected an image of 32x24 pixels like the others"):
        load(folder)


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
    change(content["frames"][0])
    (folder / "cameras.json").write_text(json.dumps(content))
    with pytest.raises(AirjaxError, match=message):
        load(folder)


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
