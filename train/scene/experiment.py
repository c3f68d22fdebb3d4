"""`SceneExperiment`: training of the scene predictor, views in, 3D Gaussians out, judged on views it did not see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from airjax.raster.tiles import Capacity
from airjax.scene.predictor import PredictorConfig, config_to_text, init_params, predict
from airjax.scene.procedural import Views
from airjax.scene.render import render
from train.experiment import Experiment
from train.scene.data import SceneData, batches, draw_scenes, split_views, texture_atlas


@dataclass(frozen=True, kw_only=True)
class TexturedExperiment(Experiment):
    """Training on scenes some of which are procedural: their textures are parts of photographs."""

    data: SceneData

    @cached_property
    def textures(self) -> jax.Array:
        """(T, s, s, 3) of procedural training scenes, in [0, 1]."""
        return jnp.asarray(texture_atlas(self.data), jnp.float32) / 255

    def make_step(self):
        """See `Experiment.make_step`; textures are read before anything is traced."""
        _ = self.textures
        return super().make_step()


@dataclass(frozen=True, kw_only=True)
class SceneExperiment(TexturedExperiment):
    """Training on scenes."""

    predictor: PredictorConfig

    def init_params(self, key: jax.Array) -> Any:
        """Fresh weights."""
        return init_params(key, self.predictor)

    def metadata(self) -> dict[str, str]:
        """The predictor."""
        return {"predictor": config_to_text(self.predictor)}

    def make_views(self, batch: dict[str, Any]) -> Views:
        """The views of the scenes of a step, (b, v, ..); constants to every gradient."""
        data = self.data
        parts = [batch["real"]] if "real" in batch else []
        if len(batch["seeds"]):
            parts.insert(0, draw_scenes(data, self.textures, batch["seeds"], rooms=data.rooms))
        return jax.lax.stop_gradient(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts))

    def open_data(self) -> tuple[Callable[[int], Iterator[Any]], Callable[[Any], jax.Array]]:
        """Seeds and real views; the picture has a row for each of four scenes: context, target, render, depth."""
        data, capacity = self.data, Capacity(*self.phase.capacity)
        scenes = data.open_scenes()
        atlas = jnp.asarray(texture_atlas(data, test=True), jnp.float32) / 255

        @jax.jit
        def draw(params):
            def row(views):
                context, targets = split_views(views, data.context)
                bounds = context.near, context.far
                found = predict(params, context.images, context.cameras, *bounds, config=self.predictor)
                view = render(found.gaussians, targets.cameras[0], image_size=data.image_size, capacity=capacity)
                depth = jnp.broadcast_to((jnp.min(context.near) / view.expected_depth)[..., None], view.image.shape)
                return jnp.concatenate([*context.images, targets.images[0], view.image, depth], axis=1)

            scenes = draw_scenes(data, atlas, jnp.arange(4), rooms=4 * data.rooms // data.batch_size)
            return jnp.concatenate(jax.lax.map(row, scenes))

        return lambda start: batches(data, scenes, start), draw
