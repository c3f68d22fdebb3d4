"""Scenes to train on: procedural ones, made in the step itself, and crops of real ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from airjax.errors import AirjaxError
from airjax.scene.procedural import Views, noise_textures, random_views
from train.scene.crops import PosedScene, sample

TEXTURE = 64  # pixels


@dataclass(frozen=True)
class SceneData:
    """Where scenes come from."""

    photographs: str | None  # folder whose images are the textures of procedural scenes; None for coloured noise
    held_out: int = 10  # every so many-th photograph is kept for test scenes
    image_size: tuple[int, int] = (64, 64)  # (h, w) pixels of the views
    # context, targets: views that are given, and views that are judged
    context: int = 2
    targets: int = 2
    batch_size: int = 4  # scenes of a step
    scenes: tuple[str, ...] = ()  # folders of real scenes, some crops of which are seen beside the procedural ones
    real: int = 0  # how many of the scenes of a step are real ones
    seed: int = 0  # of everything random

    def __post_init__(self):
        if not 0 <= self.real <= self.batch_size or (self.real and not self.scenes):
            raise AirjaxError(f"real: expected scenes, and at most {self.batch_size} of a step, got {self.real}")


def texture_atlas(data: SceneData, *, test: bool = False) -> np.ndarray:
    """(T, 64, 64, 3) uint8 squares cut out of photographs, two of each; those for testing are of other photographs.

    Raises AirjaxError: no images in the folder.
    """
    if data.photographs is None:
        return np.round(255 * np.asarray(noise_textures(jax.random.key(int(test)), 32))).astype(np.uint8)
    files = sorted(p for p in Path(data.photographs).glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = [file for i, file in enumerate(files) if (i % data.held_out == 0) == test]
    if not chosen:
        raise AirjaxError(f"{data.photographs}: expected a folder of photographs, found {len(files)}")
    rng, atlas = np.random.default_rng(data.seed), []
    for file in chosen:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        for _ in range(2):
            side = int(rng.integers(min(160, *image.size), min(image.size) + 1))
            left, top = (int(rng.integers(0, size - side + 1)) for size in image.size)
            part = image.crop((left, top, left + side, top + side))
            atlas.append(np.asarray(part.resize((TEXTURE, TEXTURE), Image.Resampling.BOX)))
    return np.stack(atlas)


def batches(data: SceneData, scenes: Sequence[PosedScene], start_step: int) -> Iterator[dict[str, Any]]:
    """The "seeds" of the procedural scenes of a step, and the views of "real" ones; they depend on the step alone."""
    for step in itertools.count(start_step):
        rng = np.random.default_rng((data.seed, step))
        batch = {"seeds": rng.integers(2**32, size=data.batch_size - data.real, dtype=np.uint32)}
        if data.real:
            options = {"num_views": data.context + data.targets, "image_size": data.image_size}
            samples = [sample(rng, scenes[rng.integers(len(scenes))], **options) for _ in range(data.real)]
            batch["real"] = jax.tree.map(lambda *leaves: np.stack(leaves), *samples)
        yield batch


def split_views(views: Views, context: int) -> tuple[Views, Views]:
    """The first `context` views, and the others."""

    def part(index):
        images, depths, cameras = jax.tree.map(lambda leaf: leaf[index], (views.images, views.depths, views.cameras))
        return views._replace(images=images, depths=depths, cameras=cameras)

    return part(slice(None, context)), part(slice(context, None))


def draw_views(data: SceneData, atlas: jax.Array, seed: jax.Array) -> Views:
    """The views of the procedural scene of a seed, context and targets."""
    num_views = data.context + data.targets
    return random_views(jax.random.key(seed), atlas, image_size=data.image_size, num_views=num_views)
