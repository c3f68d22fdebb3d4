"""The inner loop against closed forms, Python loops and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from airjax.inner.optimizers import scale_by_rates, scaled, scaled_adam
from airjax.inner.refine import refine

pytestmark = pytest.mark.slow

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


# --- going on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(3, 4), (0, 7), (7, 0), (1, 1, 5)])
def test_going_on_equals_one_run(parts):
    """Oracle: seven steps at once, to the last bit: the same compiled step, on the same numbers."""
    whole = refine(tree_loss, tree_start(), ADAM, num_steps=7)
    state, inner_state, losses = tree_start(), None, []
    for num_steps in parts:
        done = refine(tree_loss, state, ADAM, num_steps=num_steps, inner_state=inner_state)
        state, inner_state, losses = done.final, done.inner_state, [*losses, done.losses]
    assert_close((state, inner_state), (whole.final, whole.inner_state), rtol=0, atol=0)
    np.testing.assert_array_equal(np.concatenate(losses), whole.losses)


def test_starting_afresh_is_something_else():
    """The control of the test above: without Adam's state the second half goes elsewhere."""
    half = refine(tree_loss, tree_start(), ADAM, num_steps=4).final
    whole = refine(tree_loss, tree_start(), ADAM, num_steps=7).final
    assert np.abs(refine(tree_loss, half, ADAM, num_steps=3).final["w"] - whole["w"]).max() > 1e-2


# --- rates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [None, 3])
def test_a_loss_that_differs_from_step_to_step(every):
    targets = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)

    def loss_fn(x, batch):
        return 0.5 * jnp.sum(CURVATURE * jnp.square(x - batch["target"])) * batch["weight"]

    batches = {"target": targets, "weight": np.linspace(0.5, 1.5, 7, dtype=np.float32)}
    options = {"num_steps": 7, "batches": batches, "keep": (2,), "checkpoint_every": every}
    done = jax.jit(lambda start: refine(loss_fn, start, optax.sgd(RATE), **options))(START)
    x, losses = START, []
    for step, (target, weight) in enumerate(zip(targets, batches["weight"], strict=True)):
        losses.append(0.5 * np.sum(CURVATURE * (x - target) ** 2) * weight)
        x = x - RATE * weight * CURVATURE * (x - target)
        if step == 1:
            assert_close(done.kept[0], x)
    assert_close(done.final, x)
    assert_close(done.losses, np.array(losses))


def test_batches_of_another_length():
    with pytest.raises(ValueError):
        refine(lambda x, batch: quadratic(x) * batch, START, optax.sgd(RATE), num_steps=3, batches=np.ones(2))


def test_scaled_by_a_prefix_and_by_rows():
    """Oracle: numpy. One number for a leaf, one per row, one for a whole branch; zero-dimensional leaves too."""
    tree = tree_start()
    w, (b, c) = (np.asarray(tree["w"]), [np.asarray(x) for x in tree["rest"]])
    rows = np.array([0.1, 0.2, 0.3], np.float32)
    expected = {"w": rows[:, None] * w, "rest": (2 * b, 2 * c)}
    assert_close(scaled({"w": rows, "rest": 2.0}, tree), expected, rtol=0, atol=0)
    every = np.arange(6, dtype=np.float32).reshape(3, 2)
    expected = {"w": every * w, "rest": (np.array([1, 3], np.float32) * b, 0 * c)}
    assert_close(scaled({"w": every, "rest": (np.array([1, 3], np.float32), 0.0)}, tree), expected, rtol=0, atol=0)
    assert_close(scaled(0.5, tree), jax.tree.map(lambda x: 0.5 * np.asarray(x), tree), rtol=0, atol=0)


def test_rates_that_fit_no_leaf():
    with pytest.raises(ValueError):
        scaled({"w": 0.1}, tree_start())
    with pytest.raises(TypeError):
        scaled({"w": np.ones(2, np.float32), "rest": 1.0}, tree_start())  # rows come first: w has three


def test_gradient_descent_with_a_rate_per_number():
    """Oracle: the closed form, in which every number has its own power."""
    rates = np.array([0.1, 0.0, 0.3, 0.05], np.float32)
    done = refine(quadratic, START, scale_by_rates(rates), num_steps=6)
    assert_close(done.final, jnp.asarray(TARGET + (1 - rates * CURVATURE) ** 6 * (START - TARGET)))


def test_scaled_adam_with_one_rate_is_adam():
    """Oracle: optax.adam."""
    done = refine(tree_loss, tree_start(), scaled_adam(0.05), num_steps=6)
    assert_close(done.final, refine(tree_loss, tree_start(), ADAM, num_steps=6).final)
    tx = scaled_adam(0.05, b1=0.5, b2=0.8, eps=1e-3, eps_root=0.0)
    expected = refine(tree_loss, tree_start(), optax.adam(0.05, b1=0.5, b2=0.8, eps=1e-3), num_steps=6).final
    assert_close(refine(tree_loss, tree_start(), tx, num_steps=6).final, expected)


