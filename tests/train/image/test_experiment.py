"""The train steps of both phases on one tiny batch, the stage schedule, devices, the experiments in files.

Run as a program (`python tests/train/image/test_experiment.py OUT`) this file trains the tiny experiments on all
devices that there are and saves their states.
"""

import dataclasses
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from devices import environment
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from airjax import weights_file
from airjax.errors import AirjaxError
from airjax.image.model import DEFAULT_WEIGHTS
from airjax.image.patches import PatchMap
from airjax.image.stages import StageConfig, init_params, predictors
from airjax.nn.air_stage import PredictorConfig
from train import checkpoint
from train.image.data import DataConfig
from train.image.experiment import ImageExperiment
from train.image.losses import Compact, Joint
from train.image.pod import Pod
from train.loop import LoopConfig
from train.main import load_experiment
from train.optim import Optimizer
from train.scene.experiment import SceneExperiment
from train.scene.heads import HeadExperiment
from train.scene.unposed import UnposedExperiment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted(path for path in (ROOT / "train" / "configs").glob("*.py") if path.name != "__init__.py")
STAGES = (StageConfig(PatchMap(8, offset=0.5, max_scale=2.4), PredictorConfig(features=16, blocks=1)),) * 2
NUM_STEPS, SWITCH = 6, 2
# Every patch is active in every step, so that the steps differ by the weights alone.
ALWAYS = {"log10_mse": (-9.0, -9.0), "budget": (2.0, 2.0)}
PHASES = {
    "joint": Joint(stage_weights=(0.5, 1.0), **ALWAYS),
    "compact": Compact(joint=Joint(stage_weights=(0.5, 1.0), **ALWAYS), mse_per_step=(1e-9, 1e-9), share=1.0),
    "pod": Pod(start_steps=(0, SWITCH), inner_steps=(2, 3), **ALWAYS),
}


@cache
def fresh_params(seed: int = 0, stages: tuple[StageConfig, ...] = STAGES):
    return jax.jit(init_params, static_argnums=1)(jax.random.key(seed), stages)


def tiny(name: str, **changes) -> ImageExperiment:
    experiment = ImageExperiment(
        name="tiny",
        phase=PHASES[name],
        stages=STAGES,
        optimizer=Optimizer(learning_rate=1e-2),
        loop=LoopConfig(num_steps=NUM_STEPS),
        data=DataConfig(folders=("nowhere",)),
    )
    return dataclasses.replace(experiment, **changes)


def images() -> np.ndarray:
    """Eight smooth random images of 16 x 16."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] / 8
    a, b, c = rng.uniform(-2, 2, (3, 8, 1, 1, 3))
    return np.float32(0.5 + 0.4 * np.sin(a * x[None, :, :, None] + b * y[None, :, :, None] + c))


def trained(phase: str) -> tuple[list[dict], list[dict]]:
    """(states, metrics) of a tiny run on the batch `images()`, split over the devices as `train.loop` does."""
    make_state, step_fn = tiny(phase).make_step()

    def step(state, batch):
        with jax.numpy_dtype_promotion("standard"):  # optax raises Python floats to the power of an int32
            return step_fn(state, batch)

    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    replicated = NamedSharding(mesh, PartitionSpec())
    run = jax.jit(step, out_shardings=(replicated, replicated))
    batch = jax.device_put(images(), NamedSharding(mesh, PartitionSpec("data")))
    # Without weak types, like the state in `train.loop`, so that the step compiles once.
    state = jax.tree.map(lambda leaf: jnp.array(leaf, leaf.dtype), make_state(fresh_params()))
    state, metrics = jax.device_put(state, replicated), []
    states = [jax.device_get(state)]
    for _ in range(NUM_STEPS):
        state, info = run(state, batch)
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(info))
    return states, metrics


trained_here = cache(trained)


def assert_same(actual, expected, **tolerance):
    """Bit for bit, unless a tolerance is given."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        options = {"rtol": 0, "atol": 0} | tolerance
        np.testing.assert_allclose(a, b, err_msg=jax.tree_util.keystr(path), **options)


