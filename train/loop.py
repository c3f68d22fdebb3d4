"""The training loop: a pure step function, a device mesh, checkpoints, logs; nothing about what is trained.

What it promises: a run killed at any moment and started again ends with the same parameters, bit for bit on
one machine, as one never killed (`batches_fn` gives the batches from any step on; nothing else feeds a step);
a state whose losses were not all seen finite is never written; the log never has two lines of one step.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image
from tqdm import tqdm

from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes
from train import checkpoint
from train.settings import check_at_least, free, leaves, marked_names, settings_of
from train.signals import Signals

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None
try:
    from tensorboardX import SummaryWriter
except ImportError:
    SummaryWriter = None

State = Any
Metrics = dict[str, Any]

PLAIN_LINE_EVERY = 10  # without a terminal, one line per this many log points


class NonFiniteLossError(AirjaxError):
    """The loss or the state is not finite; the message names the step and the last good checkpoint."""


@dataclass(frozen=True)
class LoopConfig:
    """How long a run lasts, and how often it reports."""

    num_steps: int  # steps in all, over every session
    seed: int = 0  # recorded with the run; the loop itself draws nothing
    log_every: int = free(20)  # steps between log lines, each the mean over them; also how often losses are checked
    checkpoint_every: int = free(200)  # steps between checkpoints; 0 writes only the last one
    panel_every: int = free(0)  # steps between pictures; 0 for none
    keep: int = free(2)  # number of checkpoints that stay on disk
    # stop, with a checkpoint, after this wall-clock time over all sessions; None for no limit
    max_seconds: float | None = free(None)
    # steps to go on to after the last, one after the other, each with a schedule of its own from there
    extensions: tuple[int, ...] = free(())
    devices: int | None = free(None)  # how many devices share a batch; None for all that there are

    def __post_init__(self):
        check_at_least(self, 0, "num_steps", "checkpoint_every", "panel_every")
        check_at_least(self, 1, "log_every", "keep", "devices")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise AirjaxError(f"max_seconds: expected > 0 or None, got {self.max_seconds}")
        if list(self.ends) != sorted(set(self.ends)):
            raise AirjaxError(f"extensions: expected increasing steps after {self.num_steps}, got {self.extensions}")

    @property
    def ends(self) -> tuple[int, ...]:
        """The last step of the run, and that of each extension."""
        return self.num_steps, *self.extensions

    @property
    def last_step(self) -> int:
        """Where the run ends, its extensions included."""
        return self.ends[-1]

    def use_devices(self) -> list[jax.Device]:
        """The devices that share a batch. Raises AirjaxError: there are fewer."""
        there = jax.devices()
        if self.devices is not None and self.devices > len(there):
            raise AirjaxError(f"--loop.devices: expected at most {len(there)}, which there are, got {self.devices}")
        return there[: self.devices]


def run(
    config: LoopConfig,
    *,
    state: State,
    step_fn: Callable[[State, Any], tuple[State, Metrics]],
    batches_fn: Callable[[int], Iterator[Any]],
    out_dir: str | Path,
    panel_fn: Callable[[State, int], np.ndarray] | None = None,
    resolved_config: Any = None,
    content: str | None = None,
    echo: Callable[[str], None] = print,
) -> State:
    """Train from `state`, or from the newest checkpoint in `out_dir`, to the last step; return its state.

    Writes in `out_dir`: config.json, log.jsonl, checkpoints/, panels/, and with tensorboardX tensorboard/.

    Args:
      state: pytree of arrays, all finite; copied, so it stays valid. Replicated over the devices.
      step_fn: (state, batch) -> (state, metrics); pure, jitted here with the state donated. Metrics are
        scalars; one is called "loss"; those whose names start with "psnr" are shown beside it.
      batches_fn: start_step -> iterator over the batches after that many steps; each a pytree of numpy arrays whose
        axis 0 is divisible by the number of devices (scalars are replicated).
      panel_fn: (state, step) -> uint8 (h, w, 3), every `panel_every` steps.
      resolved_config: what the folder's run is: dataclass or dict; another one in the same folder is refused.
      content: what the data are, instead of where they lie (fields made by `train.settings.where`).
      echo: takes each line of text for the screen.

    Raises AirjaxError: the folder holds another run or a damaged checkpoint, or the data ended early;
    NonFiniteLossError; SystemExit (130, 143) after SIGINT or SIGTERM, once the step and its checkpoint are done.
    """
    out_dir, screen = Path(out_dir), _Screen(config, echo)
    with _only_process(out_dir), Signals(once=True) as signals:
        _claim_folder(out_dir, config, resolved_config, content, screen)
        training = _Training(config, state, step_fn, out_dir, screen)
        if training.is_over():
            screen.say(f"{out_dir}: nothing left to do at step {training.step}")
            return training.state
        with screen.bar(training.step), training.journal:
            batches = batches_fn(training.step)
            try:
                while True:
                    training.dispatch(_next_batch(batches, training.step))
                    finished = training.is_over()
                    stop = signals.last is not None  # asked once: report may take long, and only then saves
                    training.report(finished, stop, panel_fn)
                    if finished or stop:
                        break
            finally:
                if hasattr(batches, "close"):
                    batches.close()
        step, of = training.step, f"of {config.last_step} after {training.clock.elapsed():.0f} s: {out_dir}"
        if not finished:
            screen.say(f"stopped at step {step} {of}; checkpoint written, the same command continues")
            raise SystemExit(128 + signals.last)
        screen.say(f"{'finished' if step >= config.last_step else 'out of time'} at step {step} {of}")
        return training.state


class _Training:
    """The state of a run, how far it is, and what of it has been looked at."""

    def __init__(self, config: LoopConfig, state: State, step_fn: Callable, out_dir: Path, screen: _Screen):
        self._config, self._out_dir, self._screen = config, out_dir, screen
        self._folder = out_dir / "checkpoints"
        self._mesh = Mesh(np.asarray(config.use_devices()), ("data",))
        replicated = NamedSharding(self._mesh, PartitionSpec())
        self._train_step = jax.jit(step_fn, donate_argnums=0, out_shardings=(replicated, replicated))
        self._pending: list[tuple[int, Metrics]] = []  # dispatched, losses not yet looked at
        self._window = _Mean()  # looked at, not yet logged
        self._compiled = False
        self.state = jax.device_put(jax.tree.map(_own, state), replicated)
        self.step, elapsed = 0, 0.0
        if (latest := checkpoint.latest_step(self._folder)) is not None:
            self.state = checkpoint.restore(self._folder, self.state, latest)
            extra = checkpoint.read_extra(self._folder, latest)
            self.step, elapsed, self._window = latest, float(extra["elapsed"]), _Mean(extra.get("window"))
            screen.say(f"resuming {out_dir} at step {latest} of {config.last_step} ({elapsed:.0f} s so far)")
        _require_finite_state(self.state, self.step, self._folder)
        self.clock = _Clock(elapsed)
        self.journal = _Journal(out_dir, self.step)

    def is_over(self) -> bool:
        """All steps done, or no time left."""
        limit = self._config.max_seconds
        return self.step >= self._config.last_step or (limit is not None and self.clock.elapsed() >= limit)

    def dispatch(self, batch: Any) -> None:
        """Start one step on the devices, and wait for the one before it."""
        batch = _put(batch, self._mesh)
        if not self._compiled:
            kind = jax.devices()[0].device_kind
            self._screen.say(f"step {self.step + 1}: compiling for {self._mesh.size} x {kind} ...")
        self.state, metrics = self._train_step(self.state, batch)
        self.step += 1
        _require_loss(metrics)
        self._pending.append((self.step, metrics))
        if not self._compiled:
            self._settle()
            self._compiled = True
            self._screen.say(f"step {self.step}: done after {self.clock.session():.1f} s")
        elif len(self._pending) > 1:
            # The host prepares the next batch while the device works; a signal waits for two steps at most.
            jax.block_until_ready(self._pending[-2][1]["loss"])

    def report(self, finished: bool, stop: bool, panel_fn: Callable | None) -> None:
        """Whatever is due after this step: log line, picture, checkpoint."""
        config, step, record = self._config, self.step, {}
        if finished or step % config.log_every == 0:
            self._settle()
            record = self._window.take()
        # The log line comes before the checkpoint: a kill between the two leaves a line too many, which resuming
        # drops, and never one too few. If a picture fails, the checkpoint is still written.
        try:
            if panel_fn is not None and _is_due(step, config.panel_every):
                self._settle()
                _write_panel(self._out_dir / "panels" / f"step_{step:08d}.png", panel_fn(self.state, step))
            if record:
                self.journal.write(step, self.clock.elapsed(), record)
        finally:
            if finished or stop or _is_due(step, config.checkpoint_every):
                self._checkpoint()
        self._screen.advance(step, self.clock, record, last=finished)

    def _settle(self) -> None:
        """Wait for the dispatched steps, check their losses, add their metrics to the window."""
        fetched = jax.device_get(self._pending)
        self._pending.clear()
        for step, metrics in fetched:
            if not np.isfinite(metrics["loss"]):
                raise NonFiniteLossError(f"step {step}: the loss is {metrics['loss']}; {_last_good(self._folder)}")
            self._window.add(metrics)

    def _checkpoint(self) -> None:
        self._settle()
        _require_finite_state(self.state, self.step, self._folder)
        extra = {"elapsed": self.clock.elapsed(), "window": self._window.sums}
        checkpoint.save(self._folder, self.step, self.state, keep=self._config.keep, extra=extra)


class _Clock:
    """Wall-clock seconds of this session, and of all."""

    def __init__(self, before: float):
        self._before, self._start = before, time.monotonic()

    def session(self) -> float:
        return time.monotonic() - self._start

    def elapsed(self) -> float:
        return self._before + self.session()


def _own(leaf: Any) -> jax.Array:
    """A copy to be donated: its memory is its own, and no weak type, which a checkpoint would not keep."""
    leaf = jnp.asarray(leaf)
    return jnp.copy(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.array(leaf, leaf.dtype)


def _is_due(step: int, every: int | None) -> bool:
    return bool(every) and step % every == 0


def _next_batch(batches: Iterator[Any], step: int) -> Any:
    batch = next(batches, None)
    if batch is None:
        raise AirjaxError(f"data: ended after step {step}; expected a batch for every step (repeat the data set)")
    return batch


def _put(batch: Any, mesh: Mesh) -> Any:
    """A batch on the devices, axis 0 split over them; copied, since the source may use its memory again."""

    def put(path, leaf):
        spec = PartitionSpec("data") if np.ndim(leaf) else PartitionSpec()
        if np.ndim(leaf) and np.shape(leaf)[0] % mesh.size:
            name = jax.tree_util.keystr(path) or "batch"
            raise AirjaxError(f"{name}: expected a batch divisible by {mesh.size} devices, got {np.shape(leaf)[0]}")
        return jax.device_put(leaf, NamedSharding(mesh, spec), may_alias=False)

    return jax.tree_util.tree_map_with_path(put, batch)


def _require_loss(metrics: Metrics) -> None:
    if not isinstance(metrics, dict) or "loss" not in metrics:
        raise ValueError(f"step_fn: expected a dict of metrics with 'loss', got {metrics!r}")
    for name, value in metrics.items():
        if np.ndim(value):
            raise ValueError(f"step_fn: metric {name!r}: expected a scalar, got shape {np.shape(value)}")


@jax.jit
def _leaves_are_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _require_finite_state(state: State, step: int, folder: Path) -> None:
    """A gradient can overflow in a step whose own loss was fine: look at what is about to be written."""
    named = jax.tree_util.tree_flatten_with_path(state)[0]
    floats = [(path, leaf) for path, leaf in named if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not floats or bool(_leaves_are_finite([leaf for _, leaf in floats])):
        return
    bad = next(jax.tree_util.keystr(path) for path, leaf in floats if not bool(jnp.isfinite(leaf).all()))
    raise NonFiniteLossError(f"step {step}: state{bad} is not finite; {_last_good(folder)}")


def _last_good(folder: Path) -> str:
    step = checkpoint.latest_step(folder)
    return "no checkpoint yet" if step is None else f"the last good checkpoint is {folder}, step {step}"


class _Mean:
    """Means of metrics over the steps since the last log line that reported them (NaN: did not)."""

    def __init__(self, sums: dict | None = None):
        self.sums: dict[str, tuple[float, int]] = dict(sums or {})

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            if not np.isnan(value):
                total, count = self.sums.get(name, (0.0, 0))
                self.sums[name] = total + float(value), count + 1

    def take(self) -> dict[str, float]:
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums.clear()
        return means


class _Screen:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, config: LoopConfig, echo: Callable[[str], None]):
        self._config, self._echo, self._bar = config, echo, None
        self._shown: dict[str, str] = {}
        self._points = 0

    def say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        self._echo(line)
        sys.stdout.flush()
        if self._bar is not None:
            self._bar.refresh()

    @contextlib.contextmanager
    def bar(self, start: int):
        if not sys.stdout.isatty():
            yield
            return
        total = self._config.last_step
        with tqdm(total=total, initial=start, unit="step", file=sys.stdout, dynamic_ncols=True) as self._bar:
            yield
        self._bar = None

    def advance(self, step: int, clock: _Clock, record: Metrics, *, last: bool) -> None:
        shown = [name for name in record if name == "loss" or name.startswith("psnr")]
        self._shown |= {name: f"{record[name]:.4g}" for name in shown}
        if self._bar is not None:
            self._bar.set_postfix(self._shown, refresh=False)
            self._bar.update()
            return
        self._points += bool(record)
        if record and (last or self._points % PLAIN_LINE_EVERY == 1):
            numbers = "  ".join(f"{name} {value}" for name, value in self._shown.items())
            self.say(f"step {step}/{self._config.last_step}  {clock.elapsed():.0f} s  {numbers}")


class _Journal:
    """log.jsonl, one object per line with step and elapsed seconds, and TensorBoard if it is there."""

    def __init__(self, out_dir: Path, step: int):
        self._path, self._board = out_dir / "log.jsonl", None
        _truncate_log(self._path, step)
        if SummaryWriter is not None:
            self._board = SummaryWriter(str(out_dir / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> _Journal:
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def write(self, step: int, elapsed: float, record: Metrics) -> None:
        # JSON has no NaN: a metric other than the loss that is not finite is written as null.
        values = {name: value if math.isfinite(value) else None for name, value in record.items()}
        self._file.write(json.dumps({"step": step, "elapsed": round(elapsed, 3), **values}) + "\n")
        self._file.flush()
        for name, value in record.items() if self._board is not None else ():
            self._board.add_scalar(name, value, step)

    def __exit__(self, *_) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _truncate_log(path: Path, step: int) -> None:
    """Drop what an earlier session logged after its last checkpoint, and a line it could not finish."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    atomic_write_bytes(path, "".join(kept).encode())


