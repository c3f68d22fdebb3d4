"""Every estimator of the outer gradient against the closed forms of a quadratic, in float64.

Letters: as in `airjax.inner.estimators`; A and B the Hessians of the inner loss L and the outer loss M, T and U their
minima, R the diagonal of the rates. Gradient descent: G_k = T + (I - R A)^k (G_0 - T), so that J_k = (I - R A)^k,
which is not symmetric: a Jacobian in the place of its transpose is found out.

Where both sides are the same algebra in float64, numbers of size 1 agree to 1e-9 with three digits to spare.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.inner.estimators import (
    ESTIMATORS,
    Budget,
    Estimator,
    Problem,
    clip_rows,
    estimator,
    evolution,
    outer_gradient,
    register,
    surrogate,
)
from airjax.inner.estimators import base as estimators_base
from airjax.inner.optimizers import scale_by_rates, scaled_adam

pytestmark = pytest.mark.slow

N = 7
RNG = np.random.default_rng(0)


def positive(low, high):
    """A symmetric matrix with eigenvalues from low to high and eigenvectors along no axis."""
    basis, _ = np.linalg.qr(RNG.standard_normal((N, N)))
    return (basis * np.linspace(low, high, N)) @ basis.T


A, B = positive(0.5, 4.0), positive(0.2, 2.0)
T, U, G0 = RNG.standard_normal((3, N))
RATES = {"p": np.array([0.05, 0.12]), "q": np.float64(0.2)}  # one per row of p, one for q
R = np.array([0.05, 0.05, 0.12, 0.12, 0.2, 0.2, 0.2])  # R A has eigenvalues below 0.8
EYE = np.eye(N)

ANCHORS, WEIGHTS = (0, 2, 5), (1.0, 2.0, 1.0)
SHARES = (0.25, 0.5, 0.25)

OPTIONS: dict[str, dict] = {  # for what holds of all of them
    "zero_step": {},
    "first_order": {"num_steps": 4},
    "multi_anchor": {"min_steps": 3, "max_steps": 9, "stride": 3, "mix": 0.25},
    "budget": {"anchors": ANCHORS, "weights": WEIGHTS},
    "meta_sgd": {"anchors": ANCHORS, "weights": WEIGHTS},
    "reptile": {"num_steps": 4},
    "unrolled": {"anchors": ANCHORS, "weights": WEIGHTS},
    "truncated": {"num_steps": 6, "window": 4},
    "implicit": {"num_steps": 3, "iterations": 3},
    "implicit_neumann": {"num_steps": 3, "iterations": 3},
    "es": {"anchors": ANCHORS, "weights": WEIGHTS, "sigma": 0.2, "rate_sigma": 0.05, "pairs": 20},
    "pes": {"anchors": ANCHORS, "weights": WEIGHTS, "sigma": 0.2, "rate_sigma": 0.05, "pairs": 20},
    "finite_difference": {"anchors": ANCHORS, "weights": WEIGHTS, "epsilon": 1e-4},
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def tree(numbers):
    return {"p": numbers[..., :4].reshape(*numbers.shape[:-1], 2, 2), "q": numbers[..., 4:]}


def flat(state):
    return jnp.concatenate([state["p"].reshape(4), state["q"]])


def flat_batch(states):
    return np.concatenate([np.asarray(states["p"]).reshape(-1, 4), states["q"]], axis=1)


def per_rate(numbers):
    """Sums over what shares a rate."""
    return {"p": np.array([numbers[:2].sum(), numbers[2:4].sum()]), "q": numbers[4:].sum()}


TRACES = []  # one entry for every trace of the inner loss


def quadratic(state, target):
    TRACES.append(1)
    away = flat(state) - target
    return 0.5 * away @ A @ away


def wavy(state, target):
    """Not quadratic, and every number pulls at every other."""
    return quadratic(state, target) + jnp.prod(jnp.sin(flat(state) + 1.0)) + jnp.sum(jnp.cos(2 * flat(state)))


def outer(state):
    away = flat(state) - U
    return 0.5 * away @ B @ away


@partial(jax.jit, static_argnames=("how", "loss", "outer_loss", "make_tx"))
def estimate(key, start, rates, target, mask=None, *, how, loss=quadratic, outer_loss=outer, make_tx=scale_by_rates):
    problem = Problem(partial(loss, target=target), outer_loss, make_tx, mask)
    return outer_gradient(key, start, rates, problem, estimator=how)


@partial(jax.jit, static_argnames="how")
def estimate_batch(keys, starts, rates, targets, *, how):
    return jax.vmap(partial(estimate, how=how))(keys, starts, rates, targets)


def run(name, *, key=0, start=G0, rates=RATES, target=T, mask=None, problem: dict | None = None, **options):
    """The estimate: of the start as a flat array, of the rates, and the loss."""
    how = estimator(name, **options)
    done = estimate(jax.random.key(key), tree(start), rates, target, mask, how=how, **(problem or {}))
    assert done.loss.shape == () and done.loss.dtype == jnp.float64
    return np.asarray(flat(done.start)), jax.tree.map(np.asarray, done.rates), float(done.loss)


def assert_close(actual, expected, rtol=1e-9, atol=1e-11):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), actual, expected)


NO_RATES = jax.tree.map(np.zeros_like, RATES)

# --- the oracle ------------------------------------------------------------------------------------------------


def path(num_steps, rates=R, start=G0):
    """The states, step by step."""
    states = [start]
    for _ in range(num_steps):
        states.append(states[-1] - rates * (A @ (states[-1] - T)))
    return np.stack(states)


def power(num_steps):
    """J_k."""
    return np.linalg.matrix_power(EYE - R[:, None] * A, num_steps)


def outer_value(state):
    return 0.5 * (state - U) @ B @ (state - U)


def outer_slope(state):
    return B @ (state - U)


def sensitivity(states):
    """dG_k / dR with the first of the states held fixed, from the recurrence."""
    slopes = np.zeros((N, N))
    for state in states[:-1]:
        slopes = (EYE - R[:, None] * A) @ slopes - np.diag(A @ (state - T))
    return slopes


def objective(anchors, shares, rates=R, start=G0):
    states = path(anchors[-1], rates, start)
    return sum(share * outer_value(states[k]) for k, share in zip(anchors, shares, strict=True))


def test_the_oracle():
    """The recurrences are the closed forms that the head of this file names."""
    np.testing.assert_allclose(path(5)[5], T + power(5) @ (G0 - T), rtol=1e-12)


# --- closed forms: exact derivatives ---------------------------------------------------------------------------


def exact(anchors=ANCHORS, shares=SHARES):
    """The gradient of O by the start and by the rates."""
    states = path(anchors[-1])
    slopes = [share * outer_slope(states[k]) for k, share in zip(anchors, shares, strict=True)]
    by_start = sum(power(k).T @ slope for k, slope in zip(anchors, slopes, strict=True))
    by_rate = sum(sensitivity(states[: k + 1]).T @ slope for k, slope in zip(anchors, slopes, strict=True))
    return by_start, per_rate(by_rate)


@pytest.mark.parametrize("checkpoint_every", [None, 1, 5])
def test_unrolled_in_closed_form(checkpoint_every):
    """sum of shares (I - A R)^k grad M(G_k), whatever is stored on the way."""
    by_start, by_rate, loss = run("unrolled", anchors=ANCHORS, weights=WEIGHTS, checkpoint_every=checkpoint_every)
    assert_close((by_start, by_rate), exact())
    assert loss == pytest.approx(objective(ANCHORS, SHARES), rel=1e-12)


@pytest.mark.parametrize("window", [1, 4])
def test_truncated_in_closed_form(window):
    """(I - A R)^w grad M(G_K); the rates see the last w steps alone."""
    by_start, by_rate, loss = run("truncated", num_steps=6, window=window)
    states = path(6)
    assert_close(by_start, power(window).T @ outer_slope(states[6]))
    assert_close(by_rate, per_rate(sensitivity(states[6 - window :]).T @ outer_slope(states[6])))
    assert loss == pytest.approx(outer_value(states[6]), rel=1e-12)


def test_finite_difference_on_a_quadratic():
    """O is quadratic in the start: no truncation there, and 1e-16 / 1e-4 of rounding; by the rates 1e-8 of it."""
    by_start, by_rate, loss = run("finite_difference", **OPTIONS["finite_difference"])
    expected = exact()
    assert_close(by_start, expected[0], atol=1e-10)
    assert_close(by_rate, expected[1], rtol=1e-7)
    assert loss == pytest.approx(objective(ANCHORS, SHARES), rel=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_unrolled_is_finite_difference_through_adam(masked):
    """Start and rates, of a loss that is not quadratic. Truncation is epsilon^2 = 1e-10 of a third derivative."""
    mask = {"p": np.array([[True], [not masked]]), "q": np.True_}
    problem = {"loss": wavy, "make_tx": scaled_adam}
    options = {"mask": mask, "problem": problem, "anchors": (1, 4), "weights": (1.0, 3.0)}
    by_start, by_rate, loss = run("unrolled", **options)
    expected = run("finite_difference", **options)
    assert_close((by_start, by_rate), expected[:2], rtol=1e-6, atol=1e-7)
    assert loss == pytest.approx(expected[2], rel=1e-12)
    assert (by_rate["p"] == 0).tolist() == [False, masked]


def test_gradient_by_the_logarithm_of_a_rate():
    """Rates times their gradient. Oracle: central differences of O at rates times exp(+-h), h^2 = 1e-10."""
    by_rate = run("unrolled", anchors=ANCHORS, weights=WEIGHTS)[1]
    step = 1e-5
    for index, members in enumerate(([0, 1], [2, 3], [4, 5, 6])):
        ends = []
        for sign in (1, -1):
            rates = R.copy()
            rates[members] *= np.exp(sign * step)
            ends.append(objective(ANCHORS, SHARES, rates))
        actual = np.append(by_rate["p"], by_rate["q"])[index] * R[members[0]]
        assert actual == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


# --- closed forms: first order -----------------------------------------------------------------------------------


def test_zero_step_in_closed_form():
    by_start, by_rate, loss = run("zero_step")
    assert_close((by_start, by_rate, loss), (outer_slope(G0), NO_RATES, outer_value(G0)))


def test_first_order_in_closed_form():
    """grad M(G_K)."""
    last = path(4)[4]
    assert_close(run("first_order", num_steps=4), (outer_slope(last), NO_RATES, outer_value(last)))


@pytest.mark.parametrize("weights", [None, WEIGHTS, (0.0, 0.0, 3.0)])
def test_budget_in_closed_form(weights):
    """sum of shares grad M(G_k); weights are divided by their sum."""
    shares = np.full(3, 1 / 3) if weights is None else np.array(weights) / sum(weights)
    states = path(5)[list(ANCHORS)]
    expected = sum(share * outer_slope(state) for share, state in zip(shares, states, strict=True))
    done = run("budget", anchors=ANCHORS, weights=weights)
    assert_close(done, (expected, NO_RATES, objective(ANCHORS, shares)))


@pytest.mark.parametrize("mix", [0.0, 0.25])
def test_multi_anchor_in_closed_form(mix):
    """Seven steps at a stride of three have the anchors 3 and 6; the seventh step counts for nothing."""
    states = path(6)
    later = 0.5 * (outer_slope(states[3]) + outer_slope(states[6]))
    loss = mix * outer_value(G0) + (1 - mix) * 0.5 * (outer_value(states[3]) + outer_value(states[6]))
    done = run("multi_anchor", min_steps=7, max_steps=7, stride=3, mix=mix)
    assert_close(done, (mix * outer_slope(G0) + (1 - mix) * later, NO_RATES, loss))


def repeated(count, *trees):
    """The same problem again and again, as a batch."""
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *np.shape(leaf))), trees)


def test_multi_anchor_draws_every_number_of_steps():
    """K of 3..9 at a stride of 3: one anchor for three numbers of seven, two for three, three for one.

    Every estimate is one of three closed forms; of 1000 draws each is as frequent as it should be within four standard
    deviations of a binomial. One batch: problems stop at numbers of their own.
    """
    keys = jax.random.split(jax.random.key(0), 1000)
    how = estimator("multi_anchor", **OPTIONS["multi_anchor"])
    drawn = flat_batch(estimate_batch(keys, *repeated(1000, tree(G0), RATES, T), how=how).start)
    slopes = np.stack([outer_slope(state) for state in path(9)[3::3]])
    forms = 0.25 * outer_slope(G0) + 0.75 * np.cumsum(slopes, axis=0) / np.arange(1, 4)[:, None]
    distances = np.abs(drawn[:, None] - forms).max(axis=-1)
    assert distances.min(axis=1).max() < 1e-9
    counts, share = np.bincount(distances.argmin(axis=1), minlength=3), np.array([3, 3, 1]) / 7
    assert np.all(np.abs(counts - 1000 * share) < 4 * np.sqrt(1000 * share * (1 - share)))


def test_reptile_in_closed_form():
    """The mean of the inner gradients on the way, and the outer loss only told; one step gives grad L(G_0)."""
    states = path(4)
    expected = np.mean([A @ (state - T) for state in states[:4]], axis=0)
    assert_close(expected, (G0 - states[4]) / (4 * R))
    assert_close(run("reptile", num_steps=4), (expected, NO_RATES, outer_value(states[4])))
    assert_close(run("reptile", num_steps=1)[0], A @ (G0 - T))


def test_meta_sgd_against_a_python_loop():
    """G_k = G_0 + rates * (sum of directions), differentiated with the directions of the loop held fixed.

    Adam on a loss that is not quadratic: the directions come from the states alone.
    """
    anchors, shares = (0, 2, 5), np.array([0.25, 0.5, 0.25])
    problem = Problem(partial(wavy, target=T), outer, scaled_adam)
    kept = problem.refine(tree(jnp.asarray(G0)), RATES, num_steps=5, keep=(0, 1, 2, 3, 4, 5)).kept
    states = flat_batch(kept)
    directions = np.diff(states, axis=0) / R
    slope = np.zeros(N)
    for share, k in zip(shares, anchors, strict=True):
        slope += share * (B @ (G0 + R * directions[:k].sum(axis=0) - U)) * directions[:k].sum(axis=0)
    options = {"problem": {"loss": wavy, "make_tx": scaled_adam}, "anchors": anchors, "weights": WEIGHTS}
    by_start, by_rate, loss = run("meta_sgd", **options)
    assert_close(by_rate, per_rate(slope))
    assert_close((by_start, loss), run("budget", **options)[::2], rtol=0, atol=0)


# --- closed forms: implicit --------------------------------------------------------------------------------------

STRENGTH = 2.0  # more than 1/2, or gradient descent does not settle: the term alone multiplies by 1 - 1 / strength


def settled(rates):
    """The minimum of L with the term that remembers the start, and (I + strength R A)^-T grad M there."""
    matrix = EYE + STRENGTH * rates[:, None] * A
    minimum = np.linalg.solve(matrix, G0 + STRENGTH * rates * (A @ T))
    return minimum, np.linalg.solve(matrix.T, outer_slope(minimum))


@pytest.mark.parametrize(("name", "iterations"), [("implicit", 7), ("implicit_neumann", 400)])
def test_implicit_in_closed_form(name, iterations):
    """100 steps at a factor below 0.65, as many directions as numbers, or 400 terms of a series with factor 0.9."""
    rates = 0.5 * R
    assert 0.3 < np.abs(np.linalg.eigvals(STRENGTH * rates[:, None] * A)).max() < 0.95
    options = {"num_steps": 100, "iterations": iterations, "strength": STRENGTH}
    by_start, by_rate, loss = run(name, rates=jax.tree.map(lambda r: 0.5 * r, RATES), **options)
    minimum, expected = settled(rates)
    assert np.abs(expected - outer_slope(minimum)).max() > 0.1  # it is not first order by another name
    assert_close((by_start, by_rate, loss), (expected, NO_RATES, outer_value(minimum)), rtol=1e-8)


def test_implicit_with_frozen_numbers():
    """A frozen number is one of rate 0: it stays, and pulls at the others. Oracle: the closed form with that rate."""
    mask = {"p": np.array([[True], [False]]), "q": np.array([True, False, True])}
    rates = 0.5 * R * np.array([1, 1, 0, 0, 1, 0, 1])
    options = {"rates": jax.tree.map(lambda r: 0.5 * r, RATES), "num_steps": 100, "strength": STRENGTH, "mask": mask}
    minimum, expected = settled(rates)
    by_start, _, loss = run("implicit", **options)
    assert_close((by_start, loss), (expected, outer_value(minimum)), rtol=1e-8)


def saddle(state, target):
    """Curves up along one number and down along the others, too much for I + A to be positive."""
    return 0.5 * jnp.sum(np.array([1.0, -40, -40, -40, -40, -40, -40]) * jnp.square(flat(state) - target))


def test_implicit_where_the_loss_curves_down():
    """Conjugate gradients stop: at the first direction that is first order, later what they have; never NaN."""
    problem = {"loss": saddle}
    by_start, _, loss = run("implicit", num_steps=1, iterations=5, problem=problem)
    first, _, expected_loss = run("first_order", num_steps=1, problem=problem)
    assert_close((by_start, loss), (first, expected_loss))  # one step from G_0, where the term is nothing

    def along(state):
        """Slopes mostly along the number where the saddle curves up: the first direction is good, the second is not."""
        return jnp.sum(jnp.square(flat(state) - U) * np.array([9, *[1e-2] * 6]))

    problem = {"loss": saddle, "outer_loss": along}
    by_start = run("implicit", num_steps=1, iterations=1, problem=problem)[0]
    assert np.abs(by_start - run("first_order", num_steps=1, problem=problem)[0]).max() > 0.01
    assert_close(run("implicit", num_steps=1, iterations=5, problem=problem)[0], by_start)


# --- closed forms: without derivatives ---------------------------------------------------------------------------

SIGMA, RATE_SIGMA = 0.7, 0.2
NOISE, RATE_NOISES = RNG.standard_normal(N), RNG.standard_normal((3, 3))


def given_noise(monkeypatch, noise, rate_noises):
    """Instead of draws: `noise` for the start, and for the rates one after the other."""
    left = [{"p": e[:2], "q": e[2]} for e in rate_noises]

    def normal(key, like):
        return jax.tree.map(jnp.asarray, tree(noise) if like["q"].ndim else left.pop(0))

    monkeypatch.setattr(evolution, "_normal", normal)


def spread(rate_noise):
    """One number per rate to one per number of the state."""
    return np.repeat(rate_noise, [2, 2, 3])


def evolve(name, **options):
    """Uncached: what is drawn was replaced."""
    problem = Problem(partial(quadratic, target=T), outer, scale_by_rates)
    options = {"anchors": ANCHORS, "weights": WEIGHTS, "sigma": SIGMA, "rate_sigma": RATE_SIGMA} | options
    done = outer_gradient(jax.random.key(0), tree(G0), RATES, problem, estimator=estimator(name, **options))
    return np.asarray(flat(done.start)), done.rates, float(done.loss)


def estimate_of(noise, rate_noise, difference):
    """The formula, from a difference of O."""
    by_rate = rate_noise * difference / (2 * RATE_SIGMA * np.array([0.05, 0.12, 0.2]))
    return noise * difference / (2 * SIGMA * R), {"p": by_rate[:2], "q": by_rate[2]}


def test_es_for_given_noise(monkeypatch):
    """Oracle: the two ends of one pair in numpy."""
    noise, rate_noise = NOISE, RATE_NOISES[0]
    given_noise(monkeypatch, noise, [rate_noise])
    plus, minus = (
        objective(ANCHORS, SHARES, R * (1 + sign * RATE_SIGMA * spread(rate_noise)), G0 + sign * SIGMA * R * noise)
        for sign in (1, -1)
    )
    assert_close(evolve("es"), (*estimate_of(noise, rate_noise, plus - minus), 0.5 * (plus + minus)))


def windows(noise, rate_noises):
    """The states at the anchors 0, 2 and 5 when every window has rates of its own, one row per sign."""
    ends = []
    for sign in (1, -1):
        start = G0 + sign * SIGMA * R * noise
        middle = path(2, R * (1 + sign * RATE_SIGMA * spread(rate_noises[1])), start)[2]
        last = path(3, R * (1 + sign * RATE_SIGMA * spread(rate_noises[2])), middle)[3]
        ends.append([outer_value(state) for state in (start, middle, last)])
    return np.array(ends)


def test_pes_for_given_noise(monkeypatch):
    """Oracle: windows in numpy. The start's estimate is that of es, anchor by anchor; a rate's is that of all changes.

    The window from 0 to 0 takes no step: its change is drawn and does nothing.
    """
    noise, rate_noises = NOISE, RATE_NOISES
    given_noise(monkeypatch, noise, rate_noises)
    ends = windows(noise, rate_noises)
    parts = [
        estimate_of(noise, rate_noises[1 : i + 1].sum(axis=0), share * (ends[0, i] - ends[1, i]))
        for i, share in enumerate(SHARES)
    ]
    expected = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert_close(evolve("pes"), (*expected, 0.5 * np.dot(ends.sum(axis=0), SHARES)))


def test_pes_with_rates_that_stay_is_es(monkeypatch):
    """With no change of the rates only the start's noise is left, and it is shared by all windows."""
    noise = NOISE
    given_noise(monkeypatch, noise, np.zeros((3, 3)))
    windowed = evolve("pes")
    given_noise(monkeypatch, noise, np.zeros((1, 3)))
    assert_close(windowed, evolve("es"))