def differs(a, b) -> bool:
    return any(np.any(x != y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# --- one step, and a few -------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "golden"), [("joint", 0.789621), ("compact", 0.791184), ("pod", 1.21053e-05)])
def test_the_loss_of_the_first_step(phase, golden):
    """Oracle: the number this step gave when it was written; rtol is that of sums in another order."""
    loss = float(trained_here(phase)[1][0]["loss"])
    assert loss == pytest.approx(golden, rel=1e-3), (
        f"the first {phase} step's loss is {loss:.6g}; if network, renderer or loss changed on purpose, "
        "check that training still works and put the new number here"
    )


def test_joint_training_lowers_the_loss():
    metrics = trained_here("joint")[1]
    losses = [float(m["loss"]) for m in metrics]
    assert losses[0] == losses[1]  # the warm-up begins at rate 0
    assert losses[-1] < 0.9 * losses[0]
    assert metrics[-1]["psnr1"] > metrics[0]["psnr1"]
    assert all(m["active"] == 1 for m in metrics)


def test_compact_training_lowers_the_loss():
    """On the rounded image and its bits together; nothing is said of images on which nothing is rounded."""
    metrics = trained_here("compact")[1]
    losses = [float(m["loss"]) for m in metrics]  # bins and budgets are drawn anew in every step
    assert np.mean(losses[-2:]) < 0.95 * np.mean(losses[:2])
    assert all(np.isnan(m["psnr"]) and np.isfinite(m["psnr_rounded"]) and m["bits"] > 1 for m in metrics)


def test_the_rate_is_added_where_something_is_rounded():
    """Oracle: the loss is linear in the weight of the rate; with share 0 it does not depend on it."""
    trainable = {"params": trained_here("compact")[0][-1]["params"]}

    @jax.jit
    def gradient(weight, share):
        phase = dataclasses.replace(PHASES["compact"], share=share, weight=weight)
        grad_fn = jax.value_and_grad(phase.loss, has_aux=True)
        (loss, metrics), grads = grad_fn(trainable, images(), jax.random.key(3), tiny("compact"))
        return loss, metrics["bpp"], grads

    losses = [float(gradient(jnp.float32(weight), jnp.float32(1))[0]) for weight in (0.0, 1.0, 2.0)]
    assert losses[1] > losses[0]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)
    loss, bpp, grads = gradient(jnp.float32(1), jnp.float32(0))
    assert np.isnan(bpp) and float(loss) == float(gradient(jnp.float32(5), jnp.float32(0))[0])
    finite = jax.tree.map(lambda leaf: bool(jnp.isfinite(leaf).all()), grads)
    assert all(jax.tree.leaves(finite))


def test_pod_training_raises_the_psnr():
    """The POD loss is a distance to a moving target: what has to improve is the picture."""
    metrics = trained_here("pod")[1]
    assert metrics[-1]["psnr0"] > metrics[0]["psnr0"] + 0.5
    assert all(m["loss"] == m["pod0"] + m["pod1"] > 0 for m in metrics)


# --- the stage schedule --------------------------------------------------------------------------------


def test_a_stage_that_is_off_does_not_change():
    states, metrics = trained_here("pod")
    for state in states[1 : SWITCH + 1]:
        for part in ("params", "opt_state"):
            assert_same(state[part]["stage1"], states[0][part]["stage1"])
    assert differs(states[SWITCH]["params"]["stage0"], states[0]["params"]["stage0"])
    for m in metrics[:SWITCH]:
        assert m["pod1"] == 0 and np.isnan(m["psnr1"]) and m["active"] == 0.5
    for m in metrics[SWITCH:]:
        assert m["pod1"] > 0 and np.isfinite(m["psnr1"]) and m["active"] == 1


def test_a_stage_begins_as_a_copy_of_the_one_before():
    """Its own warm-up begins at rate 0, so its first step leaves the copy as it is."""
    states, _ = trained_here("pod")
    assert_same(states[SWITCH + 1]["params"]["stage1"], states[SWITCH]["params"]["stage0"])
    assert differs(states[SWITCH + 1]["params"]["stage1"], states[SWITCH]["params"]["stage1"])
    assert differs(states[SWITCH + 2]["params"]["stage1"], states[SWITCH + 1]["params"]["stage1"])


def test_stages_that_are_off_are_skipped_at_run_time():
    """One branch per stage at the top of the program; under `vmap` a select would run both sides."""
    make_state, step_fn = tiny("pod").make_step()
    state = make_state(fresh_params())
    with jax.numpy_dtype_promotion("standard"):
        program = jax.make_jaxpr(step_fn)(state, jnp.asarray(images()))
    assert sum(equation.primitive.name == "cond" for equation in program.eqns) == len(STAGES)


# --- devices -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory) -> Path:
    """The folder in which this file, as a program with eight devices, left its final states."""
    out_dir = tmp_path_factory.mktemp("eight")
    command = [sys.executable, str(Path(__file__).resolve()), str(out_dir)]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out_dir


@pytest.mark.parametrize("phase", PHASES)
def test_eight_devices_train_as_one(phase, eight_devices):
    """The batch is split over them; only the order of the sums over it may differ.

    Adam turns the rounding of a small gradient into a part of its step, so the norm of the way from the start is
    compared; devices that did not add up their gradients would be off by about the whole of it.
    """
    states, _ = trained_here(phase)
    start, one = (jax.flatten_util.ravel_pytree(state["params"])[0] for state in (states[0], states[-1]))
    eight = jax.flatten_util.ravel_pytree(checkpoint.restore_part(eight_devices / phase, "params"))[0]
    assert jnp.linalg.norm(eight - one) < 0.02 * jnp.linalg.norm(one - start)


def test_a_loss_of_ones_own():
    """Oracle: the metrics of the renders that it was given; the gradient is that of the new loss."""

    def loss(image, trace):
        return jnp.mean(jnp.abs(image - trace[-1].rendered) ** 1.5)

    experiment = tiny("joint").with_(phase={"loss_fn": loss}, loop={"num_steps": 3})
    assert experiment.loop == LoopConfig(num_steps=3) and experiment.stages == STAGES

    @jax.jit
    def losses(params):
        plain, own = (
            jax.value_and_grad(lambda params, phase=phase: phase.loss({"params": params}, *given)[0])(params)
            for phase in (PHASES["joint"], experiment.phase)
        )
        return plain, own

    given = images(), jax.random.key(0), experiment
    plain, own = losses(fresh_params())
    assert 0 < float(own[0]) < float(plain[0]) and differs(own[1], plain[1])


# --- settings ------------------------------------------------------------------------------------------


def test_inner_steps_default_to_those_of_air():
    assert Pod(start_steps=(0, 2, 5)).inner_steps == (20, 40, 60)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_steps": ()}, "start_steps: expected 0, then increasing steps"),
        ({"start_steps": (1, 2)}, "start_steps: expected 0, then increasing steps"),
        ({"start_steps": (0, 2, 2)}, "start_steps: expected 0, then increasing steps"),
        ({"start_steps": (0, 2), "inner_steps": (5,)}, "inner_steps: expected 2 numbers of at least 1"),
        ({"start_steps": (0, 2), "inner_steps": (5, 0)}, "inner_steps: expected 2 numbers of at least 1"),
    ],
)
def test_pod_refuses(settings, message):
    with pytest.raises(AirjaxError, match=message):
        Pod(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phase": Pod(start_steps=(0, 1, 2))}, "start_steps: expected 2, one per stage, got 3"),
        ({"loop": LoopConfig(num_steps=SWITCH)}, "start_steps: expected less than num_steps 2"),
        (
            {"stages": (STAGES[0], StageConfig(PatchMap(8)))},
            "stages: expected the same network and patch size",
        ),
    ],
)
def test_pod_must_fit_the_experiment(changes, message):
    with pytest.raises(AirjaxError, match=message):
        tiny("pod", **changes).make_step()


