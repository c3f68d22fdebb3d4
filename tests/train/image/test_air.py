"""What a training of AIR's own network starts from and steps by."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from train.configs import air_patch, air_pod, air_quantise
from train.optim import Optimizer


def numbered(experiment, start):
    """Weights of an experiment's shapes, no two arrays with the same number."""
    shapes = jax.eval_shape(experiment.init_params, jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [np.full(leaf.shape, start + i, np.float32) for i, leaf in enumerate(leaves)])


def test_an_encoder_alone_starts_every_stage():
    experiment = air_pod.experiment(True)
    like = numbered(experiment, 0)
    encoder = jax.tree.map(np.zeros_like, like["stage0"]["encoder"])
    params = experiment.adapt({"encoder": encoder}, like, Path("x"))
    for name in ("stage0", "stage1"):
        assert params[name]["encoder"] is encoder and params[name]["neck"] is like[name]["neck"]


def test_another_patch_size_starts_with_fresh_patches():
    pod, patch = air_pod.experiment(True), air_patch.experiment(True, "5")
    loaded, like = numbered(pod, 1000) | {"quantiser": {}}, numbered(patch, 0)
    params = patch.adapt(loaded, like, Path("x"))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, like)
    assert params["stage1"]["patches"] is like["stage1"]["patches"]
    assert params["stage1"]["neck"] is loaded["stage1"]["neck"]


def test_the_quantiser_is_the_files_or_fresh():
    experiment = air_quantise.experiment(True)
    like = numbered(experiment, 0)
    loaded = numbered(experiment, 1000)
    assert experiment.adapt(loaded, like, Path("x"))["quantiser"] is loaded["quantiser"]
    del loaded["quantiser"]
    assert experiment.adapt(loaded, like, Path("x"))["quantiser"] is like["quantiser"]


def test_the_encoder_is_slower_and_its_periods_stay():
    weights = {"kernel": jnp.ones(2), "periods": jnp.ones(2)}
    params = {"params": {"encoder": weights, "neck": weights}}
    tx = Optimizer(learning_rate=1e-2, warmup=1, weight_decay=0.1, encoder_rate=0.1).make(100)
    grads = jax.tree.map_with_path(lambda path, x: x * float("periods" not in jax.tree_util.keystr(path)), params)
    state, updates = tx.init(params), None
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            updates, state = tx.update(grads, state, params)
    fast, slow = updates["params"]["neck"]["kernel"], updates["params"]["encoder"]["kernel"]
    np.testing.assert_allclose(slow, 0.1 * fast, rtol=1e-6)
    np.testing.assert_array_equal(updates["params"]["encoder"]["periods"], np.zeros(2))
    plain = Optimizer(learning_rate=1e-2).make(100).init(params)
    assert len(jax.tree.leaves(plain)) == len(jax.tree.leaves(state))
