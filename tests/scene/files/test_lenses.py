"""Lenses: their formulas, photographs made flat, and what of them is seen."""

import numpy as np
import pytest
from PIL import Image
from pose_files import NAMES, write_images, write_transforms
from scipy.optimize import root

from airjax.errors import AirjaxError
from airjax.scene.files.lenses import MODELS, STRETCH, Lens, bend, source_places, undistort
from airjax.scene.files.photographs import load

# COLMAP's models: name, our lens, and the parameters after fx, fy, cx, cy.
COLMAP = [
    ("FULL_OPENCV", Lens("brown", (0.1, -0.02, 0.01, -0.02, 0.01, 0.3, 0.02, -0.01)), None),
    ("OPENCV_FISHEYE", Lens("fisheye", (0.1, -0.02, 0, 0, 0.01, 0.003)), (0.1, -0.02, 0.01, 0.003)),
    ("FISHEYE", Lens("fisheye"), ()),
    ("THIN_PRISM_FISHEYE", Lens("fisheye", (0.1, -0.02, 0.01, -0.02, 0.01, 0.003, 0.02, -0.01)), None),
    ("FOV", Lens("field of view", (0.9,)), None),
    ("DIVISION", Lens("division", (-0.1,)), None),
    ("EUCM", Lens("unified", (0.6, 1.1)), None),
]


@pytest.mark.parametrize(("name", "lens", "params"), COLMAP)
def test_lenses_are_those_of_colmap(name, lens, params):
    """Oracle: pycolmap's projection."""
    pycolmap = pytest.importorskip("pycolmap")
    if name not in pycolmap.CameraModelId.__members__:
        pytest.skip("a model of a later version")
    rays = np.random.default_rng(0).uniform(-1.2, 1.2, (500, 2))
    params = lens.numbers if params is None else params
    camera = pycolmap.Camera(model=name, width=640, height=480, params=[300, 310, 320, 240, *params])
    expected = camera.img_from_cam(np.concatenate([rays, np.ones((500, 1))], axis=1))
    u, v = bend(lens, *rays.T)
    np.testing.assert_allclose(np.stack([300 * u + 320, 310 * v + 240], axis=1), expected, atol=1e-7)


def test_fisheyes_measure_angles():
    """By the definition in OpenCV's documentation, of rays up to 89 degrees from the middle; the middle stays."""
    angle, turn = np.meshgrid(np.linspace(0.01, 1.55, 40), np.linspace(0, 6, 9))
    x, y = np.tan(angle) * np.cos(turn), np.tan(angle) * np.sin(turn)
    u, v = bend(Lens("fisheye", (0.1, -0.02, 0, 0, 0.01, 0.003)), x, y)
    distance = angle * (1 + 0.1 * angle**2 - 0.02 * angle**4 + 0.01 * angle**6 + 0.003 * angle**8)
    np.testing.assert_allclose(u, distance * np.cos(turn), atol=1e-12)
    np.testing.assert_allclose(v, distance * np.sin(turn), atol=1e-12)
    for model in MODELS:
        np.testing.assert_array_equal(bend(Lens(model), np.zeros(1), np.zeros(1)), np.zeros((2, 1)))


def test_lenses_that_bend_nothing():
    assert not Lens().bends and not Lens("brown", (0.0,) * 8).bends and not Lens("division", (0.0,)).bends
    assert Lens("brown", (0.0, 1e-3)).bends and Lens("fisheye").bends


def test_a_fisheye_made_flat():
    """Oracle: a smooth picture of the rays, seen through the lens by a root finder on the definition of the lens."""
    size, lens = (60, 80), Lens("fisheye", (0.05, 0.01, 0, 0, -0.005, 0.001))
    k = np.array([[36.0, 0, 41], [0, 37, 29], [0, 0, 1]])

    def picture(x, y):
        return np.sin(3 * np.arctan(x)) / 4 + np.cos(2 * np.arctan(y)) / 4 + 0.5

    x, y = np.meshgrid((np.arange(80) + 0.5 - 41) / 36, (np.arange(60) + 0.5 - 29) / 37)
    angle, seen = np.linspace(0, 1.5, 100_000), np.hypot(x, y)
    distance = angle * (1 + 0.05 * angle**2 + 0.01 * angle**4 - 0.005 * angle**6 + 0.001 * angle**8)
    assert (np.diff(distance) > 0).all() and seen.max() < distance[-1]
    scale = np.tan(np.interp(seen, distance, angle)) / seen
    found = undistort(picture(x * scale, y * scale).astype(np.float32), k, lens)
    assert np.abs(found - picture(x, y)).max() < 2e-3  # linear interpolation
    assert source_places(size, k, lens).seen.mean() > 0.99