def test_a_run_starts_from_the_weights_of_another_phase(tmp_path):
    """From a run folder, whose state has another optimiser, and from a file; other shapes are refused."""
    fresh = fresh_params(1)
    state = jax.tree.map(jnp.asarray, trained_here("pod")[0][-1])
    checkpoint.save(tmp_path / "run" / "checkpoints", NUM_STEPS, state)
    weights_file.save_weights(tmp_path / "w.safetensors", jax.device_get(state["params"]), {})
    for source in ("run", "w.safetensors"):
        assert_same(tiny("joint").load_params(tmp_path / source, fresh), state["params"])
    other = fresh_params(1, (StageConfig(PatchMap(8), PredictorConfig(features=8, blocks=1)),))
    with pytest.raises(AirjaxError, match=r"run: expected weights of the model of tiny, got others"):
        tiny("joint").load_params(tmp_path / "run", other)
    with pytest.raises(AirjaxError, match="nowhere: expected a run folder or a weights file to start from"):
        tiny("joint").load_params(tmp_path / "nowhere", fresh)


def test_a_network_grows_out_of_a_smaller_one(tmp_path):
    """New inputs and votes start at zero, so the grown network predicts what the small one did."""
    small = fresh_params()
    weights_file.save_weights(tmp_path / "w.safetensors", jax.device_get(small), {})
    network = dataclasses.replace(STAGES[0].network, votes=6)
    stages = (dataclasses.replace(STAGES[0], network=network),) * 3
    larger = tiny("joint", stages=stages, init_stages=(0, 0, 1))
    grown = larger.load_params(tmp_path / "w.safetensors", fresh_params(1, stages))
    patches = jnp.asarray(np.random.default_rng(0).normal(0, 0.3, (2, 3, 192)), jnp.float32)
    for i, k in enumerate((0, 0, 1)):
        before = predictors(STAGES)[k].apply(small[f"stage{k}"], patches)
        after = predictors(stages)[i].apply(grown[f"stage{i}"], patches, jnp.ones(2))
        np.testing.assert_array_equal(after[..., :8], before)
        assert not np.any(after[..., 8:])
    with pytest.raises(AirjaxError, match="found no stage 5"):
        larger.with_(init_stages=(0, 0, 5)).load_params(tmp_path / "w.safetensors", fresh_params(1, stages))


