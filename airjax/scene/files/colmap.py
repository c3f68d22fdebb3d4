"""COLMAP's sparse models, binary and text: cameras, images, points. No number in a file is trusted."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from airjax.errors import AirjaxError
from airjax.files import display_name, read_bytes
from airjax.scene.files.lenses import Lens


class _Model(NamedTuple):
    """How the parameters of a camera stand for what we know."""

    name: str
    focal: tuple[int, ...]  # which of them are fx, fy, cx, cy
    length: int
    lens: str = "brown"  # of `airjax.scene.files.lenses.MODELS`
    numbers: tuple[int | None, ...] = ()  # which of them are its numbers; None for 0


_ONE, _TWO = (0, 0, 1, 2), (0, 1, 2, 3)
_MODELS = {  # by their numbers
    0: _Model("SIMPLE_PINHOLE", _ONE, 3),
    1: _Model("PINHOLE", _TWO, 4),
    2: _Model("SIMPLE_RADIAL", _ONE, 4, "brown", (3,)),
    3: _Model("RADIAL", _ONE, 5, "brown", (3, 4)),
    4: _Model("OPENCV", _TWO, 8, "brown", (4, 5, 6, 7)),
    5: _Model("OPENCV_FISHEYE", _TWO, 8, "fisheye", (4, 5, None, None, 6, 7)),
    6: _Model("FULL_OPENCV", _TWO, 12, "brown", tuple(range(4, 12))),
    7: _Model("FOV", _TWO, 5, "field of view", (4,)),
    8: _Model("SIMPLE_RADIAL_FISHEYE", _ONE, 4, "fisheye", (3,)),
    9: _Model("RADIAL_FISHEYE", _ONE, 5, "fisheye", (3, 4)),
    10: _Model("THIN_PRISM_FISHEYE", _TWO, 12, "fisheye", tuple(range(4, 12))),
    12: _Model("SIMPLE_DIVISION", _ONE, 4, "division", (3,)),
    13: _Model("DIVISION", _TWO, 5, "division", (4,)),
    14: _Model("SIMPLE_FISHEYE", _ONE, 3, "fisheye"),
    15: _Model("FISHEYE", _TWO, 4, "fisheye"),
    16: _Model("EUCM", _TWO, 6, "unified", (4, 5)),
}
_OTHERS = {11: "RAD_TAN_THIN_PRISM_FISHEYE", 17: "EQUIRECTANGULAR"}
_BY_NAME = {model.name: number for number, model in _MODELS.items()}


class ColmapCamera(NamedTuple):
    """Intrinsics (3, 3), the (h, w) they are for, and the lens."""

    intrinsics: np.ndarray
    size: tuple[float, float]
    lens: Lens


class ColmapImage(NamedTuple):
    """An image's name, the number of its camera, and its pose, world to camera, float64."""

    name: str
    camera: int
    rotation: np.ndarray
    translation: np.ndarray


class ColmapModel(NamedTuple):
    """Cameras by their number, images in the order of the file, points (p, 3)."""

    cameras: dict[int, ColmapCamera]
    images: list[ColmapImage]
    points: np.ndarray


def read_colmap(folder: Path) -> ColmapModel:
    """The model in a folder: cameras and images, and points where there are some; .bin goes before .txt."""
    binary = (folder / "cameras.bin").is_file()
    suffix = ".bin" if binary else ".txt"
    files = {name: folder / f"{name}{suffix}" for name in ("cameras", "images", "points3D")}
    for name in ("cameras", "images"):
        if not files[name].is_file():
            raise AirjaxError(f"{display_name(files[name])}: expected a file of the COLMAP model, found none")
    readers = (_cameras, _images, _points) if binary else (_cameras_text, _images_text, _points_text)
    cameras, images = _guarded(readers[0], files["cameras"]), _guarded(readers[1], files["images"])
    points = _guarded(readers[2], files["points3D"]) if files["points3D"].is_file() else np.zeros((0, 3))
    for image in images:
        if image.camera not in cameras:
            raise AirjaxError(f"{display_name(files['images'])}: expected a known camera, got number {image.camera}")
    return ColmapModel(cameras, images, points)


def _guarded(reader, file: Path):
    try:
        return reader(file)
    except AirjaxError:
        raise
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise AirjaxError(f"{display_name(file)}: damaged or cut short, expected a whole COLMAP file") from error


def _camera(model: int, size, params, file: Path) -> ColmapCamera:
    if model not in _MODELS:
        raise _unknown_model(_OTHERS.get(model, f"model number {model}"), file)
    known = _MODELS[model]
    if len(params) != known.length:
        raise ValueError("parameters")
    fx, fy, cx, cy = (float(params[i]) for i in known.focal)
    lens = Lens(known.lens, tuple(0.0 if i is None else float(params[i]) for i in known.numbers))
    width, height = map(float, size)
    return ColmapCamera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), (height, width), lens)