def test_what_a_fisheye_shows():
    """The flat picture of 100 degrees is whole; of one of 130 degrees across the part that is stretched is left out."""
    for degrees in (100, 130):
        focal = 50 / np.tan(np.radians(degrees / 2))
        k = np.array([[focal, 0, 50], [0, focal, 1], [0, 0, 1]])
        seen = source_places((2, 100), k, Lens("fisheye")).seen[0]
        x = (np.arange(100) + 0.5 - 50) / focal
        np.testing.assert_array_equal(seen, np.abs(x) < np.sqrt(STRETCH - 1))  # 1 / (1 + x x) is that of the middle / 3
        assert seen.all() == (degrees == 100)


def test_what_other_lenses_show():
    """A pincushion needs what lies beyond the photograph; a lens that folds back shows what lies before the fold."""
    k = np.array([[50.0, 0, 50], [0, 50, 1], [0, 0, 1]])
    x = (np.arange(100) + 0.5 - 50) / 50
    seen = source_places((2, 100), k, Lens("brown", (0.1,))).seen[0]
    np.testing.assert_array_equal(seen, np.abs(x * (1 + 0.1 * (x**2 + 1e-4))) <= 1)
    seen = source_places((2, 100), k, Lens("brown", (-0.5,))).seen[0]
    edge = np.sqrt(2 / 3 / 1.5)  # where 1 - 1.5 x x is 1 / 3
    np.testing.assert_array_equal(seen, np.abs(x) < edge)
    assert not source_places((2, 100), k, Lens("brown", (float("nan"),))).seen.any()
    assert source_places((2, 100), k, Lens("brown", (1e-9,))).seen.all()


@pytest.mark.parametrize(
    "changes", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}, {"is_fisheye": 1, "camera_model": "OPENCV"}]
)
def test_a_folder_of_fisheyes(tmp_path, changes):
    """Pixels as `undistort` makes them; what is not seen is masked, and said."""
    write_images(tmp_path / "images")
    write_transforms(tmp_path, fl_x=9.0, fl_y=9.0, k1=0.02, k2=0.01, k3=0.002, k4=0.001, **changes)
    scene = load(tmp_path)
    lens, k = Lens("fisheye", (0.02, 0.01, 0, 0, 0.002, 0.001)), np.array([[9.0, 0, 15], [0, 9, 13], [0, 0, 1]])
    stored = np.asarray(Image.open(tmp_path / "images" / NAMES[1]), np.float32) / 255
    np.testing.assert_allclose(scene.images[1], undistort(stored, k, lens), atol=1e-6)
    seen = source_places((24, 32), k, lens).seen
    np.testing.assert_array_equal(scene.masks, np.repeat(seen[None], 3, axis=0))
    np.testing.assert_allclose(scene.cameras.intrinsics[2], k)
    first, *_, last = np.flatnonzero(seen[13])  # the row of the middle
    across = np.degrees(np.arctan((15 - first) / 9) + np.arctan((last + 1 - 15) / 9))
    flat = f"3 photographs of a fisheye or its like made flat: {across:.0f} degrees across are used"
    share = f"{100 * (1 - seen.mean()):.2g} % of the pixels of 3 photographs hidden, where their lens shows nothing"
    assert scene.notices == (flat, f"{share}, or stretched more than 3 times")