# --- the experiments in files --------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_a_whole_experiment(path):
    """It opens with its command, its phase fits its stages, and its smoke variant is the same, small."""
    opening = path.read_text().split('"""')[1]
    full, smoke = (load_experiment(path, smoke) for smoke in (False, True))
    assert full.name.startswith(path.stem) and smoke.name == f"{full.name}_smoke"
    assert type(full.phase) is type(smoke.phase) and smoke.loop.num_steps <= 40
    source = "--data.backbone" if isinstance(full, HeadExperiment) else "--data.folders PHOTOGRAPHS"
    assert f"python -m train.main {path.stem} {source}" in opening
    if isinstance(full, SceneExperiment | UnposedExperiment | HeadExperiment):
        assert max(smoke.data.image_size) <= 42 and smoke.data.made_up and hash(full) != hash(smoke)
        return
    assert smoke.data.crop_size <= 32 and len(smoke.stages) <= 2
    for experiment in (full, smoke):
        hash(experiment)
        experiment.make_step()
        joint = getattr(experiment.phase, "joint", experiment.phase)
        if isinstance(joint, Joint):
            assert len(joint.stage_weights) == len(experiment.stages)
        if experiment.init_stages is not None:
            assert len(experiment.init_stages) == len(experiment.stages)
    assert not full.data.folders and not full.data.made_up and smoke.data.made_up
    if full.init not in (None, str(DEFAULT_WEIGHTS)):
        assert full.init in [f"runs/{other.stem}" for other in CONFIGS]


if __name__ == "__main__":
    for name in PHASES:
        checkpoint.save(Path(sys.argv[1]) / name, NUM_STEPS, trained(name)[0][-1])