def test_pes_with_one_window_is_es(monkeypatch):
    noise, rate_noise = NOISE, RATE_NOISES[0]
    given_noise(monkeypatch, noise, [rate_noise])
    windowed = evolve("pes", anchors=(4,), weights=None)
    given_noise(monkeypatch, noise, [rate_noise])
    assert_close(windowed, evolve("es", anchors=(4,), weights=None))


@pytest.mark.parametrize("name", ["es", "pes"])
def test_evolution_is_unbiased(name):
    """1000 estimates of 20 pairs each against the exact gradient, in standard errors of their mean.

    O is quadratic in the start; in the rates, changes of 5 % smooth away less than 1 % of the gradient, a fraction of
    an error. Were the 20 pairs not 20 draws, the error would be four times as large, and too large.
    """
    keys = jax.random.split(jax.random.key(1), 1000)
    how = estimator(name, **OPTIONS[name])
    done = estimate_batch(keys, *repeated(1000, tree(G0), RATES, T), how=how)
    by_start, by_rate = exact()
    cases = [
        (by_start, flat_batch(done.start)),
        (np.append(by_rate["p"], by_rate["q"]), np.column_stack([done.rates["p"], done.rates["q"]])),
    ]
    for expected, drawn in cases:
        error = drawn.std(axis=0) / np.sqrt(1000)
        assert error.max() < 0.1 * np.abs(expected).max()
        assert np.all(np.abs(drawn.mean(axis=0) - expected) < 4 * error)


