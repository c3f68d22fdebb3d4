"""ForeSplat: the Gaussian head of a large network is trained on what its frozen backbone saw (`train.scene.taps`).

Vanilla training is the estimator `zero_step`, MetaGrad `multi_anchor`; all others do as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from airjax.config_text import config_to_text
from airjax.gaussians import Gaussians3D
from airjax.raster.tiles import Capacity
from airjax.scene import anysplat
from airjax.scene.pi3 import Seen
from airjax.scene.render import capacity_of, render
from airjax.scene.task import Coordinates, SceneTask
from airjax.scene.unposed import System
from train.experiment import Experiment
from train.optim import State
from train.scene.losses import SceneMeta
from train.scene.taps import TapData, batches, read_seen

# The paper refines AnySplat as its authors do; what it does for others is not printed.
RATES = anysplat.RATES
_HEADROOM = 3.0  # of the renderer's lists over those of the first scenes


@dataclass(frozen=True)
class HeadMeta(SceneMeta):
    """Training of a head for what refinement makes of its Gaussians, judged by views that gave none.

    Where no view is kept for that, the given ones are judged. All weights of a run are those of the head.
    """

    head: ClassVar[tuple[str, ...]] = ("params",)
    start_rates: ClassVar[Coordinates[float]] = RATES

    capacity: tuple[int, int] | None = None  # type: ignore[assignment]  # of the renderer; None to plan it

    def scene_loss(self, trained: State, context: Any, targets: Any, key: jax.Array, experiment: Any):
        """See `ScenePhase.scene_loss`."""
        system = experiment.system
        gaussians = system.splats(trained["params"], context)
        task = SceneTask(context.images, context.cameras, system.unit(context), loss_fn=self.loss_fn)
        task = replace(task, rates=self.rates(trained["log_rates"]))
        if len(targets.images):
            task = replace(task, target_images=targets.images, target_cameras=targets.cameras)
        capacity = Capacity(*(self.capacity or experiment.capacity))
        return self.task_loss(key, task, gaussians, trained["log_rates"], capacity=capacity)


@dataclass(frozen=True, kw_only=True)
class HeadExperiment(Experiment):
    """Training of a Gaussian head; the weights file that it writes holds the head alone."""

    data: TapData

    @property
    def system(self) -> System:
        """What the head belongs to."""
        return self.data.system

    def init_params(self, key: jax.Array) -> Any:
        """Fresh weights of the head."""
        return self.system.init_head(key)

    def look(self, params: Any, seen: Seen) -> tuple[Seen, Any]:
        """(what there is to draw, weights of the head) of weights and of what the frozen backbone saw."""
        return seen, params

    def adapt(self, params: dict, like: Any, source: Path) -> Any:
        """The head of the weights of a whole AnySplat, or those of a head."""
        return params.get("gaussians", params) if "gaussians" not in like else params

    def metadata(self) -> dict[str, str]:
        """The network, and which backbone the head belongs to."""
        system = self.data.system
        name = Path(self.data.backbone).name if self.data.backbone else "fresh weights"
        return {"head": config_to_text(system.config), "system": type(system).__name__, "backbone": name}

    @cached_property
    def capacity(self) -> tuple[int, int]:
        """Room of the renderer's lists for the first scenes, as they are at the start, and more."""
        data = self.data
        params = jax.jit(self.init_params)(jax.random.key(self.loop.seed))
        if self.init is not None:
            params = self.load_params(self.init, params)
        needs = []
        for file in data.files()[:2]:
            seen, gaussians = self._draw(params, jax.tree.map(jnp.asarray, read_seen(file)))
            needs.append(capacity_of(gaussians, seen.cameras, image_size=data.image_size, headroom=_HEADROOM))
        pairs, chunks = np.max(np.array(needs), axis=0).tolist()
        return pairs, chunks

    @partial(jax.jit, static_argnums=0)
    def _draw(self, params: Any, seen: Seen) -> tuple[Seen, Gaussians3D]:
        """What there is to draw, and the Gaussians of its given views."""
        seen, head = self.look(params, seen)
        return seen, self.system.splats(head, seen[: self.data.context])

    def make_step(self):
        """See `Experiment.make_step`; all scenes are seen, and lists planned, before anything is traced."""
        if self.phase.capacity is None:
            _ = self.capacity
        return super().make_step()

    def make_views(self, batch: Seen) -> Seen:
        """The scenes of a step, constants to every gradient."""
        return jax.lax.stop_gradient(batch)

    def open_data(self) -> tuple[Callable[[int], Iterator[Any]], Callable[[Any], jax.Array]]:
        """What was seen; the picture has the last view of four scenes, and what is drawn of it."""
        data = self.data
        scenes = [jax.tree.map(jnp.asarray, read_seen(file)) for file in data.files()[:4]]
        capacity = Capacity(*(self.phase.capacity or self.capacity))

        @jax.jit
        def row(params, seen):
            seen, gaussians = self._draw(params, seen)
            view = render(gaussians, seen.cameras[-1], image_size=data.image_size, capacity=capacity)
            return jnp.concatenate([seen.images[-1], view.image], axis=1)

        def draw(params):
            return jnp.concatenate([row(params, seen) for seen in scenes])

        return lambda start: batches(data, start), draw
