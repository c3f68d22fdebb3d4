"""`Experiment`: one training run of either wing, from its configuration to a weights file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from airjax.errors import AirjaxError
from airjax.weights_file import load_weights, save_weights
from train.checkpoint import restore_part
from train.loop import LoopConfig
from train.loop import run as run_loop
from train.optim import Optimizer, Phase, State


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: what `python -m train.main` executes. A wing adds its model."""

    name: str  # of the run folder
    phase: Phase  # what is trained, by which loss
    optimizer: Optimizer  # how weights follow gradients
    loop: LoopConfig  # how long, and what is reported
    data: Any  # what is trained on
    init: str | None = None  # weights file or run folder to start from; None for fresh weights from loop.seed

    def init_params(self, key: jax.Array) -> Any:
        """Fresh weights of the model."""
        raise NotImplementedError

    def open_data(self) -> tuple[Callable[[int], Iterator[Any]], Callable[[Any], jax.Array]]:
        """(batches from a step on, jitted function from weights to a picture (h, w, 3) of what they make)."""
        raise NotImplementedError

    def metadata(self) -> dict[str, str]:
        """The model's configuration, as its weights file holds it."""
        raise NotImplementedError

    def adapt(self, params: dict, like: Any, source: Path) -> Any:
        """Loaded weights as those that this model starts from; `source` names them in errors."""
        return params

    def with_(self, **changes: Any) -> Self:
        """A copy with other fields; a dictionary changes fields of the part it names.

        experiment.with_(loop={"num_steps": 100}, data={"folders": ("photos",)}, init=None)
        """

        def changed(name: str, value: Any) -> Any:
            part = getattr(self, name)
            return dataclasses.replace(part, **value) if isinstance(value, dict) else value

        return dataclasses.replace(self, **{name: changed(name, value) for name, value in changes.items()})

    def make_step(self):
        """(initial state for given params, step function) of the phase."""
        return self.phase.make_step(self)

    def load_params(self, path: str | Path, like: Any) -> Any:
        """Weights from a safetensors file or the newest checkpoint of a run folder, of any phase.

        Raises AirjaxError: none there, damaged, or other names and shapes than `like`, fresh weights of this model.
        """
        path = Path(path)
        if not path.exists():
            raise AirjaxError(f"{path}: expected a run folder or a weights file to start from, found none")
        params = restore_part(path / "checkpoints", "params") if path.is_dir() else load_weights(path)[0]
        params = self.adapt(params, like, path)
        if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, like):
            raise AirjaxError(f"{path}: expected weights of the model of {self.name}, got others; see its `init`")
        return jax.tree.map(jnp.asarray, params)

    def run(self, out_dir: str | Path) -> State:
        """Trains, resuming what `out_dir` holds, and writes out_dir/weights.safetensors at the end.

        Raises AirjaxError: no data, no such weights, a batch that does not divide among the devices, or a folder of
        another experiment.
        """
        out_dir = Path(out_dir)
        self.data.check_divides(len(self.loop.use_devices()))
        make_state, step_fn = self.make_step()
        params = jax.jit(self.init_params)(jax.random.key(self.loop.seed))
        if self.init is not None:
            params = self.load_params(self.init, params)
        batches_fn, draw = self.open_data()

        def panel(state: State, step: int) -> np.ndarray:
            return np.asarray(jnp.round(255 * jnp.clip(draw(state["params"]), 0, 1))).astype(np.uint8)

        state = run_loop(
            self.loop,
            state=jax.jit(make_state)(params),
            step_fn=step_fn,
            batches_fn=batches_fn,
            panel_fn=panel,
            out_dir=out_dir,
            resolved_config=self,
            content=self.data.content(),
        )
        metadata = {**self.metadata(), **self.phase.metadata(state)}
        save_weights(out_dir / "weights.safetensors", jax.tree.map(np.asarray, state["params"]), metadata)
        return state