def _unknown_model(model: str, file: Path) -> AirjaxError:
    expected = f"expected a camera of {', '.join(sorted(_BY_NAME))}"
    return AirjaxError(f"{display_name(file)}: {expected}, got {model[:40]}; undistort the images first")


def _image(name: str, camera: int, pose) -> ColmapImage:
    """`pose` is a quaternion w x y z of any length, and a translation; one that is no rotation becomes NaN."""
    w, x, y, z, *translation = map(_float, pose)
    if len(translation) != 3:
        raise ValueError("a pose of other than 7 numbers")
    length = math.hypot(w, x, y, z)
    if 0 < length < math.inf:
        rotation = Rotation.from_quat(np.array([x, y, z, w]) / length).as_matrix()
    else:
        rotation = np.full((3, 3), np.nan)
    return ColmapImage(name, camera, rotation, np.array(translation))


def _float(word: str | float) -> float:
    """A number; NaN as Windows prints it, -nan(ind), too."""
    return math.nan if isinstance(word, str) and word.lower().startswith(("nan(", "-nan(")) else float(word)


def count_images(folder: Path) -> int:
    """How many images the model in a folder has."""
    file = folder / "images.bin"
    if (folder / "cameras.bin").is_file():
        return len(_guarded(_images, file))
    return len(_guarded(_images_text, file.with_suffix(".txt")))


class _Bytes:
    """A cursor over bytes; `struct.error` where they end early."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, form: str) -> tuple:
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def skip(self, count: int, size: int) -> None:
        if count * size > len(self.data) - self.at:
            raise struct.error("too short")
        self.at += count * size

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        text = self.data[self.at : end].decode()
        self.at = end + 1
        return text


def _cameras(file: Path) -> dict[int, ColmapCamera]:
    data = _Bytes(read_bytes(file))
    cameras = {}
    for _ in range(data.take("Q")[0]):
        number, model, width, height = data.take("iiQQ")
        count = _MODELS[model].length if model in _MODELS else 0
        cameras[number] = _camera(model, (width, height), data.take(f"{count}d"), file)
    return cameras


def _images(file: Path) -> list[ColmapImage]:
    data = _Bytes(read_bytes(file))
    images = []
    for _ in range(data.take("Q")[0]):
        _, *pose, camera = data.take("i7di")
        name = data.text()
        data.skip(data.take("Q")[0], 24)
        images.append(_image(name, camera, pose))
    return images


def _points(file: Path) -> np.ndarray:
    data = _Bytes(read_bytes(file))
    points = []
    for _ in range(data.take("Q")[0]):
        _, x, y, z, _, _, _, _ = data.take("Q3d3Bd")
        data.skip(data.take("Q")[0], 8)
        points.append((x, y, z))
    return np.array(points, float).reshape(-1, 3)


def _lines(file: Path) -> list[str]:
    """The lines that are no comments, empty ones included; a byte order mark is no part of them."""
    lines = read_bytes(file).decode("utf-8-sig").split("\n")
    return [line.strip() for line in lines if not line.startswith("#")]


def _cameras_text(file: Path) -> dict[int, ColmapCamera]:
    cameras = {}
    for line in filter(None, _lines(file)):
        number, name, width, height, *params = line.split()
        model = _BY_NAME.get(name)
        if model is None:
            raise _unknown_model(name, file)
        cameras[int(number)] = _camera(model, (float(width), float(height)), params, file)
    return cameras


def _images_text(file: Path) -> list[ColmapImage]:
    """Two lines an image; the second, its points, may be empty or missing. A name goes to the end of its line."""
    images, after_image = [], False
    for line in _lines(file):
        if line and not (after_image and _holds_points(line)):
            _, *pose, camera, name = line.split(maxsplit=9)
            images.append(_image(name, int(camera), pose))
            after_image = True
        else:
            after_image = False
    return images


def _holds_points(line: str) -> bool:
    """Whether a line of images.txt is made of X Y POINT, and not of an image with a name at its end."""
    words = line.split()
    try:
        for word in words[:60]:  # a name of more words than that is none
            _float(word)
    except ValueError:
        return False
    return len(words) % 3 == 0


def _points_text(file: Path) -> np.ndarray:
    """An empty file, as COLMAP asks for beside known poses, holds no points."""
    if file.stat().st_size == 0:
        return np.zeros((0, 3))
    return np.array([line.split()[1:4] for line in filter(None, _lines(file))], float).reshape(-1, 3)
