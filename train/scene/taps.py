"""Scenes as frozen backbones see them, kept on disk: a head is then trained without running its backbone.

A file holds one scene: its views, and what the backbone made of them, token maps (taps) as bfloat16. The name of the
file has a hash of the weights, the settings and the photographs; whatever is there already is not made again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors
from PIL import Image
from safetensors.numpy import save
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, read_bytes
from airjax.photographs import IMAGE_SUFFIXES, read_image
from airjax.scene.cameras import Camera
from airjax.scene.pi3 import Seen
from airjax.scene.procedural import random_views
from airjax.scene.unposed import AnySplatSystem, Pi3System
from airjax.weights_file import load_weights, weights_hash
from train.scene.data import SceneData, texture_atlas
from train.settings import check_divides, where

_FOLDERS = "images", "rgb", "color"  # where photographs lie inside a scene's folder, if not in itself
_TYPES = {"BF16": ml_dtypes.bfloat16, "F32": np.float32}


@dataclass(frozen=True)
class TapData:
    """Scenes for a frozen backbone. All views of a scene pass it together, in the paper 16; no poses are needed."""

    system: Pi3System | AnySplatSystem
    backbone: str = where("")  # its weights file (`airjax convert`); "" for fresh weights, which see nothing
    scenes: tuple[str, ...] = where(())  # folders of photographs, one for each scene
    made_up: int = 0  # number of procedural scenes that are made up where no folder is given
    folder: str = where("taps")  # where what is seen is kept
    image_size: tuple[int, int] = (224, 224)  # (h, w) pixels; photographs are resized, and cut at their edges
    views: int = 16  # of a scene, evenly spaced among its photographs
    every: int = 4  # every so many-th view is judged, and shows Gaussians nothing; 0 to judge the given ones
    batch_size: int = 1  # scenes of a step
    seed: int = 0  # of the order of the scenes, and of fresh weights

    @property
    def judged(self) -> list[int]:
        """Numbers of the views that are judged, as the paper has it: the 4th, the 8th, .."""
        return list(range(self.views))[self.every - 1 :: self.every] if self.every else []

    @property
    def context(self) -> int:
        """Number of views that are given."""
        return self.views - len(self.judged)

    def content(self) -> str:
        """What was seen, wherever it lies."""
        return " ".join(file.name for file in self.files())

    def check_divides(self, num_devices: int) -> None:
        """Refuse scenes of a step that do not divide among so many devices. Raises AirjaxError: names the flag."""
        check_divides(self.batch_size, num_devices, "--data.batch-size")

    def files(self) -> tuple[Path, ...]:
        """A file for each scene, as `read_seen` reads it; runs the backbone on scenes without one.

        Raises AirjaxError: no scenes, too few photographs, or weights that do not fit.
        """
        found = _files(self)
        if not all(file.exists() for file in found):  # they were deleted, or this is another working folder
            _files.cache_clear()
            found = _files(self)
        return found


@cache
def _files(data: TapData) -> tuple[Path, ...]:
    sources = list(_scenes(data))
    state = weights_hash(data.backbone) if data.backbone else f"fresh {data.seed}"
    settings = f"{type(data.system).__name__} {asdict(data.system)} {state}"
    see, files = _Eyes(data), []
    for name, images in tqdm(sources, desc="seen", unit="scene", disable=None):
        digest = hashlib.sha256(settings.encode() + images.tobytes()).hexdigest()[:16]
        file = Path(data.folder) / f"{name}-{digest}.safetensors"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_seen(file, see(images))
        files.append(file)
    return tuple(files)


class _Eyes:
    """The backbone, whose weights are read when the first scene has to be seen."""

    def __init__(self, data: TapData):
        self._data, self._params = data, None
        self._see = jax.jit(data.system.see)

    def __call__(self, images: np.ndarray) -> Seen:
        if self._params is None:
            self._params = self._load()
        return jax.device_get(self._see(self._params, jnp.asarray(images)))

    def _load(self) -> Any:
        system, file = self._data.system, self._data.backbone
        if not file:
            return jax.jit(system.init_backbone)(jax.random.key(self._data.seed))
        like = jax.eval_shape(system.init_backbone, jax.random.key(0))
        params, _ = load_weights(file)
        if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, like):
            raise AirjaxError(f"{file}: expected weights of the backbone of {type(system).__name__}, got others")
        return jax.tree.map(jnp.asarray, params)


def write_seen(file: Path, seen: Seen) -> None:
    """A scene as safetensors."""
    arrays = {"images": seen.images, "points": seen.points, "confidence": seen.confidence}
    arrays |= {name: getattr(seen.cameras, name) for name in ("intrinsics", "rotation", "translation")}
    parts = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    if bad := [name for name, array in parts.items() if not np.isfinite(array).all()]:
        raise AirjaxError(f"{file}: expected finite numbers of the backbone, got others: {', '.join(bad)}")
    parts |= {f"tap{i}": np.asarray(tap).astype(ml_dtypes.bfloat16) for i, tap in enumerate(seen.taps)}
    atomic_write_bytes(file, save(parts))


def read_seen(file: Path) -> Seen:
    """The inverse of `write_seen`; numpy arrays, taps as bfloat16. Raises AirjaxError: a damaged or foreign file."""
    try:
        found = safetensors.deserialize(read_bytes(file))
        parts = {
            name: np.frombuffer(part["data"], _TYPES[part["dtype"]]).reshape(part["shape"]) for name, part in found
        }
        cameras = Camera(parts["intrinsics"], parts["rotation"], parts["translation"])
        taps = [parts[f"tap{i}"] for i in range(sum(name.startswith("tap") for name in parts))]
        return Seen(parts["images"], cameras, parts["points"], parts["confidence"], taps)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise AirjaxError(f"{file}: expected what a backbone saw, got something else ({error}); delete it") from error


def batches(data: TapData, start_step: int) -> Iterator[Seen]:
    """The scenes of every step (b, v, ..), the judged views last; every pass over the scenes has its own order."""
    files = data.files()
    for step in itertools.count(start_step):
        numbers = range(step * data.batch_size, (step + 1) * data.batch_size)
        scenes = [read_seen(files[_shuffled(data.seed, n // len(files), len(files))[n % len(files)]]) for n in numbers]
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *scenes)


def _shuffled(seed: int, turn: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, turn)).permutation(count)


# --- photographs -----------------------------------------------------------------------------------------------------


def _scenes(data: TapData) -> Iterator[tuple[str, np.ndarray]]:
    """(name, images (v, h, w, 3)), the judged views last."""
    if not data.scenes and not data.made_up:
        raise AirjaxError("expected folders of photographs, got none; give --data.scenes SCENE ...")
    given = [i for i in range(data.views) if i not in data.judged]
    makers: Sequence[Callable[[], tuple[str, np.ndarray]]]
    if data.scenes:
        makers = [partial(_photographs, data, Path(folder)) for folder in data.scenes]
    else:
        atlas = jnp.asarray(texture_atlas(SceneData(made_up=20)), jnp.float32) / 255
        draw = jax.jit(partial(random_views, image_size=data.image_size, num_views=data.views))
        makers = [
            lambda i=i: (f"made-up-{i}", np.asarray(draw(jax.random.key(i), atlas).images)) for i in range(data.made_up)
        ]
    for make in makers:
        name, images = make()
        yield name, images[given + data.judged]


def _photographs(data: TapData, folder: Path) -> tuple[str, np.ndarray]:
    """Photographs of a scene, evenly spaced in the order of their names."""
    inside = next((folder / name for name in _FOLDERS if (folder / name).is_dir()), folder)
    found = sorted(file for file in inside.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if len(found) < data.views:
        raise AirjaxError(f"{inside}: expected at least {data.views} photographs, found {len(found)}")
    chosen = np.linspace(0, len(found) - 1, data.views).round().astype(int)
    return folder.resolve().name, np.stack([_cut(read_image(found[i]).pixels, data.image_size) for i in chosen])


def _cut(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of an image, as large as it can be, at a size (h, w)."""
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    half = size[1] / scale / 2, size[0] / scale / 2
    box = width / 2 - half[0], height / 2 - half[1], width / 2 + half[0], height / 2 + half[1]
    picture = Image.fromarray(np.rint(255 * image).astype(np.uint8))
    resized = picture.resize(size[::-1], Image.Resampling.LANCZOS, box=tuple(max(0.0, side) for side in box))
    return np.asarray(resized).astype(np.float32) / 255
