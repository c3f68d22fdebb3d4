"""Scenes for Gaussian heads on frozen backbones, in the protocol of ForeSplat.

All views of a scene, in the paper 16, pass the backbone together. Every 4th is judged: its Gaussians are left out, and
refinement looks at the others. Cameras are those that the backbone found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from airjax.config_text import config_to_text
from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D
from airjax.inner.optimizers import rates_from_text
from airjax.scene.pi3 import Seen
from airjax.scene.task import Coordinates
from airjax.weights_file import load_weights, weights_hash
from eval.scene.subjects import SceneSubject
from train.scene.heads import RATES
from train.scene.taps import TapData, read_seen


@dataclass(frozen=True, eq=False)
class HeadModel:
    """Weights of a Gaussian head."""

    splats: Callable[[Any, Seen], Gaussians3D]
    params: Any
    name: str  # file name and the first digits of the SHA-256
    rates: Coordinates = RATES  # of the refinement; those of the weights file, if it has any

    def __call__(self, seen: Seen) -> Gaussians3D:
        """The Gaussians of views; numpy arrays."""
        return jax.device_get(self.splats(self.params, jax.tree.map(jnp.asarray, seen)))


@dataclass(frozen=True, eq=False)
class SeenSubject(SceneSubject):
    """A scene that a backbone has seen; see `eval.curves.Subject`."""

    seen: Seen | None = None  # of the given views
    rates = RATES

    @property
    def arrays(self) -> Any:
        """All that was seen, and what is judged."""
        taps = [np.asarray(tap, np.float32) for tap in self.seen.taps] if self.seen else []
        return super().arrays, taps, self.judged_images

    def start(self, model: Any) -> Gaussians3D:
        """What the head makes of the given views."""
        if model is None:
            raise AirjaxError("expected weights of a head, got a start from scratch")
        return model(self.seen)


@dataclass(frozen=True)
class SeenScenes(TapData):
    """Scenes for a frozen backbone; `airjax`'s poses are not needed."""

    limit: int | None = None  # only the first scenes; None for all

    def load_model(self, file: str) -> HeadModel:
        """A head that `train.scene.heads` wrote. Raises AirjaxError: it belongs to another network."""
        if not file:
            raise AirjaxError("expected weights of a head, got none; give training runs with --runs FOLDER ...")
        params, metadata = load_weights(file)
        if metadata.get("head") != config_to_text(self.system.config):
            raise AirjaxError(f"{file}: expected a head of the network of this evaluation, got another one")
        text = metadata.get("rates")
        rates = RATES if text is None else rates_from_text(text, kind=Coordinates, source=file)
        name = f"{Path(file).name} {weights_hash(file)[:8]}"
        return HeadModel(jax.jit(self.system.splats), jax.tree.map(jnp.asarray, params), name, rates)

    def __len__(self) -> int:
        return len(range(len(self.scenes) or self.made_up)[: self.limit])

    def __iter__(self) -> Iterator[Callable[[], SeenSubject]]:
        return (partial(self._open, file) for file in self.files()[: self.limit])

    def _open(self, file: Path) -> SeenSubject:
        seen = read_seen(file)
        given, judged = seen[: self.context], seen[self.context :] if self.every else seen
        unit = float(self.system.unit(jax.tree.map(jnp.asarray, given)))
        views = given.images, given.cameras, unit, unit, judged.images, judged.cameras
        nothing = np.zeros((0, 3), np.float32)
        return SeenSubject(file.stem, *views, nothing, nothing, seen=given)
