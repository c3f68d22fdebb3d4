"""Networks of others with seeded weights: their golden files hold names, shapes and outputs; weights are drawn again.

Default initialisation hides faults: gains near 0, biases of 0. So gains are drawn in [0.3, 1.5], tokens and positions
with a standard deviation of 0.5, and everything with one axis gets noise.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "parity"


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of a tensor, of its name and shape alone; from an old generator, whose numbers never change."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    noise = rng.standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if last.startswith("gamma") or "layer_scale" in name:
        weights = rng.uniform(0.3, 1.5, shape)
    elif "token" in last or "pos_embed" in last:
        weights = 0.5 * noise
    elif len(shape) == 1:
        weights = (last == "weight") + 0.2 * noise
    else:
        fan_in = shape[0] if "transpose" in name else int(np.prod(shape[1:]))
        weights = noise / max(fan_in, 1) ** 0.5
    if "pose_branch.fc2" in name:  # cameras that look forwards, fields of view far from 0 and from pi
        weights = 0.1 * weights + (_CAMERA if len(shape) == 1 else 0)
    return np.asarray(weights, np.float32)


_CAMERA = np.array([0, 0, 0.1, 0, 0, 0, 0.25, 0.2, 0.25])  # what each of four rounds adds


def images(count: int, height: int, width: int) -> np.ndarray:
    """(count, h, w, 3) pictures: multiples of 1 / 256, smooth and not, so that rounding to bfloat16 changes nothing."""
    rng = np.random.RandomState(count + 10 * height + 1000 * width)
    y, x = np.mgrid[:height, :width] / 16
    waves = np.sin(y[None, ..., None] * rng.uniform(0.3, 2, (count, 1, 1, 3)) + x[None, ..., None])
    noise = rng.standard_normal((count, height, width, 3))
    return np.round(np.clip(0.5 + 0.3 * waves + 0.1 * noise, 0, 1) * 255).astype(np.float32) / 256


def tokens(number: int, *shape: int) -> np.ndarray:
    """Tokens of a number and shape."""
    return np.random.RandomState(number).standard_normal(shape).astype(np.float32)


def save(name: str, shapes: dict[str, tuple[int, ...]], outputs: dict[str, np.ndarray]) -> None:
    """Write a golden file; of large outputs see `sampled`."""
    text = np.frombuffer(json.dumps({k: list(v) for k, v in shapes.items()}).encode(), np.uint8)
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{name}.npz", shapes=text, **outputs)


def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(tensors under their official names, outputs) of a golden file."""
    with np.load(FOLDER / f"{name}.npz") as file:
        shapes = json.loads(bytes(file["shapes"]))
        outputs = {key: file[key] for key in file.files if key != "shapes"}
    return {key: seeded(key, tuple(shape)) for key, shape in shapes.items()}, outputs


def sampled(output: np.ndarray, count: int = 2000) -> np.ndarray:
    """Some numbers of a large output, the same ones each time."""
    flat = np.asarray(output).ravel()
    if flat.size <= count:
        return flat
    return flat[np.sort(np.random.RandomState(0).choice(flat.size, count, replace=False))]


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference from a golden output (`sampled`), relative to its largest value."""
    theirs = np.asarray(theirs, np.float64)
    return float(np.abs(sampled(ours).astype(np.float64) - theirs.ravel()).max() / np.abs(theirs).max())
