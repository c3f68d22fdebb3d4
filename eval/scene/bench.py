"""Times of the alpha renderer: forward with the loss, and with its gradient, beside the speed of the machine.

The Gaussians are like those of the scene predictor: one per cell of pixels of two views, at the depths of a procedural
scene.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D
from airjax.raster.tiles import CHUNK
from airjax.scene.cameras import unproject
from airjax.scene.harmonics import from_rgb
from airjax.scene.procedural import Views, random_views
from airjax.scene.render import TILE_SIZE, RenderedView, capacity_of, render
from airjax.scene.task import view_loss
from eval.scene.subjects import held_out_textures
from eval.timing import Row, exp_row, time_warm, write_rows
from train.settings import check_at_least, where

CELL_SIZE = 0.55  # standard deviation in sides of a cell
OPACITY = 0.9


@dataclass(frozen=True)
class SceneBenchmark:
    """What to measure."""

    # name, description: of the evaluation, for the report
    name: str
    description: str
    # (side of a view, side of a cell) in pixels each: 2 * (side / cell)^2 Gaussians
    sets: tuple[tuple[int, int], ...] = ((64, 2), (128, 2), (64, 1))
    images: str = where("")  # folder of photographs, whose parts are textures; pictures are made up where none is given
    repetitions: int = 20  # warm runs of each row
    machine_scale: float = 1.0  # see `eval.timing.exp_row`

    def __post_init__(self):
        for side, cell in self.sets:
            if cell < 1 or side < cell or side % cell:
                raise AirjaxError(f"sets: expected sides of whole cells, got {side} and {cell}")
        check_at_least(self, 1, "repetitions")


def cell_gaussians(views: Views, cell: int) -> Gaussians3D:
    """Round, one in the middle of every cell of every view, with its mean color; the views have exact depths."""
    parts = []
    for i, (image, depths) in enumerate(zip(views.images, views.depths, strict=True)):
        camera = views.cameras[i]
        blocks = image.reshape(image.shape[0] // cell, cell, image.shape[1] // cell, cell, 3)
        middle = depths[cell // 2 :: cell, cell // 2 :: cell].reshape(-1)
        y, x = ((jnp.arange(n, dtype=jnp.float32) + 0.5) * cell for n in (blocks.shape[0], blocks.shape[2]))
        pixels = jnp.stack(jnp.meshgrid(x, y), axis=-1).reshape(-1, 2)
        sizes = middle * (CELL_SIZE * cell) / camera.intrinsics[0, 0]
        colors = jnp.mean(blocks, axis=(1, 3)).reshape(-1, 3)
        parts.append((unproject(camera, pixels, middle), sizes, from_rgb(colors)))
    means, sizes, harmonics = (jnp.concatenate(leaves) for leaves in zip(*parts, strict=True))
    n = len(means)
    quats = jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0]), (n, 1))
    scales = sizes[:, None] * jnp.ones((1, 3))
    return Gaussians3D(means, scales, quats, jnp.full(n, OPACITY), harmonics[:, None], jnp.ones(n, bool))


class Drawing(NamedTuple):
    """How the first view of a scene is drawn."""

    draw: Callable[[Any], RenderedView]  # from the numbers of Gaussians, to be jitted
    loss: Callable[[Any], jax.Array]  # from them to the loss of what is drawn
    floats: dict[str, Any]  # those numbers
    evaluations: int  # exponentials of one drawing


def drawing_of(gaussians: Gaussians3D, views: Views) -> Drawing:
    """By every number of the Gaussians; lists are sorted in every run."""
    camera, image = views.cameras[0], views.images[0]
    size = image.shape[:2]
    capacity = capacity_of(gaussians, views.cameras[:1], image_size=size)
    floats = {name: getattr(gaussians, name) for name in ("means", "scales", "quats", "opacities", "harmonics")}

    def draw(floats):
        return render(dataclasses.replace(gaussians, **floats), camera, image_size=size, capacity=capacity)

    def loss(floats):
        return view_loss(jnp.asarray(image), draw(floats).image)

    return Drawing(draw, loss, floats, capacity.chunks * CHUNK * TILE_SIZE**2)


def rows_of(gaussians: Gaussians3D, views: Views, repetitions: int) -> list[Row]:
    """Loss of the first view, and loss and gradient by every number; exponentials count in both passes."""
    _, loss, floats, count = drawing_of(gaussians, views)
    forward, both = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
    height, width = views.images.shape[1:3]
    what = f"{width}x{height}, {len(gaussians.means):,} Gaussians"
    return [
        Row(f"forward, {what}", time_warm(lambda: forward(floats), repetitions)[0], evaluations=count),
        Row(f"forward + backward, {what}", time_warm(lambda: both(floats), repetitions)[0], evaluations=2 * count),
    ]


def make_views(config: SceneBenchmark, side: int) -> Views:
    """Two views of a procedural scene."""
    atlas = jnp.asarray(held_out_textures(config.images, made_up=20))
    return jax.jit(lambda key: random_views(key, atlas, image_size=(side, side), num_views=2))(jax.random.key(3))


def run(config: SceneBenchmark, weights: Path | None, out: Path) -> int:
    """Measures, prints the table and writes `bench.json`; AirjaxError for weights, which a renderer does not have."""
    if weights is not None:
        raise AirjaxError("--weights: not an option of this benchmark, whose sets are made without a predictor")
    rows, make = [], jax.jit(cell_gaussians, static_argnums=1)
    for side, cell in config.sets:
        views = make_views(config, side)
        rows += rows_of(jax.block_until_ready(make(views, cell)), views, config.repetitions)
    rows.append(exp_row(config.machine_scale, config.repetitions))
    print(config.description)
    write_rows(out, config, rows)
    return 0
