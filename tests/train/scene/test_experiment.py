"""Training of the scene predictor: where scenes come from, one step, and what starts it."""

import dataclasses
import itertools
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import random_weights

from airjax.errors import AirjaxError
from airjax.scene.predictor import config_from_text
from airjax.scene.procedural import random_views
from airjax.weights_file import load_weights, save_weights
from train.main import load_experiment
from train.scene import experiment as module
from train.scene.data import SceneData, batches, split_views, texture_atlas
from train.scene.losses import Vanilla

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).resolve().parents[3] / "train" / "configs" / "foresplat.py"


@pytest.fixture(autouse=True)
def standard_promotion():
    """optax raises Python floats to the power of an int32."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(CONFIG, smoke=True)


def test_test_textures_are_of_other_photographs(tmp_path):
    """Each photograph has one colour: the two atlases share none."""
    for i in range(25):
        Image.new("RGB", (200, 180), (10 * i, i, 255 - i)).save(tmp_path / f"{i:02d}.png")
    data = SceneData(folders=(str(tmp_path),))
    train, test = ({tuple(t[0, 0]) for t in texture_atlas(data, test=test)} for test in (False, True))
    assert len(train) == 22 and len(test) == 3 and not train & test
    assert texture_atlas(data).shape == (44, 64, 64, 3)
    with pytest.raises(AirjaxError, match="none: expected a folder of photographs, found nothing"):
        texture_atlas(SceneData(folders=(str(tmp_path / "none"),)))
    with pytest.raises(AirjaxError, match=r"got none; give --data\.folders"):
        texture_atlas(SceneData())
    with pytest.raises(AirjaxError, match=r"got none; give --data\.scenes SCENE"):
        SceneData(real=1).open_scenes()


def test_scenes_of_a_step_are_the_same_whenever_it_is_reached():
    data = SceneData(batch_size=3)
    stream = batches(data, (), 0)
    first = [next(stream)["seeds"] for _ in range(4)]
    np.testing.assert_array_equal(next(batches(data, (), 3))["seeds"], first[3])
    assert len({int(seed) for seeds in first for seed in seeds}) == 12


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    """(experiment, folder) of a run of thirty steps, all on the same two scenes; it needs no photographs."""
    loop = {"num_steps": 30, "log_every": 1, "checkpoint_every": 0, "panel_every": 30}
    experiment = experiment.with_(loop=loop, optimizer={"warmup": 1, "learning_rate": 3e-3})
    folder = tmp_path_factory.mktemp("scenes") / "run"
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(module, "batches", lambda *given: itertools.repeat(next(batches(*given))))
        experiment.run(folder)
    return experiment, folder


def test_a_run_learns(finished):
    log = [json.loads(line) for line in (finished[1] / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log]
    assert np.isfinite(losses).all() and losses[-1] < losses[0] - 0.1
    assert log[-1]["overflow"] == 0 and 10 < log[-1]["psnr"] < 50
    (panel,) = finished[1].glob("**/*.png")
    with Image.open(panel) as picture:
        assert picture.size == (5 * 32, 4 * 32) and np.asarray(picture).std() > 10


def test_weights_carry_their_configuration(finished):
    experiment, folder = finished
    params, metadata = load_weights(folder / "weights.safetensors")
    assert config_from_text(metadata["predictor"], source="x") == experiment.predictor
    loaded = experiment.load_params(folder / "weights.safetensors", params)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))


def test_a_view_that_overflows_sends_no_gradient(experiment):
    """Nor does the other one, which fits, since it sees but a corner of the scene."""
    small = experiment.with_(phase=Vanilla(depth=0.0, capacity=(1024, 16)))
    atlas = jnp.asarray(texture_atlas(small.data), jnp.float32) / 255
    views = jax.jit(lambda key: random_views(key, atlas, image_size=(32, 32), num_views=4))(jax.random.key(0))
    aside = views.cameras.intrinsics.at[3, :2, 2].add(26.0)
    views = views._replace(cameras=dataclasses.replace(views.cameras, intrinsics=aside))
    params = random_weights(small.predictor)
    parts = split_views(views, 2)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params):
        return small.phase.scene_loss({"params": params}, *parts, jax.random.key(0), small)

    grads, metrics = gradient(params)
    assert float(metrics["overflow"]) == 1
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_what_cannot_start_a_run(experiment, tmp_path):
    like = random_weights(experiment.predictor)
    with pytest.raises(AirjaxError, match="expected a run folder or a weights file to start from, found none"):
        experiment.load_params(tmp_path / "none", like)
    save_weights(tmp_path / "w.safetensors", {"other": jnp.zeros(3)})
    with pytest.raises(AirjaxError, match="expected weights of the model of foresplat_smoke, got others"):
        experiment.load_params(tmp_path / "w.safetensors", like)


def test_a_loss_of_ones_own(experiment):
    """Oracle: the loss of the vanilla phase is that of a function with its formula; another one has another value."""
    atlas = jnp.asarray(texture_atlas(experiment.data), jnp.float32) / 255
    views = jax.jit(lambda key: random_views(key, atlas, image_size=(32, 32), num_views=4))(jax.random.key(0))
    params, parts = random_weights(experiment.predictor), split_views(views, 2)

    def logarithm(images, rendered):
        return 0.5 * jnp.log(jnp.mean(jnp.square(images - rendered)) + 1e-4)

    def absolute(images, rendered):
        return jnp.mean(jnp.abs(images - rendered))

    @jax.jit
    def losses(params):
        phases = [dataclasses.replace(experiment.phase, loss_fn=fn) for fn in (None, logarithm, absolute)]
        key = jax.random.key(0)
        return [phase.scene_loss({"params": params}, *parts, key, experiment)[0] for phase in phases]

    plain, same, other = losses(params)
    np.testing.assert_allclose(plain, same, rtol=1e-5)
    assert float(other) > 0 and abs(float(other) - float(plain)) > 0.1
