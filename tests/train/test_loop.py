"""The loop on a toy: a small network that undoes a blur on random images, with noise from the state's key.

The oracle of every interrupted run is the run that nobody interrupted: same state, bit for bit, and same log.
Run as a program (`python tests/train/test_loop.py OUT [--kill WHERE]`) this file is the toy itself, so that
it can be killed from outside and started with other devices.
"""

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import environment
from PIL import Image

from airjax.errors import AirjaxError
from train import checkpoint, loop
from train.loop import LoopConfig, NonFiniteLossError
from train.settings import free, where

pytestmark = pytest.mark.slow

CONFIG = LoopConfig(num_steps=30, log_every=4, checkpoint_every=5, keep=2)


class State(NamedTuple):
    params: dict
    ema: dict
    opt_state: tuple
    key: jax.Array
    step: jax.Array


TX = optax.adamw(1e-2)


def make_state() -> State:
    rng = np.random.default_rng(0)
    params = {
        "first": {"w": jnp.asarray(rng.standard_normal((36, 16)) * 0.2, jnp.float32), "b": jnp.zeros(16)},
        "second": {"w": jnp.asarray(rng.standard_normal((16, 36)) * 0.2, jnp.float32), "b": jnp.zeros(36)},
    }
    return State(params, params, TX.init(params), jax.random.key(0), jnp.int32(0))


def step_fn(state: State, batch: dict) -> tuple[State, dict]:
    """One Adam step of the network on a noisy batch."""
    key, noise_key = jax.random.split(state.key)
    noisy = batch["blurred"] + 0.01 * jax.random.normal(noise_key, batch["blurred"].shape)

    def loss_fn(params):
        hidden = jax.vmap(lambda x: jnp.tanh(x @ params["first"]["w"] + params["first"]["b"]))(noisy)
        output = jax.vmap(lambda x: x @ params["second"]["w"] + params["second"]["b"])(hidden)
        return jnp.mean((output - batch["image"]) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a Python float to the power of an int32
        updates, opt_state = TX.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state.ema, params)
    return State(params, ema, opt_state, key, state.step + 1), {"loss": loss, "psnr_1": -10 * jnp.log10(loss)}


def batches_fn(start: int, pause: float = 0.0):
    """The batch of a step depends on the step alone."""
    step = start
    while True:
        image = np.random.default_rng(step).random((8, 36), dtype=np.float32)
        yield {"image": image, "blurred": (image + np.roll(image, 1, axis=1)) / 2}
        step += 1
        time.sleep(pause)


def toy(out_dir: Path, config: LoopConfig = CONFIG, **changes) -> State:
    options = {"state": make_state(), "step_fn": step_fn, "batches_fn": batches_fn, "echo": lambda line: None}
    return loop.run(config, out_dir=out_dir, **(options | changes))


def read_log(out_dir: Path) -> list[dict]:
    """The log, without its clock."""
    lines = [json.loads(line) for line in (out_dir / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "elapsed"} for line in lines]


