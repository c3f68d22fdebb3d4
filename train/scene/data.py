"""Scenes to train on: procedural ones, made in the step itself, and crops of real ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from airjax.errors import AirjaxError
from airjax.scene.captures import random_world_views
from airjax.scene.procedural import Views, random_views
from train.photographs import content, find_photographs, open_photographs
from train.scene.crops import PosedScene, load_posed, make_up_posed, sample
from train.settings import check_divides, where

TEXTURE = 64  # pixels; textures are as large as the views, but at least so large


@dataclass(frozen=True)
class SceneData:
    """Where scenes come from."""

    folders: tuple[str, ...] = where(())  # of photographs, searched recursively, whose parts are textures of scenes
    made_up: int = 0  # number of pictures that are made up where no folder is given
    held_out: int = 10  # every so many-th photograph is kept for test scenes
    image_size: tuple[int, int] = (64, 64)  # (h, w) pixels of the views
    # context, targets: views that are given, and views that are judged
    context: int = 3
    targets: int = 1
    batch_size: int = 2  # scenes of a step
    rooms: int = 1  # how many of the scenes of a step are plain rooms, as tests have them; the others are of all kinds
    scenes: tuple[str, ...] = where(())  # folders of real scenes, as `airjax reconstruct` reads them
    real: int = 0  # how many of the scenes of a step are real ones, crops of `scenes`; the others are procedural
    seed: int = 0  # of everything random

    def __post_init__(self):
        if min(self.real, self.rooms) < 0 or self.real + self.rooms > self.batch_size:
            raise AirjaxError(
                f"real and rooms: expected at most {self.batch_size} scenes of a step, got {self.real} and {self.rooms}"
            )

    def open_scenes(self) -> list[PosedScene]:
        """The real scenes, or a made-up one beside made-up pictures; none where no step has one.

        Raises AirjaxError: no folder is given; as `train.scene.crops.load_posed`.
        """
        if not self.real:
            return []
        if self.scenes:
            return [load_posed(folder) for folder in self.scenes]
        if self.made_up:
            return [make_up_posed(texture_atlas(self))]
        raise AirjaxError("expected folders of real scenes, got none; give --data.scenes SCENE ..., or --data.real 0")

    def content(self) -> str:
        """What is in the folders, wherever they lie; see `train.photographs.content`."""
        files = find_photographs(self.folders) if self.folders else ()
        parts = [content(self.folders, files) if files else "made up"]
        if self.real:
            found = [file for folder in self.scenes for file in sorted(Path(folder).rglob("*")) if file.is_file()]
            parts.append(content(self.scenes, found))
        return " ".join(parts)

    def check_divides(self, num_devices: int) -> None:
        """Refuse scenes of a step that do not divide among so many devices. Raises AirjaxError: names the flag."""
        check_divides(self.real, num_devices, "--data.real")
        check_divides(self.batch_size, num_devices, "--data.batch-size")


def texture_atlas(data: SceneData, *, test: bool = False) -> np.ndarray:
    """(T, s, s, 3) uint8 squares cut out of photographs, two of each; those for testing are of other photographs.

    s is the longer side of the views, at least 64.

    Raises AirjaxError: as `train.photographs.open_photographs`, or too few of them.
    """
    photographs = open_photographs(data.folders, made_up=data.made_up, cache_mb=0)
    chosen = [i for i in range(len(photographs)) if (i % data.held_out == 0) == test]
    if not chosen:
        raise AirjaxError(f"{data.folders[0]}: expected photographs for training and for test scenes, found one")
    rng, atlas, texture = np.random.default_rng(data.seed), [], max(TEXTURE, *data.image_size)
    for index in chosen:
        image = Image.fromarray(photographs[index])
        for _ in range(2):
            side = int(rng.integers(min(160, *image.size), min(image.size) + 1))
            left, top = (int(rng.integers(0, size - side + 1)) for size in image.size)
            part = image.crop((left, top, left + side, top + side))
            atlas.append(np.asarray(part.resize((texture, texture), Image.Resampling.BOX)))
    return np.stack(atlas)


def batches(data: SceneData, scenes: Sequence[PosedScene], start_step: int) -> Iterator[dict[str, Any]]:
    """The "seeds" of the procedural scenes of a step, and the views of "real" ones; they depend on the step alone."""
    for step in itertools.count(start_step):
        rng = np.random.default_rng((data.seed, step))
        batch = {"seeds": rng.integers(2**32, size=data.batch_size - data.real, dtype=np.uint32)}
        if data.real:
            options = {"num_views": data.context + data.targets, "image_size": data.image_size}
            samples = [sample(rng, scenes[rng.integers(len(scenes))], **options) for _ in range(data.real)]
            batch["real"] = jax.tree.map(lambda *leaves: np.stack(leaves), *map(_with_own_ranges, samples))
        yield batch


def _with_own_ranges(views: Views) -> Views:
    """The same with near and far of every view."""
    near, far = (np.full(len(views.images), bound, np.float32) for bound in (views.near, views.far))
    return views._replace(near=near, far=far)


def split_views(views: Views, context: int) -> tuple[Views, Views]:
    """The first `context` views, and the others; near and far are those of every view."""
    return jax.tree.map(lambda leaf: leaf[:context], views), jax.tree.map(lambda leaf: leaf[context:], views)


def draw_scenes(data: SceneData, atlas: jax.Array, seeds: jax.Array, *, rooms: int) -> Views:
    """The views (n, v, ..) of the procedural scenes of seeds (n,), context and targets; near and far of every view.

    The first `rooms` are plain rooms, the others are of all kinds. `atlas` is (T, s, s, 3) in [0, 1].
    """
    num_views = data.context + data.targets
    options = {"image_size": data.image_size, "num_views": num_views}

    def room(seed):
        views = random_views(jax.random.key(seed), atlas, **options)
        near, far = (jnp.broadcast_to(bound, (num_views,)) for bound in (views.near, views.far))
        return views._replace(near=near, far=far)

    def world(seed):
        return random_world_views(jax.random.key(seed), atlas, given=data.context, **options)

    kinds = (room, seeds[:rooms]), (world, seeds[rooms:])
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(jax.vmap(f)(part) for f, part in kinds if len(part)))


def random_sets(key: jax.Array, views: int) -> tuple[jax.Array, jax.Array]:
    """(`sets` (v, v) of `airjax.scene.predictor.predict`, which of the v views give Gaussians): any number compared.

    A view is compared with one to all of the others, drawn at random; rows are filled with repeated ones. One time in
    three there are just the first two views, compared with each other; one time in three the first view gives all
    Gaussians, which must cover what it sees without those of others, as they do once repeated ones are joined
    (`airjax.scene.fusion`).
    """
    keys = jax.random.split(key, 3)
    number = jnp.arange(views)
    order = jax.random.uniform(keys[0], (views, views)) + 10.0 * jnp.eye(views)
    kind = jax.random.randint(keys[1], (), 0, 3)
    pair, alone = kind == 0, kind == 1
    partner = jnp.where(number == 0, 1, 0)
    order = jnp.where(pair & (number[None] == partner[:, None]), -1.0, order)
    count = jnp.where(pair, 1, jax.random.randint(keys[2], (views,), 1, views))
    columns = jnp.mod(jnp.arange(views - 1)[None], count[:, None])
    others = jnp.take_along_axis(jnp.argsort(order, axis=1), columns, axis=1)
    given = jnp.where(pair, number < 2, jnp.where(alone, number < 1, True))
    return jnp.concatenate([number[:, None], others], axis=1), given