# --- limits ------------------------------------------------------------------------------------------------------

STILL = jax.tree.map(np.zeros_like, RATES)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("first_order", {"num_steps": 1}),
        ("multi_anchor", {"min_steps": 1, "max_steps": 1, "stride": 1}),
        ("budget", {"anchors": (1,)}),
        ("meta_sgd", {"anchors": (1,)}),
        ("unrolled", {"anchors": (1,)}),
        ("truncated", {"num_steps": 1, "window": 1}),
        ("finite_difference", {"anchors": (1,), "epsilon": 1e-4}),
    ],
)
def test_a_step_of_rate_zero_is_zero_step(name, options):
    """Nothing moves, so J_1 = I exactly.

    Reptile has nothing to go by (0, below); es and pes move by the rates and divide by them; implicit divides too and
    has the limit below. By the rates the exact derivative is -<grad M, grad L>; where a path was to be divided by the
    rate it is 0.
    """
    by_start, by_rate, loss = run(name, rates=STILL, **options)
    assert_close((by_start, loss), (outer_slope(G0), outer_value(G0)), atol=1e-10)
    slope = per_rate(-outer_slope(G0) * (A @ (G0 - T))) if name in ("unrolled", "truncated") else NO_RATES
    assert_close(by_rate, slope)


def test_reptile_and_implicit_as_rates_vanish():
    assert_close(run("reptile", num_steps=1, rates=STILL)[:2], (np.zeros(N), NO_RATES))
    tiny = jax.tree.map(lambda r: 1e-12 * r, RATES)
    assert_close(run("implicit", num_steps=1, rates=tiny)[0], outer_slope(G0), rtol=1e-8)