def assert_same(actual, expected, **tolerance):
    """Same structure and same leaves, bit for bit unless a tolerance is given."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), **({"rtol": 0, "atol": 0} | tolerance))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """(state, folder) of a run in this process that nobody interrupted."""
    out_dir = tmp_path_factory.mktemp("reference")
    return toy(out_dir), out_dir


# --- a run and what it leaves --------------------------------------------------------------------------


def test_run_equals_a_plain_loop(reference):
    """Oracle: the step function in a Python loop; the log holds the means of what that loop sees."""
    state, out_dir = reference
    expected, losses, plain_step = make_state(), [], jax.jit(step_fn)
    for batch, _ in zip(batches_fn(0), range(CONFIG.num_steps), strict=False):
        expected, metrics = plain_step(expected, batch)
        losses.append(float(metrics["loss"]))
    assert_same(state, expected, rtol=1e-6, atol=1e-7)  # donation may change how XLA fuses
    log = read_log(out_dir)
    assert [line["step"] for line in log] == [4, 8, 12, 16, 20, 24, 28, 30]
    means = [np.mean(losses[at : at + 4]) for at in range(0, 30, 4)]
    np.testing.assert_allclose([line["loss"] for line in log], means, rtol=1e-5)
    assert losses[-1] < losses[0]
    assert checkpoint.steps(out_dir / "checkpoints") == [25, 30]
    described = json.loads((out_dir / "config.json").read_text())
    assert described["versions"]["jax"] == jax.__version__
    assert described["devices"] == ["cpu:cpu"]
    assert described["seed"] == 0


def test_the_callers_state_stays_valid_and_the_step_is_traced_once(tmp_path):
    traces = []

    def counted(state, batch):
        traces.append(1)
        shared = state["a"] + jnp.mean(batch["image"])
        return {"a": shared, "b": state["b"] * 0.5, "half": state["half"]}, {"loss": state["b"]}

    zeros = jnp.zeros(3)
    # The same buffer twice, a Python number and a 16-bit array: each can break donation or trace twice.
    state = {"a": zeros, "b": 2.0, "half": jnp.ones(2, jnp.bfloat16)}
    final = toy(tmp_path, LoopConfig(5, checkpoint_every=2), state=state | {"b": 2.0}, step_fn=counted)
    assert float(final["b"]) == 2.0 * 0.5**5
    assert zeros.tolist() == [0, 0, 0]
    assert len(traces) == 1
    twins = {"a": zeros, "b": 1.0, "half": zeros}
    toy(tmp_path / "twins", LoopConfig(2), state=twins, step_fn=counted)


def test_panels_and_screen(tmp_path):
    lines, seen = [], []

    def panel_fn(state, step):
        seen.append(int(state.step))
        return np.full((4, 6, 3), step, np.uint8)

    config = LoopConfig(10, log_every=5, panel_every=4, checkpoint_every=0)
    toy(tmp_path, config, panel_fn=panel_fn, echo=lines.append)
    assert seen == [4, 8]
    picture = np.asarray(Image.open(tmp_path / "panels" / "step_00000008.png"))
    np.testing.assert_array_equal(picture, np.full((4, 6, 3), 8))
    assert [line["step"] for line in read_log(tmp_path)] == [5, 10]
    assert any("step 1: compiling for 1 x cpu" in line for line in lines)
    assert any(line.startswith("step 5/10") and "loss" in line and "psnr_1" in line for line in lines)
    assert "finished at step 10 of 10" in lines[-1]
    assert checkpoint.steps(tmp_path / "checkpoints") == [10]


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", screen)
    toy(tmp_path, LoopConfig(6, log_every=2), echo=partial(print, file=screen))
    assert "6/6" in screen.getvalue()
    assert "psnr_1=" in screen.getvalue()


def test_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            written.append("closed")

    monkeypatch.setattr(loop, "SummaryWriter", Writer)
    toy(tmp_path, LoopConfig(4, log_every=2))
    points = [("loss", 2), ("psnr_1", 2), ("loss", 4), ("psnr_1", 4)]
    assert written == [(str(tmp_path / "tensorboard"), 1), *points, "closed"]


# --- stopping and going on -----------------------------------------------------------------------------


def test_a_signal_during_a_picture_waits_for_the_next_step(tmp_path, reference):
    def interrupted(state, step):
        os.kill(os.getpid(), signal.SIGTERM)
        return np.zeros((2, 2, 3), np.uint8)

    with pytest.raises(SystemExit):
        toy(tmp_path, replace(CONFIG, panel_every=7), panel_fn=interrupted)
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 8
    assert_same(toy(tmp_path), reference[0])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_step_and_the_same_command_goes_on(tmp_path, reference, number, status):
    def interrupted(start):
        for step, batch in enumerate(batches_fn(start), start + 1):
            if step == 14:
                os.kill(os.getpid(), number)
            yield batch

    lines, before = [], signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        toy(tmp_path, batches_fn=interrupted, echo=lines.append)
    assert stop.value.code == status
    assert signal.getsignal(number) is before
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 14
    assert "stopped at step 14" in lines[-1]
    state = toy(tmp_path, echo=lines.append)
    assert any("resuming" in line and "at step 14 of 30" in line for line in lines)
    assert_same(state, reference[0])
    assert read_log(tmp_path) == read_log(reference[1])
    assert_same(toy(tmp_path, echo=lines.append), reference[0])  # and once more: nothing to do
    assert "nothing left to do" in lines[-1]


def test_the_time_limit_counts_all_sessions(tmp_path, monkeypatch, reference):
    """Ten seconds a step, by a clock that counts batches: 35 s end after step 4, 65 s three steps later."""
    drawn = []

    def counted(start):
        for batch in batches_fn(start):
            drawn.append(1)
            yield batch

    monkeypatch.setattr(loop._Clock, "session", lambda self: 10.0 * len(drawn))
    for limit, step, elapsed in ((35, 4, 40), (65, 7, 70), (60, 7, 70)):
        drawn.clear()
        lines = []
        config = LoopConfig(30, log_every=4, checkpoint_every=5, max_seconds=limit)
        toy(tmp_path, config, batches_fn=counted, echo=lines.append)
        assert checkpoint.latest_step(tmp_path / "checkpoints") == step
        assert checkpoint.read_extra(tmp_path / "checkpoints")["elapsed"] == elapsed
    monkeypatch.undo()
    assert_same(toy(tmp_path), reference[0])


@pytest.mark.parametrize("step", [2, 7])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, step):
    def poisoned(start):
        for at, batch in enumerate(batches_fn(start), start + 1):
            yield {
                "image": batch["image"],
                "blurred": batch["blurred"] * np.float32(np.nan if at == step else 1),
            }

    found = "no checkpoint yet" if step == 2 else "the last good checkpoint is .*, step 5"
    with pytest.raises(NonFiniteLossError, match=f"step {step}: the loss is nan; {found}"):
        toy(tmp_path, LoopConfig(30, log_every=20, checkpoint_every=5), batches_fn=poisoned)
    assert checkpoint.steps(tmp_path / "checkpoints") == ([] if step == 2 else [5])
    if step == 7:
        kept = checkpoint.restore_part(tmp_path / "checkpoints", "params")
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))


def test_a_state_that_is_not_finite_is_never_written(tmp_path):
    """The loss is fine throughout; the state overflows in step 8."""

    def overflow(state, batch):
        return {"x": state["x"] * 1e5}, {"loss": jnp.mean(batch["image"])}

    with pytest.raises(NonFiniteLossError, match=r"step 10: state\['x'\] is not finite; .* step 5"):
        toy(tmp_path, LoopConfig(30, checkpoint_every=5), state={"x": jnp.ones(2)}, step_fn=overflow)
    assert checkpoint.steps(tmp_path / "checkpoints") == [5]
    with pytest.raises(NonFiniteLossError, match=r"step 0: state\['x'\] is not finite; no checkpoint yet"):
        toy(tmp_path / "start", state={"x": jnp.full(2, jnp.nan)}, step_fn=overflow)


def test_a_failing_picture_does_not_cost_the_checkpoint(tmp_path, reference):
    def broken(state, step):
        raise RuntimeError("picture broke")

    with pytest.raises(RuntimeError, match="picture broke"):
        toy(tmp_path, replace(CONFIG, panel_every=10), panel_fn=broken)
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 10
    assert_same(toy(tmp_path), reference[0])


# --- killed from outside, and other devices ------------------------------------------------------------


def program(out_dir: Path, *options: str, devices: int = 1) -> list[str]:
    command = [sys.executable, str(Path(__file__).resolve()), str(out_dir), *options]
    return {"args": command, "env": environment(devices), "stdout": subprocess.PIPE, "text": True}


def finish(out_dir: Path, *options: str, devices: int = 1, status: int = 0) -> str:
    done = subprocess.run(**program(out_dir, *options, devices=devices), stderr=subprocess.PIPE, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def restored(out_dir: Path) -> State:
    assert checkpoint.latest_step(out_dir / "checkpoints") == CONFIG.num_steps
    return checkpoint.restore(out_dir / "checkpoints", make_state())


def test_a_run_killed_four_times_ends_as_one_never_killed(tmp_path, reference):
    """SIGKILL within a checkpoint's write, the removal of an old one, a log line, and anywhere."""
    for place in ("writing", "logging", "deleting"):
        finish(tmp_path, "--kill", place, status=-signal.SIGKILL)
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 15
    with subprocess.Popen(**program(tmp_path, "--pause", "0.1")) as running:  # 1.5 s to the end
        for line in running.stdout:
            if "done after" in line:
                break
        moment = random.random()
        time.sleep(moment)
        running.kill()
    assert running.returncode == -signal.SIGKILL, f"killed after {moment} s"
    assert "resuming" in finish(tmp_path)
    assert_same(restored(tmp_path), reference[0])
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["25", "30"]
    assert read_log(tmp_path) == read_log(reference[1]), f"killed after {moment} s"