def test_a_lens_that_shows_nothing(tmp_path):
    """It is no camera's: the scene is refused in one line, or the view is left out by its name."""
    write_images(tmp_path / "images")
    write_transforms(tmp_path, k1=1e29)
    with pytest.raises(AirjaxError, match="expected at least 2 photographs that no mask or lens hides, found 0"):
        load(tmp_path)


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
    found = undistort(picture(u, v).astype(np.float32), intrinsics, Lens("brown", lens))
    error = np.abs(found - picture(x, y))[4:-4, 4:-4]
    assert error.max() < 0.01  # linear interpolation of waves of 50 pixels
    assert np.abs(picture(u, v) - picture(x, y)).max() > 0.05


def test_undistortion_inverts_the_rational_lens():
    """FULL_OPENCV: the inverse of the lens by a root finder on its definition in OpenCV's documentation."""
    h, w, lens = 24, 36, (0.3, -0.1, 0.01, -0.02, 0.02, 0.15, 0.05, -0.01)
    k1, k2, p1, p2, k3, k4, k5, k6 = lens
    intrinsics = np.array([[30.0, 0, 17], [0, 31, 13], [0, 0, 1]])

    def distort(point):
        u, v = point.reshape(2, -1)
        r2 = u**2 + v**2
        ratio = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        return np.stack(
            [u * ratio + 2 * p1 * u * v + p2 * (r2 + 2 * u**2), v * ratio + p1 * (r2 + 2 * v**2) + 2 * p2 * u * v]
        )

    def picture(x, y):
        return np.sin(3 * x) / 4 + np.cos(2 * y) / 4 + 0.5

    x, y = np.meshgrid((np.arange(w) + 0.5 - 17) / 30, (np.arange(h) + 0.5 - 13) / 31)
    seen = np.stack([x, y]).reshape(2, -1)
    rays = root(lambda p: (distort(p) - seen).ravel(), seen.ravel(), method="krylov", options={"fatol": 1e-9}).x
    u, v = rays.reshape(2, h, w)
    found = undistort(picture(u, v).astype(np.float32), intrinsics, Lens("brown", lens))
    error = np.abs(found - picture(x, y))[4:-4, 4:-4]
    assert error.max() < 0.002  # linear interpolation of waves of 60 pixels and more
    without = undistort(picture(u, v).astype(np.float32), intrinsics, Lens("brown", lens[:5]))
    assert np.abs(without - picture(x, y))[4:-4, 4:-4].max() > 0.004  # k4 to k6 are not nothing


def test_undistortion_is_bilinear():
    """Oracle: the interpolation by hand, edges continued, of an image and of its alpha."""
    rng = np.random.default_rng(0)
    image = rng.random((7, 9, 3)).astype(np.float32)
    intrinsics = np.array([[8.0, 0, 4], [0, 8, 3], [0, 0, 1]])
    k1 = 0.5
    x, y = np.meshgrid((np.arange(9) + 0.5 - 4) / 8, (np.arange(7) + 0.5 - 3) / 8)
    radial = 1 + k1 * (x * x + y * y)
    u, v = (np.clip(p * radial * 8 + c - 0.5, 0, n - 1) for p, c, n in ((x, 4, 9), (y, 3, 7)))
    i, j = np.floor(v).astype(int), np.floor(u).astype(int)
    down, right = np.minimum(i + 1, 6), np.minimum(j + 1, 8)
    a, b = (v - i)[..., None], (u - j)[..., None]
    upper, lower = (image[row, j] * (1 - b) + image[row, right] * b for row in (i, down))
    expected = upper * (1 - a) + lower * a
    found = undistort(image, intrinsics, Lens("brown", (k1,)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(undistort(image[..., 1], intrinsics, Lens("brown", (k1,))), found[..., 1])


def test_a_lens_beyond_all_numbers_is_survived():
    """Coordinates that overflow read the edge of the image, and nothing outside of it."""
    image = np.ones((5, 6, 3), np.float32)
    for lens in ((1e308, 1e308, 0, 0, 1e308), (1e308, -1e308, 1e308, -1e308, 1e308)):
        np.testing.assert_array_equal(undistort(image, np.eye(3), Lens("brown", lens)), image)
    np.testing.assert_array_equal(undistort(image, np.eye(3), Lens("brown", (0.0,) * 5 + (-1.0,))), image)  # a pole