def test_scaled_adam_with_a_rate_per_attribute():
    """Oracle: one optax.adam per attribute, put together by optax; a rate of 0 freezes."""
    rates = {"w": np.float32(0.05), "rest": (np.float32(0.2), np.float32(0.0))}
    labels = {"w": "slow", "rest": ("fast", "still")}
    parts = {"slow": ADAM, "fast": optax.adam(0.2, eps_root=1e-8), "still": optax.set_to_zero()}
    done = refine(tree_loss, tree_start(), scaled_adam(rates), num_steps=5)
    assert_close(done.final, refine(tree_loss, tree_start(), optax.partition(parts, labels), num_steps=5).final)
    np.testing.assert_array_equal(done.final["rest"][1], tree_start()["rest"][1])


def test_gradient_by_the_rates_in_closed_form():
    """d (1 - rate c)^K / d rate = -K c (1 - rate c)^(K - 1)."""

    def last(rates):
        return jnp.sum(refine(quadratic, START, scale_by_rates(rates), num_steps=5).final)

    expected = -5 * CURVATURE * (1 - RATE * CURVATURE) ** 4 * (START - TARGET)
    np.testing.assert_allclose(jax.grad(last)(np.full(4, RATE, np.float32)), expected, rtol=1e-5)


# --- steps computed again --------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="every")
def differentiated(start, every):
    """Value and gradient of a function of all that seven steps of Adam return, and what they return."""

    def outer(start):
        options = {"num_steps": 7, "keep": (0, 4, 7), "checkpoint_every": every}
        done = refine(lambda x: jnp.sum(jnp.square(x - TARGET) ** 2), start, ADAM, **options)
        return jnp.sum(done.kept**2) + jnp.sum(done.losses), done

    return jax.value_and_grad(outer, has_aux=True)(start)


@pytest.mark.parametrize("every", [1, 3, 9])
def test_steps_computed_again_change_nothing(every):
    """Oracle: the loop that stores every step; 3 leaves a rest of 7 steps, 9 is more than there are."""
    assert_close(differentiated(START, every), differentiated(START, None))


def test_no_steps_to_compute_again():
    done = refine(quadratic, START, optax.sgd(RATE), num_steps=0, checkpoint_every=3)
    np.testing.assert_array_equal(done.final, START)


def test_memory_of_reverse_mode():
    """As the compiler plans it. Oracle: K / c + c states for c = sqrt(K); the control stores all K.

    A state of 80 kB is all but all of it. From 16 to 256 steps the root grows fourfold, the number sixteenfold.
    """

    def planned(num_steps, every):
        def outer(start):
            done = refine(lambda x: jnp.sum(jnp.sin(x) ** 2), start, scale_by_rates(RATE), **options)
            return jnp.sum(jnp.square(done.final))

        options = {"num_steps": num_steps, "checkpoint_every": every}
        compiled = jax.jit(jax.grad(outer)).lower(jax.ShapeDtypeStruct((20_000,), jnp.float32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    stored = [planned(num_steps, None) for num_steps in (16, 64, 256)]
    again = [planned(num_steps, every) for num_steps, every in ((16, 4), (64, 8), (256, 16))]
    assert stored[1] > 3.5 * stored[0] and stored[2] > 3.5 * stored[1]
    assert again[1] < 2.2 * again[0] and again[2] < 2.2 * again[1]
    assert again[2] < stored[2] / 8


def test_vmap_over_problems_is_a_loop():
    """Oracle: one call per problem; losses, starts, rates and the optimiser's states all differ."""

    @jax.jit
    def one(start, target, rate):
        def loss(x):
            return jnp.sum(CURVATURE * jnp.square(x - target) ** 2)

        first = refine(loss, start, scaled_adam(rate), num_steps=2)
        options = {"inner_state": first.inner_state, "checkpoint_every": 2, "keep": (1, 3)}
        return refine(loss, first.final, scaled_adam(rate), num_steps=3, **options)

    rng = np.random.default_rng(1)
    starts, targets = rng.standard_normal((2, 3, 4)).astype(np.float32)
    rates = np.array([0.01, 0.1, 0.3], np.float32)
    batched = jax.tree.map(np.asarray, jax.vmap(one)(starts, targets, rates))
    for i in range(3):
        single = one(starts[i], targets[i], rates[i])
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], batched), single)


@pytest.mark.forbidden
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
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every: expected at least 1, got 0"),
        ({"checkpoint_every": True}, TypeError, "checkpoint_every: expected an int, got True"),
        ({"checkpoint_every": 2.0}, TypeError, "checkpoint_every: expected an int, got 2.0"),
    ],
)
def test_wrong_arguments(changes, error, message):
    with pytest.raises(error, match=message):
        refine(quadratic, START, optax.sgd(RATE), **({"num_steps": 3} | changes))