def test_devices_may_change_and_do_not_matter(tmp_path, reference):
    """8 devices, then 1, then 8: a mean is summed in another order, hence float32 rounding over 30 steps."""
    assert "compiling for 8 x cpu" in finish(tmp_path, "--kill", "writing", devices=8, status=-signal.SIGKILL)
    assert "compiling for 1 x cpu" in finish(tmp_path, "--kill", "deleting", status=-signal.SIGKILL)
    assert "devices were" in finish(tmp_path, devices=8)
    assert_same(restored(tmp_path), reference[0], rtol=2e-3, atol=2e-5)
    last, expected = read_log(tmp_path)[-1], read_log(reference[1])[-1]
    assert last["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_a_batch_must_divide_over_the_devices():
    with pytest.raises(AirjaxError, match=r"\['image'\]: expected a batch divisible by 8 devices, got 6"):
        loop._put({"image": np.zeros((6, 36))}, SimpleNamespace(size=8))


# --- errors --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    keep: int = 2  # the name of a free setting of the loop, but not free itself
    memory: int = free(10)
    folders: tuple[str, ...] = where(())


@dataclass(frozen=True)
class Experiment:
    rate: float
    path: Path
    loop: LoopConfig
    data: Data = Data()


def test_a_folder_belongs_to_one_run(tmp_path):
    first = Experiment(0.1, Path("x"), LoopConfig(2))
    toy(tmp_path, LoopConfig(2), resolved_config=first)
    # How often things are shown or kept may change; what is computed may not.
    more = LoopConfig(2, log_every=7, keep=5, max_seconds=60)
    toy(tmp_path, more, resolved_config=Experiment(0.1, Path("x"), more, Data(memory=20)))
    with pytest.raises(AirjaxError, match=r"other settings: config.rate was 0.1, is now 0.2; choose another"):
        toy(tmp_path, LoopConfig(2), resolved_config=Experiment(0.2, Path("x"), LoopConfig(2)))
    with pytest.raises(AirjaxError, match=r"other settings: config.data.keep was 2, is now 3; choose another"):
        toy(tmp_path, LoopConfig(2), resolved_config=Experiment(0.1, Path("x"), LoopConfig(2), Data(keep=3)))
    with pytest.raises(AirjaxError, match=r"config.loop.seed was 0, is now 1 \(and 2 more\)"):
        other = LoopConfig(2, seed=1)
        toy(tmp_path, other, resolved_config=Experiment(0.1, Path("y"), other))
    for text in ("{", "[]", "{}"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(AirjaxError, match=r"config.json: expected the settings of a run"):
            toy(tmp_path, LoopConfig(2))
    (tmp_path / "config.json").unlink()
    with pytest.raises(AirjaxError, match=r"holds checkpoints without a config.json"):
        toy(tmp_path, LoopConfig(2))


def test_data_may_lie_elsewhere_but_not_be_others(tmp_path):
    def run(place: str, content: str):
        config = {"data": Data(folders=(place,))}
        return toy(tmp_path, LoopConfig(2), resolved_config=config, content=content)

    run("here", "abc")
    run("there", "abc")
    with pytest.raises(AirjaxError, match=r"other settings: content was 'abc', is now 'xyz'; choose another"):
        run("there", "xyz")


def test_a_run_goes_on_past_its_last_step(tmp_path):
    """Oracle: the run that had all the steps from the beginning; the toy's rate does not depend on their number."""
    toy(tmp_path / "short", LoopConfig(4))
    config = LoopConfig(4, extensions=(7,))
    assert (config.ends, config.last_step) == ((4, 7), 7)
    assert_same(toy(tmp_path / "short", config), toy(tmp_path / "long", LoopConfig(7)))
    assert read_log(tmp_path / "short")[-1]["step"] == 7
    with pytest.raises(AirjaxError, match=r"extensions: expected increasing steps after 4, got \(3,\)"):
        LoopConfig(4, extensions=(3,))


def test_fewer_devices_than_asked_for():
    assert len(LoopConfig(1, devices=1).use_devices()) == 1
    with pytest.raises(AirjaxError, match=r"^--loop.devices: expected at most \d+, which there are, got 4096"):
        LoopConfig(1, devices=4096).use_devices()


def test_two_processes_do_not_share_a_folder(tmp_path):
    pytest.importorskip("fcntl")
    hold = "import fcntl as f, sys; h = open(sys.argv[1], 'a'); f.lockf(h, f.LOCK_EX); print(flush=1); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(AirjaxError, match="another process is training in this folder"):
            toy(tmp_path)
        other.communicate("\n")
    toy(tmp_path, LoopConfig(1))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batches_fn": lambda start: iter([next(batches_fn(0))])}, AirjaxError, "data: ended after step 1"),
        (
            {"step_fn": lambda s, b: (s, {"psnr": s.step})},
            ValueError,
            "expected a dict of metrics with 'loss'",
        ),
        (
            {"step_fn": lambda s, b: (s, {"loss": s.params["first"]["b"]})},
            ValueError,
            "'loss': expected a scalar",
        ),
        ({"panel_fn": lambda s, i: np.zeros((2, 2))}, ValueError, r"panel_fn: expected uint8 \(h, w, 3\)"),
    ],
)
def test_what_the_caller_got_wrong(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        toy(tmp_path, LoopConfig(3, panel_every=1), **changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_steps", -1),
        ("log_every", 0),
        ("checkpoint_every", -1),
        ("panel_every", -1),
        ("keep", 0),
        ("devices", 0),
        ("max_seconds", 0),
    ],
)
def test_settings_out_of_range(field, value):
    with pytest.raises(AirjaxError, match=f"{field}: expected .* got {value}"):
        LoopConfig(**({"num_steps": 1} | {field: value}))


