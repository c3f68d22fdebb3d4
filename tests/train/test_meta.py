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
from airjax.image.task import RATES, Coordinates
from airjax.inner import estimators
from airjax.inner.estimators import clip_rows
from train.configs import metagrad as config
from train.image.experiment import make_step, run
from train.image.losses import draw_control
from train.image.meta import ImageMeta
from train.meta import learned_rates, meta_loss, start_log_rates

STANDARD = partial(jax.numpy_dtype_promotion, "standard")  # optax raises Python floats to the power of an int32
EXPERIMENT = config.experiment(True, "first_order")


@pytest.fixture(scope="module")
def state():
    """Fresh weights of two stages."""
    return {"params": init_params(jax.random.key(0), EXPERIMENT.stages), "log_rates": start_log_rates()}


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))


def loss_of(phase, trained, images):
    draw = partial(draw_control, phase=phase)
    return meta_loss(trained, images, jax.random.key(2), phase, EXPERIMENT.stages, draw)


def test_rows_are_clipped_at_the_median():
    """Three rows in use with norms 1, 1 and 100 (in units of the rates), one that is not in use."""
    means = jnp.array([[1.0, 0.0], [0.0, 1.0], [100.0, 0.0], [0.0, 0.0]])
    nothing = Coordinates(means, jnp.zeros((4, 2)), jnp.zeros(4), jnp.zeros((4, 3)))
    rates = Coordinates(*(jnp.float32(1) for _ in Coordinates._fields))
    clipped = clip_rows(nothing, rates, jnp.array([True, True, True, False]), limit=10.0)
    norms = np.linalg.norm(clipped.means, axis=1)
    np.testing.assert_allclose(norms, np.array([1, 1, 10, 0]) / np.sqrt(102), rtol=1e-5)
    zero = clip_rows(jax.tree.map(jnp.zeros_like, nothing), rates, jnp.ones(4, bool), limit=10.0)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in zero)


def test_the_logged_loss_is_minus_the_psnr(state, images):
    phase = dataclasses.replace(EXPERIMENT.phase, estimator=estimators.estimator("zero_step"))
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
    for variant, rates_move in (("first_order", False), ("meta_sgd", True), ("rates_es", True)):
        init, step = make_step(config.experiment(True, variant))
        before, step = init(state["params"]), jax.jit(step)
        with STANDARD():
            after, _ = step(before, images)
            after, _ = step(after, images)  # the warm-up begins at a rate of 0
        moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), before, after)
        for path, flag in jax.tree_util.tree_flatten_with_path(moved["params"])[0]:
            if "kernel" in jax.tree_util.keystr(path):
                assert flag == ("head" in jax.tree_util.keystr(path) and variant != "rates_es")
        assert set(jax.tree.leaves(moved["log_rates"])) == {rates_move}


@pytest.mark.parametrize("variant", ["full_multi_anchor", "meta_sgd"])
def test_smoke_run_writes_weights_with_rates(variant, tmp_path):
    """From a fresh start; the file says the rates that were learned, if any. Other variants differ in the estimator."""
    experiment = config.experiment(True, variant)
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(photos / "a.png")
    data = dataclasses.replace(experiment.data, folders=(str(photos),))
    with STANDARD():
        done = run(dataclasses.replace(experiment, data=data), tmp_path / "run")
    model = load(tmp_path / "run" / "weights.safetensors")
    if variant == "meta_sgd":
        np.testing.assert_allclose(model.rates, [float(r) for r in learned_rates(done["log_rates"])], rtol=1e-5)
    else:
        assert model.rates == RATES


def test_every_estimator_has_a_variant():
    assert {*config.VARIANTS, "finite_difference"} == set(estimators.ESTIMATORS)
    assert set(config.SMALL) == set(config.VARIANTS)
    for name in config.VARIANTS:
        assert config.experiment(False, f"full_{name}").phase.trained == "all"
    for name in config.RATES_VARIANTS:
        assert config.experiment(False, f"rates_{name}").phase.learn_rates
    with pytest.raises(KeyError):
        config.experiment(False, "rates_zero_step")


def test_bad_settings():
    with pytest.raises(AirjaxError, match="trained"):
        ImageMeta(estimators.estimator("zero_step"), trained="tail")
