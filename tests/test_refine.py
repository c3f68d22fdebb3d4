"""The inner loop against closed forms, Python loops and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from airjax.refine import refine

RATE = 0.1
CURVATURE = np.array([1.0, 2.0, 0.5, 3.0], np.float32)
TARGET = np.array([1.0, -1.0, 0.5, 2.0], np.float32)
START = np.array([0.3, 0.2, -0.4, 0.1], np.float32)
ADAM = optax.adam(0.05, eps_root=1e-8)


def quadratic(x):
    """sum of curvature (x - target)^2 / 2; SGD shrinks x - target by 1 - rate * curvature in each step."""
    return 0.5 * jnp.sum(CURVATURE * jnp.square(x - TARGET))


def closed_form(steps, start=START):
    return TARGET + (1 - RATE * CURVATURE) ** steps * (start - TARGET)


def tree_loss(state):
    """Couples all leaves and is not quadratic."""
    w, (b, c) = state["w"], state["rest"]
    return jnp.sum(jnp.sin(w @ b) ** 2) + jnp.sum((c - b) ** 4) + jnp.mean(jnp.abs(w))


def tree_start(seed=0):
    rng = np.random.default_rng(seed)
    w, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2), (2,), ()))
    return {"w": jnp.asarray(w), "rest": (jnp.asarray(b), jnp.asarray(c))}


def python_loop(loss_fn, state, tx, num_steps, mask=None):
    """The oracle: states and losses of the same steps, one by one."""
    states, losses, inner_state = [state], [], tx.init(state)
    for _ in range(num_steps):
        loss, grads = jax.value_and_grad(loss_fn)(state)
        with jax.numpy_dtype_promotion("standard"):
            updates, inner_state = tx.update(grads, inner_state, state)
        if mask is not None:
            updates = jax.tree.map(lambda m, u: jnp.where(m, u, 0 * u), mask, updates)
        state = jax.tree.map(lambda a, b: a + b, state, updates)
        states.append(state)
        losses.append(loss)
    return states, losses


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    """Ten float32 steps of O(1) numbers, fused and ordered differently: a few ulp each."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), actual, expected)


def test_gradient_descent_on_a_quadratic():
    """Oracle: the closed form, at every step."""
    done = refine(quadratic, START, optax.sgd(RATE), num_steps=6, keep=tuple(range(7)))
    assert_close(done.kept, np.stack([closed_form(k) for k in range(7)]))
    assert_close(done.final, jnp.asarray(closed_form(6)))
    assert_close(done.losses, np.array([quadratic(closed_form(k)) for k in range(6)]))


def test_adam_on_a_tree():
    """Oracle: a Python loop; a subset of the states is kept."""
    done = jax.jit(lambda s: refine(tree_loss, s, ADAM, num_steps=5, keep=(0, 2, 5)))(tree_start())
    states, losses = python_loop(tree_loss, tree_start(), ADAM, 5)
    assert_close(done.final, states[5])
    assert_close(done.kept, jax.tree.map(lambda *leaves: jnp.stack(leaves), states[0], states[2], states[5]))
    assert_close(done.losses, jnp.stack(losses))


def test_the_mask_stops_weight_decay_too():
    """Oracle: a Python loop that masks updates; frozen entries do not move, though AdamW decays all."""
    tx = optax.adamw(0.05, weight_decay=0.5, eps_root=1e-8)
    start = tree_start()
    rows = np.array([[True], [False], [True]])
    mask = {"w": rows, "rest": (np.array([True, False]), np.bool_(False))}
    done = refine(tree_loss, start, tx, num_steps=4, update_mask=mask)
    assert_close(done.final, python_loop(tree_loss, start, tx, 4, mask)[0][4])
    moved = jax.tree.map(lambda a, b: np.asarray(a != b), done.final, start)
    np.testing.assert_array_equal(moved["w"], np.broadcast_to(rows, (3, 2)))
    np.testing.assert_array_equal(moved["rest"][0], [True, False])
    assert not moved["rest"][1]


def test_a_mask_may_be_a_prefix():
    """One bool for a whole branch: that branch is frozen, the other follows the closed form."""

    def both(state):
        return quadratic(state["a"]) + sum(quadratic(x) for x in state["b"])

    start = {"a": jnp.asarray(START), "b": [jnp.asarray(START), jnp.asarray(2 * START)]}
    done = refine(both, start, optax.sgd(RATE), num_steps=3, update_mask={"a": True, "b": False})
    assert_close(done.final["a"], jnp.asarray(closed_form(3)))
    np.testing.assert_array_equal(done.final["b"], start["b"])