# --- the toy as a program ------------------------------------------------------------------------------


def _kill_at(module, name: str, call: int, counts=lambda *args: True, before=lambda *args: None):
    """Replace a function so that its n-th call that counts is the end of this process."""
    original, calls = getattr(module, name), []

    def counted(*args, **kwargs):
        if counts(*args, **kwargs):
            calls.append(1)
        if len(calls) == call:
            before(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(module, name, counted)


def _half_a_line(journal, *_):
    journal._file.write('{"step": 24, "loss"')
    journal._file.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill", choices=["writing", "deleting", "logging"])
    parser.add_argument("--pause", type=float, default=0.0)
    arguments = parser.parse_args()
    if arguments.kill == "writing":  # the second checkpoint, complete but not yet renamed
        _kill_at(os, "rename", 2, counts=lambda source, target: Path(target).name.isdecimal())
    elif arguments.kill == "deleting":  # the old checkpoint has lost its name, its files are still there
        gone = lambda path, **_: Path(path).name == ".deleted" and Path(path).exists()  # noqa: E731
        _kill_at(checkpoint.shutil, "rmtree", 1, counts=gone)
    elif arguments.kill == "logging":
        _kill_at(loop._Journal, "write", 2, before=_half_a_line)
    toy(arguments.out, batches_fn=partial(batches_fn, pause=arguments.pause), echo=print)