@pytest.mark.parametrize("name", ["budget", "meta_sgd", "unrolled", "finite_difference"])
def test_the_anchor_zero_is_zero_step(name):
    options = {"epsilon": 1e-4} if name == "finite_difference" else {}
    assert_close(run(name, anchors=(0,), **options), run("zero_step"), atol=1e-10)


def test_more_limits():
    """One anchor is first order; everything of the start is zero step; the whole window is the whole loop."""
    first = run("first_order", num_steps=4)
    assert_close(run("budget", anchors=(4,)), first, rtol=1e-12)
    assert_close(run("multi_anchor", min_steps=4, max_steps=4, stride=4), first, rtol=1e-12)
    assert_close(run("multi_anchor", min_steps=2, max_steps=5, stride=2, mix=1.0), run("zero_step"), rtol=1e-12)
    assert_close(run("truncated", num_steps=4, window=4), run("unrolled", anchors=(4,)), rtol=1e-12)


def test_the_state_of_the_optimiser_goes_on():
    """Loops in parts, with Adam. Oracle: the same anchors in one loop; 1e-9 of noise moves the loss by no more."""
    problem = {"loss": wavy, "make_tx": scaled_adam}
    whole = run("budget", anchors=(2, 4), problem=problem)
    last = run("first_order", num_steps=4, problem=problem)
    assert run("truncated", num_steps=4, window=2, problem=problem)[2] == pytest.approx(last[2], rel=1e-12)
    assert_close(run("multi_anchor", min_steps=4, max_steps=4, stride=2, problem=problem), whole)
    still = {"sigma": 1e-9, "rate_sigma": 1e-9}
    assert run("pes", anchors=(2, 4), problem=problem, **still)[2] == pytest.approx(whole[2], rel=1e-8)


