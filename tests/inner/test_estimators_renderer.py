"""The estimators of the outer gradient through the real renderer: exactness in float64, and inactive slots in float32.

Letters: n Gaussians; the inner loss compares with one image, the outer one with another.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from airjax.gaussians import Gaussians2D
from airjax.inner.estimators import Problem, estimator, outer_gradient
from airjax.raster import additive
from airjax.raster.draw import render

pytestmark = pytest.mark.slow

SIZE = (12, 12)  # two by two tiles of 8 pixels, both edges cut
CAPACITY = 32
RATES = {"means": 0.1, "log_scales": 0.02, "angles": 0.02, "colors": 0.05}
STATE = {
    "means": np.array([[3.3, 4.1], [8.2, 7.7], [11.6, 2.2], [5.0, 10.3], [9.4, 5.1]]),
    "log_scales": np.log([[0.9, 1.3], [2.4, 1.1], [1.5, 3.1], [1.2, 2.0], [1.4, 1.0]]),
    "angles": np.array([0.3, 1.1, -0.6, 2.8, 0.5]),
    "colors": np.array([[0.8], [-0.5], [0.6], [0.7], [-0.4]]),  # one channel: a third of the time
}
IMAGES = np.random.default_rng(0).uniform(-0.5, 0.5, (2, *SIZE, 1))
EVERYONE = np.ones(5, bool)


@pytest.fixture(autouse=True)
def compiled_quickly(monkeypatch):
    """In a fifth of the time: groups of one slot instead of eight."""
    monkeypatch.setattr(additive, "_UNROLL", 1)


@partial(jax.jit, static_argnames="any_order")
def squared_error(state, image, active, any_order):
    gaussians = Gaussians2D(state["means"], jnp.exp(state["log_scales"]), state["angles"], state["colors"], active)
    options = {"capacity": CAPACITY, "smooth_cutoff": True, "any_order": any_order}
    return 0.5 * jnp.sum(jnp.square(render(gaussians, image_size=SIZE, **options).image - image))


@partial(jax.jit, static_argnames="how")
def estimate(key, state, rates, active, images, *, how):
    options = {"active": active, "any_order": how.needs_second_order}
    inner, outer = (partial(squared_error, image=image, **options) for image in images)
    return outer_gradient(key, state, rates, Problem(inner, outer), estimator=how)


def run(name, state, active=EVERYONE, **options):
    images = IMAGES.astype(state["means"].dtype)
    rates = jax.tree.map(lambda r: np.asarray(r, images.dtype), RATES)
    return estimate(jax.random.key(0), state, rates, active, images, how=estimator(name, **options))


def assert_close(actual, expected, tolerance):
    """Relative to the largest number of each attribute."""
    for name, value in expected.items():
        atol = tolerance * np.abs(value).max()
        np.testing.assert_allclose(actual[name], value, atol=atol, rtol=0, err_msg=name)


def test_unrolled_through_adam_and_the_renderer():
    """Oracle: central differences of O, number by number, for start and rates, through the renderer's own gradient.

    Adam's step bends where a gradient is near 0, and the ramp of the cut-off has two derivatives only: with a step of
    1e-6 truncation and rounding (1e-16 * 10 / 1e-6) are both about 1e-9, of gradients of size 1. A rate changes by a
    millionth of itself, 2e-8: there rounding is larger.
    """
    options = {"anchors": (0, 1, 3), "weights": (1.0, 1.0, 2.0)}
    with jax.enable_x64(True):
        actual = run("unrolled", STATE, checkpoint_every=3, **options)
        expected = run("finite_difference", STATE, epsilon=1e-6, **options)
    assert actual.start["means"].dtype == jnp.float64
    assert_close(actual.start, expected.start, 1e-7)
    assert_close(actual.rates, expected.rates, 1e-6)
    np.testing.assert_allclose(actual.loss, expected.loss, rtol=1e-12)


def test_implicit_through_the_renderer():
    """Oracle: the Hessian of the inner loss number by number, and a dense solver, at the state where the loop ends."""
    strength, num_steps = 0.3, 4

    @jax.jit
    def oracle(start):
        inner, outer = (partial(squared_error, image=image, active=EVERYONE, any_order=True) for image in IMAGES)
        rates = ravel_pytree({name: np.full(value.shape, RATES[name]) for name, value in STATE.items()})[0]
        flat_start, unravel = ravel_pytree(start)

        def proximal(state):
            away = jnp.square(ravel_pytree(state)[0] - flat_start)
            return inner(state) + 0.5 * jnp.sum(away / (strength * rates))

        end = Problem(proximal).refine(start, RATES, num_steps=num_steps).final
        slope = jax.grad(lambda x: inner(unravel(x)))
        flat_end = ravel_pytree(end)[0]
        hessian = jax.lax.map(lambda v: jax.jvp(slope, (flat_end,), (v,))[1], jnp.eye(flat_end.size))
        return rates, hessian, ravel_pytree(jax.grad(outer)(end))[0]

    with jax.enable_x64(True):
        options = {"num_steps": num_steps, "iterations": 40, "strength": strength}
        actual = ravel_pytree(run("implicit", STATE, **options).start)[0]
        rates, hessian, first = (np.asarray(a) for a in oracle(jax.tree.map(jnp.asarray, STATE)))
    root = np.sqrt(strength * rates)
    assert np.linalg.eigvalsh(np.eye(first.size) + root[:, None] * hessian * root).min() > 0  # or the solver stops
    expected = np.linalg.solve(np.eye(first.size) + strength * hessian * rates, first)
    assert np.abs(expected - first).max() > 0.1 * np.abs(first).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


# --- inactive slots ----------------------------------------------------------------------------------------------

ALL = {  # few steps, and few copies of the renderer in a program: nearly all of the time is the compiler's
    "zero_step": {},
    "first_order": {"num_steps": 3},
    "multi_anchor": {"min_steps": 2, "max_steps": 3, "stride": 1},
    "budget": {"anchors": (0, 3)},
    "meta_sgd": {"anchors": (0, 3)},
    "reptile": {"num_steps": 3},
    "unrolled": {"anchors": (3,), "checkpoint_every": 3},
    "truncated": {"num_steps": 3, "window": 1},
    "implicit": {"num_steps": 3, "iterations": 3},
    "implicit_neumann": {"num_steps": 3, "iterations": 3},
    "es": {"anchors": (3,)},
    "pes": {"anchors": (3,)},
    "finite_difference": {"anchors": (2,), "epsilon": 1e-2},
}


@pytest.mark.parametrize("name", list(ALL))
def test_inactive_slots(name):
    """Nothing is NaN, and what is not drawn has no gradient: 0 exactly, since no number is ever added to it.

    Two kinds of slots without a gradient: inactive ones, and one drawn far outside the image. es and pes see only how O
    changes when all numbers move at once, and lay that to the slots that were not drawn as well: there 0 is the mean
    over draws and not what one draw gives. A finite difference divides what two evaluations of O differ by in rounding.
    """
    active = np.array([True, False, True, True, False])
    state = {k: v.astype(np.float32) for k, v in STATE.items()}
    state["means"][3] = 200
    done = run(name, state, active, **ALL[name])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(done))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(done))
    drawn = active & (np.arange(5) != 3)
    for value in done.start.values():
        value = np.asarray(value)
        assert np.all(value[drawn] != 0)
        if name not in ("es", "pes"):
            rounding = np.finfo(np.float32).eps * abs(done.loss) / ALL[name].get("epsilon", np.inf)
            np.testing.assert_allclose(value[~drawn], 0, atol=rounding)
