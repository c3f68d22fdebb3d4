"""The colour solve on static lists, inside training: equal to that of the model, and differentiable."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.gaussians import join
from airjax.image import model
from airjax.image.patches import PatchMap
from airjax.image.stages import StageConfig, init_params, run_stages, solve_stages, stage_control_of
from airjax.nn.air_stage import PredictorConfig
from airjax.raster.draw import render

pytestmark = pytest.mark.slow

SIZE = (19, 26)  # patches hang over at two edges
STAGES = tuple(StageConfig(PatchMap(8, 0.75, 0.5, 4.2), PredictorConfig(8, 1, 2)) for _ in range(2))


def case():
    """(params, image, control) such that the second stage cannot serve every patch."""
    params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), STAGES)
    image = jax.random.uniform(jax.random.key(1), (*SIZE, 3))
    return params, image, stage_control_of(max_gaussians=17)


def test_it_solves_as_the_encoder_does_on_sorted_lists():
    params, image, control = case()
    trace = jax.jit(partial(run_stages, STAGES))(params, image, control)
    solved = jax.jit(partial(solve_stages, STAGES, num_steps=4))(trace, image)
    before, after = (join([stage.gaussians for stage in t]) for t in (trace, solved))
    used = np.asarray(before.active)
    assert 0 < used.sum() < used.size
    rows = jax.tree.map(lambda leaf: np.asarray(leaf)[used], before)
    expected = model.solve(rows, np.asarray(image), num_steps=4)
    # Two orders of summation of the same float32 numbers, through four steps.
    np.testing.assert_allclose(np.asarray(after.colors)[used], expected.colors, atol=2e-5)
    np.testing.assert_array_equal(np.asarray(after.colors)[~used], np.asarray(before.colors)[~used])
    np.testing.assert_allclose(solved[-1].rendered, render(after, image_size=SIZE).image, atol=2e-5)


def test_its_gradient_by_the_weights_is_the_slope_of_the_loss():
    params, image, control = case()

    def loss(params):
        trace = run_stages(STAGES, params, image, control)
        return jnp.mean(jnp.square(solve_stages(STAGES, trace, image, num_steps=2)[-1].rendered - image))

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    value, grads = value_and_grad(params)
    norm2 = float(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
    # A short step down the gradient lowers the loss by the step times its squared norm. Central difference: the
    # quadratic term cancels, and what is left is float32 rounding of the loss and the few pixels at the cut-off.
    size = 0.02 * float(value) / norm2
    up, down = (
        value_and_grad(jax.tree.map(lambda p, g, s=sign: p + s * size * g, params, grads))[0] for sign in (1, -1)
    )
    np.testing.assert_allclose(float(up - down) / (2 * size), norm2, rtol=0.05)
