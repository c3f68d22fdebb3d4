"""Scenes from folders and from arrays: real ones agree with their poses, sizes, lenses and transparent parts."""

import json

import jax
import numpy as np
import pose_files
import pytest
from PIL import Image
from pose_files import NAMES, POSES, SIZE, WRITERS, K, write_colmap, write_images, write_plain, write_transforms
from scipy.spatial.transform import Rotation

from airjax.errors import AirjaxError
from airjax.scene.cameras import Camera
from airjax.scene.files.lenses import Lens, undistort
from airjax.scene.files.photographs import fitted_size, load, quarter_turns, resize, scene_of


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images")
    return tmp_path


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


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((300, 400), {"max_size": 400}, (300, 400)),
        ((300, 400), {"max_size": 100}, (75, 100)),
        ((1, 400), {"max_size": 100}, (1, 100)),
        ((171, 256), {"max_size": 128, "multiple": 2}, (86, 128)),
        ((171, 255), {"max_size": 999, "multiple": 2}, (172, 256)),
    ],
)
def test_sizes_that_fit(size, options, expected):
    """Oracle: by hand; halves round to the even number of multiples."""
    assert fitted_size(size, **options) == expected


# --- scenes far from 0 ---------------------------------------------------------------------------------------

UTM = np.array([448000.25, 5411000.5, 150.0])


def move_poses(monkeypatch, offset):
    """The poses of the helpers that write pose files, with the world's 0 elsewhere."""
    monkeypatch.setattr(pose_files, "POSES", [(r, t - r @ offset) for r, t in POSES])


@pytest.mark.parametrize("name", WRITERS)
def test_scenes_far_from_0_are_as_near_ones(folder, monkeypatch, name):
    """Oracle: the same scene near 0, in float64."""
    move_poses(monkeypatch, UTM)
    if "colmap" in name:
        poses, points = pose_files.POSES, (UTM + np.array([1, 2, 3]),)
        write_colmap(folder, binary="binary" in name, poses=poses, points=points)
    else:
        WRITERS[name](folder)
    scene = load(folder)
    for i, (r, t) in enumerate(POSES):
        shifted = t + r @ (scene.origin - UTM)  # near 0, counted from the same place
        np.testing.assert_allclose(scene.cameras.rotation[i], r, atol=1e-6)
        np.testing.assert_allclose(scene.cameras.translation[i], shifted, atol=1e-6)
    assert scene.origin.dtype == np.float64 and np.linalg.norm(scene.origin - UTM) < 5
    for point in scene.points:
        np.testing.assert_allclose(point, UTM + np.array([1, 2, 3]) - scene.origin, atol=1e-6)
    assert len(scene.points) == ("colmap" in name)
    assert all(part.dtype == np.float32 for part in jax.tree.leaves((scene.cameras, scene.points)))
    place = ", ".join(f"{x:.10g}" for x in scene.origin)
    line = f"cameras lie far from 0: coordinates, those of a .ply file too, are counted from ({place})"
    assert line in scene.notices
    np.testing.assert_array_equal(scene.take([0]).shrunk(16).origin, scene.origin)


def test_arrays_far_from_0():
    """Cameras in float64 are moved with the points; those near 0 stay what they are."""
    images, near = np.zeros((3, *SIZE, 3)), np.stack([t for _, t in POSES])
    rotations = np.stack([r for r, _ in POSES])
    far = near - np.einsum("vij,j->vi", rotations, UTM)
    scene = scene_of(images, Camera(np.tile(K, (3, 1, 1)), rotations, far), points=UTM + np.eye(3))
    expected = near + np.einsum("vij,j->vi", rotations, scene.origin - UTM)
    np.testing.assert_allclose(scene.cameras.translation, expected, atol=1e-8)
    np.testing.assert_allclose(scene.points, UTM - scene.origin + np.eye(3), atol=1e-6)
    assert not scene_of(images, Camera(np.tile(K, (3, 1, 1)), rotations, near)).origin.any()


