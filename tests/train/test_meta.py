"""The MetaGrad phase; oracles: the plain loss of a prediction, hand-made gradients, smoke runs."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from airjax.errors import AirjaxError
from airjax.image.model import load
from airjax.image.stages import init_params
from airjax.inner.estimators import ESTIMATORS, estimator
from train.configs import foresplat_metagrad as scene_config
from train.configs import metagrad as config
from train.image.meta import ImageMeta
from train.scene.losses import SceneMeta

pytestmark = pytest.mark.slow

STANDARD = partial(jax.numpy_dtype_promotion, "standard")  # optax raises Python floats to the power of an int32
EXPERIMENT = config.experiment(True, "first_order")


@pytest.fixture(scope="module")
def state():
    """Fresh weights of two stages."""
    return EXPERIMENT.phase.make_trained(
        jax.jit(init_params, static_argnums=1)(jax.random.key(0), EXPERIMENT.stages), EXPERIMENT
    )


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))


def loss_of(phase, trained, images):
    return jax.jit(lambda *args: phase.loss(*args, EXPERIMENT))(trained, images, jax.random.key(2))


def test_the_logged_loss_is_minus_the_psnr(state, images):
    phase = dataclasses.replace(EXPERIMENT.phase, estimator=estimator("zero_step"))
    loss, metrics = loss_of(phase, state, images)
    np.testing.assert_allclose(loss, -metrics["psnr"], rtol=1e-5)
    np.testing.assert_allclose(metrics["psnr_refined"], metrics["psnr"], rtol=1e-5)


def test_refinement_helps_and_an_image_that_overflows_sends_no_gradient(state, images):
    _, metrics = loss_of(EXPERIMENT.phase, state, images)
    assert metrics["psnr_refined"] > metrics["psnr"] and metrics["overflow"] == 0
    full = dataclasses.replace(EXPERIMENT.phase, budget=(1.0, 1.0))
    tight = dataclasses.replace(full, pairs=1)
    large = jnp.tile(images, (1, 6, 6, 1))
    (_, seen), grads = jax.value_and_grad(lambda t: loss_of(tight, t, large), has_aux=True)(state)
    assert seen["overflow"] == 1
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(grads))


def test_only_what_is_trained_moves(state, images):
    for variant, rates_move in (("zero_step", False), ("meta_sgd", True), ("rates_es", True)):
        init, step = config.experiment(True, variant).make_step()
        before, step = init(state["params"]), jax.jit(step)
        with STANDARD():
            after, _ = step(before, images)
            after, _ = step(after, images)  # the warm-up begins at a rate of 0
        moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), before, after)
        for path, flag in jax.tree_util.tree_flatten_with_path(moved["params"])[0]:
            if "kernel" in jax.tree_util.keystr(path):
                assert flag == ("head" in jax.tree_util.keystr(path) and variant != "rates_es")
        assert set(jax.tree.leaves(moved["log_rates"])) == {rates_move}


def test_all_weights_move_where_all_are_trained(state):
    experiment = config.experiment(True, "full_zero_step")
    tx = experiment.phase.make_tx(experiment.optimizer, (10,))
    with STANDARD():
        opt_state, grads = tx.init(state), jax.tree.map(jnp.ones_like, state)
        for _ in range(2):  # the warm-up begins at a rate of 0
            updates, opt_state = tx.update(grads, opt_state, state)
    assert all(np.all(leaf) for leaf in jax.tree.leaves(updates["params"]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates["log_rates"]))


def test_smoke_run_writes_weights_with_rates(tmp_path):
    """The rates that were learned, not those it began with."""
    experiment = config.experiment(True, "meta_sgd")
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(photos / "a.png")
    with STANDARD():
        done = experiment.with_(data={"folders": (str(photos),)}).run(tmp_path / "run")
    rates = load(tmp_path / "run" / "weights.safetensors").rates
    np.testing.assert_allclose(rates, [float(r) for r in experiment.phase.rates(done["log_rates"])], rtol=1e-5)
    assert rates != experiment.phase.start_rates


@pytest.mark.parametrize("module", [config, scene_config], ids=["image", "scene"])
def test_every_estimator_has_a_variant(module):
    """For the head; for the rates those that say so. Names that are none are one line for the user."""
    for name in ESTIMATORS:
        full, smoke = (module.experiment(flag, name).phase for flag in (False, True))
        assert full.estimator.name == smoke.estimator.name == name and full.trained == smoke.trained == "head"
        assert full.learn_rates == smoke.learn_rates == (name == "meta_sgd")
    for name in module.VARIANTS.rates:
        phase = module.experiment(False, f"rates_{name}").phase
        assert phase.learn_rates and phase.trained == "rates"
    for wrong in ("rates_zero_step", "none"):
        with pytest.raises(AirjaxError, match=f"--variant: expected one of .*, got '{wrong}'"):
            module.experiment(False, wrong)


def test_all_weights_are_trained_in_2d_only():
    assert config.experiment(False, "full_budget").phase.trained == "all"
    with pytest.raises(AirjaxError, match="--variant"):
        scene_config.experiment(False, "full_budget")


@pytest.mark.parametrize("kind", [ImageMeta, SceneMeta])
def test_bad_settings(kind):
    with pytest.raises(AirjaxError, match="trained: expected one of head, all, rates, got 'tail'"):
        kind(estimator("zero_step"), trained="tail")