def test_a_frozen_entry_survives_a_gradient_that_is_not_finite():
    """sqrt has an infinite slope at 0, where the frozen entry lies."""
    done = refine(
        lambda x: jnp.sum(jnp.sqrt(x)),
        jnp.array([0.0, 4.0]),
        optax.sgd(RATE),
        num_steps=1,
        update_mask=np.array([False, True]),
    )
    np.testing.assert_allclose(done.final, [0.0, 4.0 - RATE / 4], rtol=1e-6)


def test_no_steps():
    done = refine(tree_loss, tree_start(), ADAM, num_steps=0, keep=(0,))
    assert_close(done.final, tree_start(), rtol=0, atol=0)
    assert_close(done.kept, jax.tree.map(lambda leaf: leaf[None], tree_start()), rtol=0, atol=0)
    assert done.losses.shape == (0,)


def test_nothing_kept():
    done = refine(quadratic, START, optax.sgd(RATE), num_steps=2)
    assert done.kept.shape == (0, 4)


def test_vmap_is_a_loop():
    """Oracle: one call per start."""

    def one(start):
        return refine(tree_loss, start, ADAM, num_steps=3, keep=(1,))

    starts = [tree_start(seed) for seed in range(3)]
    batched = jax.vmap(one)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts))
    for i, start in enumerate(starts):
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], batched), one(start))


def test_gradient_through_the_steps_in_closed_form():
    """d final / d start = (1 - rate * curvature)^steps: only the closed form's power is left."""
    grad = jax.grad(lambda s: jnp.sum(refine(quadratic, s, optax.sgd(RATE), num_steps=5).final))(START)
    np.testing.assert_allclose(grad, (1 - RATE * CURVATURE) ** 5, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_through_adam(masked):
    """Oracle: central differences in float64, of a function of the final state, a kept one and the losses.

    The error of a central difference is step^2 f''' / 6 + eps f / step: with step 1e-5 below 1e-9 here.
    """
    with jax.enable_x64(True):
        mask = np.array([True, True, False, True]) if masked else None
        curvature, weights = CURVATURE.astype(np.float64), np.linspace(-1, 2, 4)

        @jax.jit
        def outer(start):
            def inner(x):
                return jnp.sum(curvature * jnp.square(x - TARGET.astype(np.float64)) ** 2)

            done = refine(inner, start, ADAM, num_steps=4, update_mask=mask, keep=(2,))
            return jnp.sum(weights * done.final**2) + jnp.sum(done.kept**3) + 0.1 * jnp.sum(done.losses)

        start, step = START.astype(np.float64), 1e-5
        eye = np.eye(4) * step
        differences = [(outer(start + row) - outer(start - row)) / (2 * step) for row in eye]
        np.testing.assert_allclose(jax.grad(outer)(start), differences, rtol=1e-6, atol=1e-8)


def test_adam_has_a_finite_gradient_where_nothing_ever_moved():
    """eps_root keeps d sqrt(second moment) finite at 0; there the derivative of the step is 0 / eps_root."""

    def outer(start):
        return jnp.sum(refine(lambda x: jnp.sum(0.0 * x), start, ADAM, num_steps=3).final)

    np.testing.assert_allclose(jax.grad(outer)(START), np.ones(4), rtol=1e-6)


def test_the_loss_is_traced_once():
    """A scan, not an unrolled loop: the number of traces does not depend on the number of steps."""
    traces = []

    def counted(x):
        traces.append(1)
        return quadratic(x)

    run = jax.jit(lambda x: refine(counted, x, ADAM, num_steps=50, keep=(0, 10, 20)))
    run(START)
    run(2 * START)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_steps": -1}, ValueError, "num_steps: expected at least 0, got -1"),
        ({"num_steps": 2.0}, TypeError, "num_steps: expected an int, got 2.0"),
        ({"keep": (0, 4)}, ValueError, r"keep: expected increasing steps from 0 to 3, got \(0, 4\)"),
        ({"keep": (-1,)}, ValueError, "keep: expected increasing steps"),
        ({"keep": (2, 1)}, ValueError, "keep: expected increasing steps"),
        ({"keep": (1, 1)}, ValueError, "keep: expected increasing steps"),
        ({"keep": (0.5,)}, TypeError, "keep: expected an int, got 0.5"),
        ({"update_mask": np.ones(3, bool)}, ValueError, r"update_mask: .* to \(4,\), got \(3,\)"),
        ({"update_mask": np.ones((1, 4), bool)}, ValueError, r"update_mask: .* to \(4,\), got \(1, 4\)"),
        ({"update_mask": np.ones(4, np.float32)}, TypeError, "update_mask: expected bool, got float32"),
        ({"update_mask": {"a": True}}, ValueError, "update_mask: expected a prefix of"),
    ],
)
def test_wrong_arguments(changes, error, message):
    with pytest.raises(error, match=message):
        refine(quadratic, START, optax.sgd(RATE), **({"num_steps": 3} | changes))