# --- EXIF orientation ------------------------------------------------------------------------------------------


def write_tagged(folder, orientation, size=SIZE):
    """Three photographs with an EXIF orientation; their pixels as stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    samples = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    for name, pixels in zip(NAMES, samples, strict=True):
        Image.fromarray(pixels).save(folder / "images" / name, exif=exif)
    return np.divide(samples, np.float32(255))


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("write", [lambda folder: write_colmap(folder, binary=True), write_transforms])
def test_poses_of_colmap_are_of_the_stored_pixels(folder, write, orientation):
    stored = write_tagged(folder, orientation)
    write(folder)
    scene = load(folder)
    for found, pixels, camera, pose in zip(scene.images, stored, scene.cameras.rotation, POSES, strict=True):
        turned = [quarter_turns(Camera(K, *pose), SIZE, k).rotation for k in range(4)]
        (k,) = np.flatnonzero([np.allclose(rotation, camera, atol=1e-5) for rotation in turned])
        np.testing.assert_array_equal(found, np.rot90(pixels, k))  # at most turned with its camera
    assert f"EXIF orientation {orientation} ignored, pixels read as stored" in scene.notices


def test_poses_of_upright_photographs(folder):
    """The size in the pose file fits the turned photographs only: the tag is applied, in any format."""
    stored = write_tagged(folder, 6, SIZE[::-1])
    write_transforms(folder)
    scene = load(folder)
    np.testing.assert_array_equal(scene.images, np.rot90(stored, -1, axes=(1, 2)))
    assert scene.notices == ("EXIF orientation 6 applied",)


def test_our_own_poses_are_of_upright_photographs(folder):
    stored = write_tagged(folder, 3)
    write_plain(folder)
    np.testing.assert_array_equal(load(folder).images, stored[:, ::-1, ::-1])
    content = json.loads((folder / "cameras.json").read_text())
    for frame in content["frames"]:
        frame |= {"w": SIZE[1], "h": SIZE[0]}
    (folder / "cameras.json").write_text(json.dumps(content))
    stored = write_tagged(folder, 6)  # upright it would be of another size
    np.testing.assert_array_equal(load(folder).images, stored)


# --- transparent parts ---------------------------------------------------------------------------------------


def write_transparent(folder, alpha, name=NAMES[0]):
    """One of the images with an alpha channel; its colors are white, so that they do not tell."""
    samples = np.full((*SIZE, 4), 255, np.uint8)
    samples[..., 3] = alpha
    Image.fromarray(samples).save(folder / "images" / name)


def test_empty_is_what_alpha_says(folder):
    """Oracle: the channel itself. White pixels are not empty, in the transparent image or in the others."""
    write_plain(folder)
    alpha = np.full(SIZE, 255)
    alpha[:10], alpha[10:12] = 0, 1
    write_transparent(folder, alpha)
    Image.new("RGB", SIZE[::-1], "white").save(folder / "images" / NAMES[1])
    scene = load(folder)
    np.testing.assert_array_equal(scene.background, np.ones(3))
    np.testing.assert_array_equal(scene.alphas[0], (alpha / 255).astype(np.float32))
    np.testing.assert_array_equal(scene.empty[0], alpha == 0)
    assert not scene.empty[1:].any() and (scene.alphas[1:] == 1).all()
    np.testing.assert_array_equal(scene.take([1, 2]).background, np.ones(3))  # of the scene, not of its views
    small = scene.shrunk(16)
    assert small.alphas.shape == (3, 12, 16)
    np.testing.assert_array_equal(small.empty[0], np.arange(12)[:, None] * np.ones(16) < 5)


def test_transparency_does_not_hang_on_words(folder, monkeypatch):
    """F6: the notices may say what they like."""
    write_plain(folder)
    write_transparent(folder, 0)
    from airjax.scene.files import photographs

    read = photographs.read_image
    monkeypatch.setattr(
        photographs, "read_image", lambda file, **options: read(file, **options)._replace(notices=("something else",))
    )
    scene = load(folder)
    assert (scene.background == 1).all() and scene.empty[0].all() and scene.notices == ("something else",)


def test_alpha_follows_the_lens(folder):
    write_transforms(folder, k1=0.4)
    alpha = np.zeros(SIZE)
    alpha[:, 16:] = 255
    for name in NAMES:
        write_transparent(folder, alpha, name)
    scene = load(folder)
    expected = undistort((alpha / 255).astype(np.float32), K, Lens("brown", (0.4,)))
    np.testing.assert_allclose(scene.alphas[0], expected, atol=1e-6)
    assert np.abs(expected - alpha / 255).max() > 0 and scene.empty[0].any()


def test_nothing_is_known_to_be_empty_without_transparency(folder):
    write_plain(folder)
    scene = load(folder)
    assert scene.empty.shape == scene.images.shape[:3] and not scene.empty.any()
    np.testing.assert_array_equal(scene.background, np.zeros(3))


# --- scenes of arrays ----------------------------------------------------------------------------------------


def some_cameras(count):
    parts = K[None], np.eye(3)[None], np.zeros((1, 3))
    return Camera(*(np.repeat(part, count, axis=0).astype(np.float32) for part in parts))


def test_masks_follow_the_views(tmp_path):
    """A smaller pixel is known where all of it is."""
    masks = np.ones((3, *SIZE), bool)
    masks[1, 5, 7] = False
    scene = scene_of(np.zeros((3, *SIZE, 3)), some_cameras(3), masks=masks)
    assert scene.take([1]).masks.sum() == masks[1].sum()
    small = scene.shrunk(max(SIZE) // 2)
    expected = masks.reshape(3, SIZE[0] // 2, 2, SIZE[1] // 2, 2).all(axis=(2, 4))
    np.testing.assert_array_equal(small.masks, expected)
    with pytest.raises(ValueError, match="masks: expected a pixel of each view, got none of view 1"):
        scene_of(scene.images, scene.cameras, masks=np.arange(3)[:, None, None] != 1 + np.zeros((3, *SIZE)))


def test_a_scene_of_arrays():
    images = np.random.default_rng(0).random((3, *SIZE, 3))
    scene = scene_of(images, some_cameras(3), bounds=(1.0, 2.0), points=np.zeros((4, 3)))
    assert scene.names == ("0", "1", "2") and scene.splits == ("", "", "") and scene.bounds == (1.0, 2.0)
    assert scene.images.dtype == np.float32 and scene.points.shape == (4, 3) and scene.notices == ()
    assert repr(scene) == "Scene(scene: 3 views of 32x24)" and not scene.empty.any()
    some = scene.take([2, 0])
    assert some.names == ("2", "0") and len(some.cameras.translation) == 2
    np.testing.assert_array_equal(some.images, images[[2, 0]].astype(np.float32))
    small = scene.shrunk(16)
    np.testing.assert_array_equal(small.images[1], resize(scene.images[1], (12, 16)))
    np.testing.assert_array_equal(small.cameras.intrinsics[0], np.diag([0.5, 0.5, 1]) @ K)
    assert scene.shrunk(32) is scene
    assert scene_of(images, some_cameras(3), alphas=np.zeros((3, *SIZE))).empty.all()


@pytest.mark.parametrize(
    ("images", "cameras", "options", "message"),
    [
        (np.zeros((3, *SIZE, 4)), some_cameras(3), {}, "images: expected"),
        (np.zeros((1, *SIZE, 3)), some_cameras(1), {}, "of at least 2 views"),
        (np.zeros((3, *SIZE, 3)), some_cameras(2), {}, "cameras: expected a stack of 3"),
        (np.zeros((3, *SIZE, 3)), some_cameras(3)[0], {}, "cameras: expected a stack of 3"),
        (np.zeros((2, *SIZE, 3)), some_cameras(2), {"alphas": np.zeros((2, 5, 5))}, "alphas: expected"),
    ],
)
def test_arrays_that_are_no_scene(images, cameras, options, message):
    with pytest.raises(ValueError, match=message):
        scene_of(images, cameras, **options)


def test_a_resized_camera_sees_the_same():
    """One or a stack, numpy or JAX."""
    stack = some_cameras(2)
    for cameras in (stack, stack[0], jax.tree.map(jax.numpy.asarray, stack)):
        found = cameras.resized((24, 32), (12, 64))
        np.testing.assert_array_equal(found.intrinsics, np.diag([2, 0.5, 1]).astype(np.float32) @ cameras.intrinsics)
        np.testing.assert_array_equal(found.rotation, cameras.rotation)
        assert found.intrinsics.dtype == np.float32


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
    assert (scene.background == 1).all() and scene.splits.count("train") == 100 and scene.splits.count("test") == 25
    centers = np.asarray(scene.cameras.center)
    distance = np.linalg.norm(centers[:, None] - centers[None], axis=-1) + 9 * np.eye(len(centers))
    i, j = np.unravel_index(np.argmin(distance), distance.shape)
    pair = scene.take([i, j])
    assert match_error(*pair.images, pair.cameras[0], pair.cameras[1]) < 1.0
    view = scene.splits.index("train")
    transparent = np.asarray(Image.open(data_dir / "scenes" / "lego" / "train" / scene.names[view]))[..., 3] == 0
    np.testing.assert_array_equal(scene.empty[view], transparent)
    assert 0.5 < transparent.mean() < 0.9 and 0.5 < scene.shrunk(100).empty[view].mean() < transparent.mean()


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


def test_images_that_are_missing(folder):
    write_plain(folder)
    (folder / "images" / NAMES[1]).unlink()
    with pytest.raises(AirjaxError, match=r"001.png: expected an image of the pose file, found none"):
        load(folder)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_photograph_on_its_side_is_turned(folder, turns):
    """Oracle: the folder in which nobody turned it; the pose file is that of the turned camera."""
    write_plain(folder)
    content = json.loads((folder / "cameras.json").read_text())
    for frame in content["frames"]:
        frame["R"] = np.eye(3).tolist()
    (folder / "cameras.json").write_text(json.dumps(content))
    upright, path = load(folder), folder / "images" / NAMES[1]
    with Image.open(path) as image:
        pixels = np.asarray(image)
    camera = quarter_turns(jax.tree.map(np.float64, upright.cameras[1]), SIZE, turns)
    content["frames"][1] |= {
        "K": camera.intrinsics.tolist(),
        "R": camera.rotation.tolist(),
        "t": camera.translation.tolist(),
    }
    (folder / "cameras.json").write_text(json.dumps(content))
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns))).save(path)
    scene = load(folder)
    np.testing.assert_array_equal(scene.images, upright.images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), scene.cameras, upright.cameras)
    assert scene.masks is None and "1 photographs turned to stand as the others" in scene.notices


def write_turned(folder, turns, orientation=1, tagged=NAMES):
    """A COLMAP model of cameras that stand, and the images, both turned `turns` times, some with a tag."""
    standing = Rotation.from_euler("xz", [0.3, 0.2]).as_matrix()
    cameras = [quarter_turns(Camera(K, standing, t), SIZE, turns) for _, t in POSES]
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_images(folder / "images")
    for path in sorted((folder / "images").iterdir()):
        with Image.open(path) as image:
            pixels = np.rot90(np.asarray(image), turns)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif if path.name in tagged else None)
    poses = [(camera.rotation, camera.translation) for camera in cameras]
    size = SIZE if turns % 2 == 0 else SIZE[::-1]
    write_colmap(folder, binary=True, poses=poses, intrinsics=cameras[0].intrinsics, size=size)


@pytest.mark.parametrize(("turns", "orientation"), [(1, 6), (2, 3), (3, 8)])
def test_photographs_that_all_lie_on_their_side_are_turned_by_their_tags(tmp_path, turns, orientation):
    """Oracle: the same photographs stored as they stand, with the poses of those. The world stays what it is."""
    write_turned(tmp_path / "standing", 0)
    write_turned(tmp_path / "lying", turns, orientation)
    scene, expected = load(tmp_path / "lying"), load(tmp_path / "standing")
    np.testing.assert_array_equal(scene.images, expected.images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), scene.cameras, expected.cameras)
    assert scene.notices == (
        f"EXIF orientation {orientation} ignored, pixels read as stored",
        "3 photographs turned with their poses, as their EXIF orientation says",
    )


def test_one_tag_that_is_wrong_does_not_matter(tmp_path):
    """The poses tell that the photograph stands as the others do; and one without its tag lies as they did."""
    write_turned(tmp_path / "standing", 0, 6, NAMES[:1])
    write_turned(tmp_path / "lying", 1, 6, NAMES[1:])
    standing, lying = load(tmp_path / "standing"), load(tmp_path / "lying")
    np.testing.assert_array_equal(lying.images, standing.images)
    assert not any("turned" in line for line in standing.notices)
    assert lying.notices[-2:] == (
        "2 photographs turned with their poses, as their EXIF orientation says",
        "1 photographs turned to stand as the others",
    )


def test_quarter_turns_follow_the_pixels():
    """Oracle: `np.rot90` of a picture in which the pixel of a point is marked."""
    camera = jax.tree.map(np.float64, some_cameras(1)[0])
    point = camera.rotation.T @ (np.array([0.11, -0.05, 1.0]) * 3 - camera.translation)
    for k in range(5):
        turned = quarter_turns(camera, SIZE, k)
        seen = turned.intrinsics @ (turned.rotation @ point + turned.translation)
        marked = np.zeros(SIZE)
        x, y, z = camera.intrinsics @ (camera.rotation @ point + camera.translation)
        marked[int(y / z), int(x / z)] = 1
        assert np.rot90(marked, k)[int(seen[1] / seen[2]), int(seen[0] / seen[2])] == 1


def test_photographs_of_their_own_sizes(folder):
    """A narrow one beside wide ones: each lies in the upper left corner, and only there something is known."""
    write_plain(folder)
    write_images(folder / "images", [NAMES[1]], (32, 24))
    scene = load(folder)
    assert scene.images.shape == (3, 32, 32, 3) and scene.masks.sum() == 3 * 24 * 32
    assert scene.masks[0, :24].all() and scene.masks[1, :, :24].all()
    stored = np.asarray(Image.open(folder / "images" / NAMES[1]), np.float32) / 255
    np.testing.assert_allclose(scene.images[1, :, :24], stored, atol=1e-6)
    np.testing.assert_array_equal(scene.images[1, :, 24:], np.repeat(scene.images[1, :, 23:24], 8, axis=1))
    np.testing.assert_allclose(scene.cameras.intrinsics, np.tile(K, (3, 1, 1)), rtol=1e-6)
    assert "photographs of 2 sizes (32x24, 24x32), each used where it is" in scene.notices
    write_images(folder / "images", [NAMES[1]])
    assert load(folder).masks is None


@pytest.mark.parametrize("size", [(6, 10), (3, 5), (4, 7), (1, 1), (12, 25)])
def test_resized_pixels_are_means_over_their_areas(size):
    """Oracle: every pixel repeated so often that all edges fall between them."""
    image = np.random.default_rng(0).uniform(size=(6, 10, 3)).astype(np.float32)
    height, width = size
    fine = np.repeat(np.repeat(image.astype(float), height, axis=0), width, axis=1)
    expected = fine.reshape(height, 6, width, 10, 3).mean(axis=(1, 3))
    found = resize(image, size)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(resize(image[..., 0], size), found[..., 0])