def _write_panel(path: Path, panel: np.ndarray) -> None:
    panel = np.asarray(panel)
    if panel.dtype != np.uint8 or panel.ndim != 3 or panel.shape[2] != 3:
        raise ValueError(f"panel_fn: expected uint8 (h, w, 3), got {panel.dtype} {panel.shape}")
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(panel).save(buffer := io.BytesIO(), "PNG")
    atomic_write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def _only_process(out_dir: Path) -> Iterator[None]:
    """Hold the folder against a second process; the system lets go when this one ends, however it ends."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with (out_dir / ".lock").open("a") as handle:
        if fcntl is not None:
            # A record lock, not flock: worker processes that outlive a killed run must not inherit it.
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AirjaxError(f"{out_dir}: another process is training in this folder") from error
        yield


def read_config(out_dir: str | Path) -> dict[str, Any] | None:
    """The config.json of a run folder; None for a folder without one.

    Raises AirjaxError: it does not hold the settings of a run.
    """
    path = Path(out_dir) / "config.json"
    if not path.exists():
        return None
    with contextlib.suppress(ValueError, AttributeError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if {"seed", "loop", "config"} <= found.keys():
            return found
    raise AirjaxError(f"{path}: expected the settings of a run, got something else")


def _claim_folder(
    out_dir: Path, config: LoopConfig, resolved_config: Any, content: str | None, screen: _Screen
) -> None:
    """Write config.json, or make sure that the one already there describes the same run."""
    ours = {
        "seed": config.seed,
        "loop": settings_of(config),
        "config": settings_of(resolved_config),
        "content": content,
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
    }
    if (theirs := read_config(out_dir)) is not None:
        before, now = ({key: run.get(key) for key in ("loop", "config", "content")} for run in (theirs, ours))
        before, now = leaves(before), leaves(now)
        marked = {"loop": config, "config": resolved_config}
        compared = {*before, *now}.difference(
            *(marked_names(part, name, "free", "where") for name, part in marked.items())
        )
        if changed := [name for name in sorted(compared) if before.get(name) != now.get(name)]:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            first = f"{changed[0]} was {before.get(changed[0])!r}, is now {now.get(changed[0])!r}{more}"
            raise AirjaxError(f"{out_dir}: holds a run with other settings: {first}; choose another folder")
        for name in ("versions", "devices"):
            if theirs.get(name) != ours[name]:
                screen.say(f"note: {name} were {theirs.get(name)}, are now {ours[name]}")
    elif checkpoint.steps(out_dir / "checkpoints"):
        raise AirjaxError(f"{out_dir}: holds checkpoints without a config.json; choose another folder")
    atomic_write_bytes(out_dir / "config.json", f"{json.dumps(ours, indent=2)}\n".encode())