# --- what holds of all of them -----------------------------------------------------------------------------------


def by_name(test: Callable) -> Callable:
    return pytest.mark.parametrize("name", list(OPTIONS))(test)


def test_every_estimator_is_here():
    assert set(OPTIONS) == set(ESTIMATORS)
    assert all(estimator(name, **options).name == name for name, options in OPTIONS.items())
    second = {name for name, options in OPTIONS.items() if estimator(name, **options).needs_second_order}
    assert second == {"unrolled", "truncated", "implicit", "implicit_neumann"}
    drawn = {name for name, kind in ESTIMATORS.items() if kind.draws}
    assert drawn == {"multi_anchor", "es", "pes"}
    assert {name for name, kind in ESTIMATORS.items() if kind.learns_rates} == {"meta_sgd"}


@pytest.mark.parametrize("name", list(OPTIONS))
def test_every_estimator_follows_a_horizon(name):
    """Its last step is that of the horizon; options that do not fit a horizon of 1 would raise."""
    for steps in (1, 3, 20):
        found = ESTIMATORS[name].at(steps)
        last = [getattr(found, field) for field in ("num_steps", "max_steps") if hasattr(found, field)]
        last += [found.anchors[-1]] if hasattr(found, "anchors") else []
        assert last == ([] if name == "zero_step" else [steps])


