"""`ImageExperiment`: training of a staged predictor of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from airjax.errors import AirjaxError
from airjax.image import air_quantiser
from airjax.image.presets import stages_to_text
from airjax.image.stages import StageConfig, init_params, run_stages, stage_control_of
from train.experiment import Experiment
from train.image.data import DataConfig, batches, dataset


@dataclass(frozen=True, kw_only=True)
class ImageExperiment(Experiment):
    """Training on crops of photographs."""

    stages: tuple[StageConfig, ...]
    data: DataConfig
    # which stage of `init` each stage starts from; None for the same in the same order. What is new in a network
    # (inputs, votes) starts at zero
    init_stages: tuple[int, ...] | None = None
    fresh: tuple[str, ...] = ()  # parts of every stage that start afresh, whatever `init` has
    quantiser: bool = False  # whether there is also AIR's quantiser; it starts afresh where `init` has none

    def init_params(self, key: jax.Array) -> dict[str, Any]:
        """Fresh weights of all stages, and of the quantiser."""
        last = {"quantiser": air_quantiser.init_params(self.stages[-1].network)} if self.quantiser else {}
        return init_params(key, self.stages) | last

    def metadata(self) -> dict[str, str]:
        """The stages."""
        return {"stages": stages_to_text(self.stages)}

    def adapt(self, params: dict, like: dict, source: Path) -> dict:
        """The stages that `init_stages` names, grown to this model's shapes; or an encoder alone, for every stage."""
        if "stage0" not in params and "encoder" in params:
            return {
                name: part | {"encoder": params["encoder"]} if "encoder" in part else part
                for name, part in like.items()
            }
        stages = self._stages_of({name: part for name, part in params.items() if name != "quantiser"}, like, source)
        for name in stages if self.fresh else ():
            stages[name] = stages[name] | {part: like[name][part] for part in self.fresh}
        return stages | ({"quantiser": params.get("quantiser", like["quantiser"])} if self.quantiser else {})

    def _stages_of(self, params: dict, like: dict, source: Path) -> dict:
        if self.init_stages is None:
            return params
        if missing := [stage for stage in self.init_stages if f"stage{stage}" not in params]:
            raise AirjaxError(f"{source}: expected stages {sorted(set(self.init_stages))}, found no stage {missing[0]}")
        return {f"stage{i}": _grow(params[f"stage{k}"], like[f"stage{i}"]) for i, k in enumerate(self.init_stages)}

    def open_data(self) -> tuple[Callable[[int], Iterator[Any]], Callable[[Any], jax.Array]]:
        """Batches of crops; the picture has a row for each image of a batch: target, render after every stage."""
        photographs = self.data.open()
        images = dataset(self.data, photographs)[0]

        @jax.jit
        def draw(params):
            def row(image):
                trace = run_stages(self.stages, params, image, stage_control_of())
                return jnp.concatenate([image, *(stage.rendered for stage in trace)], axis=1)

            return jnp.concatenate([row(image) for image in images])

        return lambda start: batches(self.data, start_step=start, photographs=photographs), draw


def _grow(params: dict, like: dict) -> dict:
    """Weights of a smaller network in the shapes of a larger one: new rows of a matrix are zero, new layers fresh."""
    grown = {}
    for name, target in like.items():
        source = params.get(name, target)
        if isinstance(target, dict):
            grown[name] = _grow(source, target)
        elif np.ndim(source) == 2 and source.shape[0] < target.shape[0] and source.shape[1:] == target.shape[1:]:
            grown[name] = np.pad(source, ((0, target.shape[0] - source.shape[0]), (0, 0)))
        else:
            grown[name] = source
    return grown
