"""Small weights, textures and scenes, drawn by numpy: little has to be compiled for them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from airjax.image import stages
from airjax.image.patches import PatchMap
from airjax.image.presets import stages_to_text
from airjax.nn.air_stage import PredictorConfig as StageNetwork
from airjax.scene.cameras import Camera
from airjax.scene.files.photographs import scene_of
from airjax.scene.predictor import PredictorConfig, config_to_text, init_params
from airjax.scene.procedural import Views, random_views
from airjax.weights_file import save_weights

STAGES = (stages.StageConfig(PatchMap(8, offset=0.75, min_scale=0.5, max_scale=4.2), StageNetwork(8, 1)),) * 2
SCENE_PREDICTOR = PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16))
VIEW_SIZE, NUM_VIEWS = (32, 48), 6  # of `save_scene`


def random_weights(config: PredictorConfig, seed: int = 0):
    """Weights of a scene predictor."""
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    return _normal(shapes, 0.05, seed)


def save_image_weights(path: Path) -> Path:
    """Random weights of `STAGES` as a file."""
    shapes = jax.eval_shape(lambda: stages.init_params(jax.random.key(0), STAGES))
    save_weights(path, _normal(shapes, 0.1), {"stages": stages_to_text(STAGES)})
    return path


def save_scene_weights(path: Path) -> Path:
    """Random weights of `SCENE_PREDICTOR` as a file."""
    save_weights(path, random_weights(SCENE_PREDICTOR), {"predictor": config_to_text(SCENE_PREDICTOR)})
    return path


def save_scene(folder: Path) -> Path:
    """A new folder with a procedural scene as photographs, plain cameras and bounds."""
    made = room_views()
    folder.mkdir()
    frames = []
    for i, image in enumerate(made.images):
        Image.fromarray(np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)).save(folder / f"{i}.png")
        camera = made.cameras[i]
        parts = {"K": camera.intrinsics, "R": camera.rotation, "t": camera.translation}
        frame = {key: np.asarray(value).tolist() for key, value in parts.items()}
        frames.append({"file_path": f"{i}.png", "w": VIEW_SIZE[1], "h": VIEW_SIZE[0], **frame})
    content = {"frames": frames, "near": float(made.near), "far": float(made.far)}
    (folder / "cameras.json").write_text(json.dumps(content))
    return folder


def _normal(shapes, scale: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, scale, leaf.shape).astype(np.float32), shapes)


def noise_atlas(count: int = 16, seed: int = 0) -> jax.Array:
    """(count, 64, 64, 3) textures in [0, 1]: coloured squares of several sizes, added."""
    rng = np.random.default_rng(seed)
    total = np.full((count, 64, 64, 3), 0.5, np.float32)
    for i, cells in enumerate((2, 4, 8, 16, 32)):
        noise = rng.uniform(-1, 1, (count, cells, cells, 3)).repeat(64 // cells, axis=1).repeat(64 // cells, axis=2)
        total += 0.35 * 0.75**i * noise.astype(np.float32)
    return jnp.asarray(np.clip(total, 0, 1))


@cache
def room_views() -> Views:
    """Views of a procedural room with their depths, numpy arrays."""
    atlas = noise_atlas()
    made = jax.jit(lambda key: random_views(key, atlas, image_size=VIEW_SIZE, num_views=NUM_VIEWS))(jax.random.key(3))
    return jax.tree.map(np.asarray, made)


def blank_scene(count=9, **fields):
    """Black photographs of cameras in a row."""
    centers = np.stack([np.arange(count), np.zeros(count), np.zeros(count)], axis=1)
    k = np.array([[20.0, 0, 12], [0, 20, 8], [0, 0, 1]])
    parts = np.tile(k, (count, 1, 1)), np.tile(np.eye(3), (count, 1, 1)), -centers
    cameras = Camera(*(part.astype(np.float32) for part in parts))
    return replace(scene_of(np.zeros((count, 16, 24, 3)), cameras), **fields)