def test_what_draws_depends_on_the_key():
    for name, options in OPTIONS.items():
        results = {run(name, key=key, **options)[0].tobytes() for key in range(5)}
        assert (len(results) > 1) == ESTIMATORS[name].draws


@by_name
def test_vmap_over_problems_is_a_loop(name):
    """Oracle: one call per problem; keys, starts, rates and targets differ, and so do the steps that are drawn."""
    keys = jax.random.split(jax.random.key(3), 1000)  # that many for other tests
    rng = np.random.default_rng(1)
    starts, targets = rng.standard_normal((2, 1000, N))
    scales = rng.uniform(0.5, 1.1, 1000)
    rates = {"p": scales[:, None] * RATES["p"], "q": scales * RATES["q"]}
    how = estimator(name, **OPTIONS[name])
    batch = jax.tree.map(np.asarray, estimate_batch(keys, tree(starts), rates, targets, how=how))
    for i in range(4):
        single = estimate(keys[i], *jax.tree.map(lambda a, i=i: a[i], (tree(starts), rates, targets)), how=how)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], batch), single)
    if name == "multi_anchor":
        assert len({int(jax.random.randint(key, (), 3, 10)) // 3 for key in keys[:4]}) > 1


@by_name
def test_gradients_stop(name):
    """By the start, by the rates, and by what the loss closes over."""

    @jax.jit
    @partial(jax.grad, argnums=(0, 1, 2))
    def slopes(start, rates, target):
        done = estimate(jax.random.key(0), start, rates, target, how=estimator(name, **OPTIONS[name]))
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(done))

    for leaf in jax.tree.leaves(slopes(tree(G0), RATES, T)):
        np.testing.assert_array_equal(leaf, 0)


@by_name
def test_traces_do_not_grow_with_the_steps(name):
    """Nor does a call with other values trace anything."""

    def traces(factor):
        steps = ("num_steps", "max_steps", "anchors", "window")
        options = {
            k: (tuple(factor * a for a in v) if k == "anchors" else factor * v) if k in steps else v
            for k, v in OPTIONS[name].items()
        }
        call = partial(estimate.__wrapped__, target=T, how=estimator(name, **options))
        before = len(TRACES)
        jax.eval_shape(call, jax.random.key(0), tree(G0), RATES)
        return len(TRACES) - before

    assert traces(10) == traces(1) <= 8
    run(name, **OPTIONS[name])
    before = len(TRACES)
    run(name, key=5, start=2 * G0, target=-T, rates=jax.tree.map(lambda r: 0.9 * r, RATES), **OPTIONS[name])
    assert len(TRACES) == before


def test_memory_of_unrolled():
    """As the compiler plans it: with the root of the steps, fourfold from 16 to 256; the control stores every step."""

    def planned(num_steps, every):
        def call(start):
            problem = Problem(lambda x: jnp.sum(jnp.sin(x) ** 2), None, scale_by_rates)
            how = estimator("unrolled", anchors=(num_steps,), checkpoint_every=every)
            return outer_gradient(jax.random.key(0), start, 0.1, problem, estimator=how)

        compiled = jax.jit(call).lower(jax.ShapeDtypeStruct((20_000,), jnp.float32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    again = planned(256, None)
    assert again < 4.4 * planned(16, None)
    assert planned(256, 256) > 8 * again


def test_the_surrogate_has_the_outer_gradient():
    """Oracle: the vector-Jacobian product of what made the start, and nothing of what made the gradient."""
    weights = np.random.default_rng(2).standard_normal((N, 3))
    theta = np.array([0.3, -0.2, 0.5])
    gradient = tree(jnp.asarray(outer_slope(G0)))

    def predict(theta):
        return tree(jnp.tanh(weights @ theta))

    def loss(theta):
        moving = jax.tree.map(lambda g: g * (1 + 0 * theta[0] + theta[0] - theta[0]), gradient)
        return surrogate(predict(theta), moving)

    (expected,) = jax.vjp(predict, jnp.asarray(theta))[1](gradient)
    assert_close(jax.grad(loss)(theta), expected)


def test_the_outer_loss_judges_the_anchors():
    """Left out, it is the inner one. Oracle: the closed form, with either."""
    last = path(3)[3]
    done = run("first_order", num_steps=3, problem={"outer_loss": None})
    assert_close(done[::2], (A @ (last - T), 0.5 * (last - T) @ A @ (last - T)))
    assert np.abs(done[0] - run("first_order", num_steps=3)[0]).max() > 0.1


def test_the_objective_is_what_is_told():
    """`objective` is O: a weighted sum over the anchors."""
    problem = Problem(partial(quadratic, target=T), outer, scale_by_rates)
    value = Budget(ANCHORS, WEIGHTS).objective(tree(G0), RATES, problem)
    assert float(value) == pytest.approx(objective(ANCHORS, SHARES), rel=1e-12)


# --- names and fields --------------------------------------------------------------------------------------------


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"estimator: expected one of zero_step, .*, finite_difference, got 'maml'"):
        estimator("maml")


@pytest.mark.forbidden
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("zero_step", {"num_steps": 3}, "zero_step: expected its own options, got num_steps"),
        ("first_order", {}, "first_order: expected its own options, got none"),
        ("first_order", {"num_steps": 0}, "num_steps: expected a whole number of at least 1, got 0"),
        ("first_order", {"num_steps": 2.0}, "num_steps: expected a whole number of at least 1, got 2.0"),
        ("reptile", {"num_steps": True}, "num_steps: expected a whole number of at least 1, got True"),
        ("multi_anchor", {"stride": 0}, "stride: expected a whole number"),
        ("multi_anchor", {"max_steps": 60.5}, "max_steps: expected a whole number"),
        ("multi_anchor", {"min_steps": 30}, "min_steps: expected at least stride 40 and at most max_steps 500, got 30"),
        (
            "multi_anchor",
            {"min_steps": 501},
            "min_steps: expected at least stride 40 and at most max_steps 500, got 501",
        ),
        ("multi_anchor", {"mix": 1.5}, "mix: expected 0 to 1, got 1.5"),
        ("multi_anchor", {"mix": float("nan")}, "mix: expected 0 to 1, got nan"),
        ("budget", {"anchors": ()}, r"anchors: expected increasing steps of at least 0, got \(\)"),
        ("budget", {"anchors": (3, 2)}, r"anchors: expected increasing steps of at least 0, got \(3, 2\)"),
        ("meta_sgd", {"anchors": (2, 2)}, "anchors: expected increasing steps"),
        ("unrolled", {"anchors": (-1, 2)}, "anchors: expected increasing steps"),
        ("unrolled", {"anchors": (0.5, 2)}, "anchors: expected increasing steps"),
        ("unrolled", {"anchors": (False, 2)}, "anchors: expected increasing steps"),
        ("unrolled", {"anchors": 4}, "unrolled: expected its own options, got anchors"),
        ("unrolled", {"anchors": (4,), "checkpoint_every": 0}, "checkpoint_every: expected a whole number"),
        (
            "budget",
            {"anchors": (1, 2), "weights": (1.0,)},
            r"weights: expected 2 numbers >= 0, not all 0, got \(1.0,\)",
        ),
        ("budget", {"anchors": (1, 2), "weights": (2.0, -1.0)}, "weights: expected 2 numbers >= 0"),
        ("budget", {"anchors": (1, 2), "weights": (0.0, 0.0)}, "weights: expected 2 numbers >= 0"),
        ("budget", {"anchors": (1, 2), "weights": (1.0, float("nan"))}, "weights: expected 2 numbers >= 0"),
        ("truncated", {"num_steps": 3, "window": 4}, "window: expected at most num_steps 3, got 4"),
        ("truncated", {"num_steps": 3, "window": 0}, "window: expected a whole number"),
        ("implicit", {"num_steps": 3, "solver": "lu"}, "implicit: expected its own options, got num_steps, solver"),
        ("implicit", {"num_steps": 3, "iterations": 0}, "iterations: expected a whole number"),
        ("implicit", {"num_steps": 3, "strength": 0.0}, "strength: expected > 0, got 0.0"),
        ("es", {"anchors": (3,), "sigma": -1.0}, "sigma: expected > 0, got -1.0"),
        ("es", {"anchors": (3,), "pairs": 0}, "pairs: expected a whole number"),
        ("es", {"anchors": (3, 1)}, "anchors: expected increasing steps"),
        ("pes", {"anchors": (3,), "rate_sigma": 0.0}, "rate_sigma: expected > 0, got 0.0"),
        ("finite_difference", {"anchors": (3,), "epsilon": 0.0}, "epsilon: expected > 0, got 0.0"),
        ("finite_difference", {"anchors": (3,), "epsilon": float("nan")}, "epsilon: expected > 0, got nan"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        estimator(name, **options)


# --- estimators of others ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean(Estimator):
    """The mean gradient of the first steps."""

    num_steps: int = 3

    def __call__(self, key, start, rates, problem):
        kept = problem.refine(start, rates, num_steps=self.num_steps, keep=(0, self.num_steps)).kept
        losses, grads = jax.vmap(jax.value_and_grad(problem.outer))(kept)
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), grads), NO_RATES, losses.mean()


def test_a_new_estimator_is_known_by_its_name(monkeypatch):
    """Oracle: the budget with the same anchors. A taken name is refused, the same class may come again."""
    monkeypatch.setattr(estimators_base, "ESTIMATORS", dict(ESTIMATORS))
    assert register("mean")(Mean) is Mean and register("mean")(Mean).name == "mean"
    assert_close(run("mean", num_steps=4), run("budget", anchors=(0, 4)))
    assert Mean.at(7) == Mean(7) and not Mean.needs_second_order
    with pytest.raises(ValueError, match=r"expected a new name, 'budget' is .*\.Budget"):
        register("budget")(Mean)


def test_an_estimator_without_a_formula():
    with pytest.raises(NotImplementedError):
        outer_gradient(jax.random.key(0), tree(G0), RATES, Problem(outer), estimator=Estimator())


def test_rows_are_clipped_at_the_median():
    """Three rows in use with norms 1, 1 and 100 (in units of the rates), one that is not in use."""
    gradient = {"a": jnp.array([[1.0, 0.0], [0.0, 1.0], [100.0, 0.0], [0.0, 0.0]]), "b": jnp.zeros(4)}
    rates = {"a": jnp.float64(1), "b": jnp.float64(1)}
    clipped = clip_rows(gradient, rates, jnp.array([True, True, True, False]), limit=10.0)
    norms = np.linalg.norm(clipped["a"], axis=1)
    np.testing.assert_allclose(norms, np.array([1, 1, 10, 0]) / np.sqrt(102), rtol=1e-5)
    zero = clip_rows(jax.tree.map(jnp.zeros_like, gradient), rates, jnp.ones(4, bool), limit=10.0)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(zero))
