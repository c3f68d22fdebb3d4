"""Estimators of the outer gradient: how a start, and the learning rates, should change so that refinement ends better.

Letters: G_k the state after k inner steps from the start G_0 (`airjax.inner.refine`), L the inner loss, M the outer
loss, J_k = dG_k / dG_0, K the last step that counts, P the cost of one inner step (a gradient of L).

All of them estimate the gradient of

  O(G_0, rates) = sum over i of weights_i * M(G_k_i),     k_i the anchors, weights that sum to 1,

which is sum over i of weights_i * J_k_i^T grad M(G_k_i): they differ in what they make of J. A network that predicts
the start, G_0 = f(theta), is trained with the vector-Jacobian product of f (`surrogate`). An estimator is a small
frozen dataclass, a static argument; `estimator` makes one by its name, which the caller always gives:

  name               what stands for J_k                                   cost (P)         rates
  zero_step          no step is taken: grad M(G_0), vanilla training       1                0
  first_order        the identity, at one step                             K + 1            0
  multi_anchor       the identity, at every s-th step of a random number   E[K] (1 + 1/s)   0
  budget             the identity, at the steps that a user means to take  K + anchors      0
  meta_sgd           as budget                                             K + anchors      path held fixed
  reptile            none: the way that the loop took                      K                0
  unrolled           exact                                                 about 4 K        exact
  truncated          exact over the last w steps, identity before          K + 4 w          exact over w
  implicit           that of a loop that has converged                     K + 2 iterations 0
  es                 none: differences of O under random changes           2 K pairs        estimated
  pes                the same, of windows that remember their changes      2 K pairs        estimated
  finite_difference  none: differences of O, one coordinate at a time      2 K numbers      exact to rounding

("rates": what is returned for them.) Nothing here knows what a state is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from airjax.inner.optimizers import scaled, scaled_adam
from airjax.inner.refine import refine

LossFn = Callable[[Any], Float[Array, ""]]


class Problem(NamedTuple):
    """One inner problem.

    Fields:
      loss_fn: L, state -> scalar.
      outer_loss_fn: M, state -> scalar; None for L itself. Views that refinement does not see, for instance.
      make_tx: rates -> optax transformation whose last factor is the rates, as `scaled_adam` and `scale_by_rates`.
      update_mask: of `refine`.
    """

    loss_fn: LossFn
    outer_loss_fn: LossFn | None = None
    make_tx: Callable[[Any], optax.GradientTransformation] = scaled_adam
    update_mask: Any = None

    @property
    def outer(self) -> LossFn:
        """M."""
        return self.loss_fn if self.outer_loss_fn is None else self.outer_loss_fn

    def refine(self, start: Any, rates: Any, **options):
        """`airjax.inner.refine.refine` on this problem."""
        return refine(self.loss_fn, start, self.make_tx(rates), update_mask=self.update_mask, **options)


class OuterGradient(NamedTuple):
    """What an estimator returns; constants to every gradient.

    Fields:
      start: estimate of dO / dG_0, shaped like the start.
      rates: estimate of dO / drates, shaped like the rates; zeros where the estimator has none.
      loss: O as seen on the way, scalar.
    """

    start: Any
    rates: Any
    loss: Float[Array, ""]


def outer_gradient(key: jax.Array, start: Any, rates: Any, problem: Problem, *, estimator: Estimator) -> OuterGradient:
    """The estimate of the gradient of O at `start` and `rates`.

    Args:
      key: for estimators that draw; the others do not look at it.
      start: G_0, pytree of floating arrays.
      rates: a prefix of the start's pytree, see `airjax.inner.optimizers.scaled_adam`.
      problem: see `Problem`.
      estimator: static.

    Returns:
      See `OuterGradient`. Nothing is differentiated through this function: gradients stop at all three arguments.
      `vmap` it over keys, starts and problems.
    """
    start, rates = jax.tree.map(jnp.asarray, (start, rates))
    start, rates = jax.lax.stop_gradient((start, rates))
    return jax.lax.stop_gradient(OuterGradient(*estimator(key, start, rates, problem)))


def surrogate(start: Any, gradient: Any) -> Float[Array, ""]:
    """<stop(gradient), start>: its gradient by what made the start is the outer gradient. Its value means nothing."""
    parts = jax.tree.map(lambda g, s: jnp.sum(jax.lax.stop_gradient(g) * s), gradient, start)
    return jax.tree.reduce(jnp.add, parts)


# --- the objective -------------------------------------------------------------------------------------------


def _check_steps(**steps: int) -> None:
    for name, value in steps.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name}: expected > 0, got {value!r}")


@dataclass(frozen=True)
class _Anchored:
    """The steps that O looks at.

    Fields:
      anchors: increasing step numbers, 0 is the start.
      weights: one per anchor, >= 0, divided by their sum; None for equal ones.
    """

    anchors: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self):
        anchors, weights = self.anchors, self.weights
        whole = all(isinstance(k, int) and not isinstance(k, bool) for k in anchors)
        if not anchors or not whole or list(anchors) != sorted(set(anchors)) or anchors[0] < 0:
            raise ValueError(f"anchors: expected increasing steps of at least 0, got {anchors}")
        if weights is not None and (len(weights) != len(anchors) or min(weights) < 0 or not sum(weights) > 0):
            raise ValueError(f"weights: expected {len(anchors)} numbers >= 0, not all 0, got {weights}")

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights, divided by their sum."""
        weights = self.weights or (1.0,) * len(self.anchors)
        return tuple(weight / sum(weights) for weight in weights)

    def objective(self, start: Any, rates: Any, problem: Problem, **options) -> Float[Array, ""]:
        """O itself; `options` of `refine`."""
        done = problem.refine(start, rates, num_steps=self.anchors[-1], keep=self.anchors, **options)
        return jnp.dot(jax.lax.map(problem.outer, done.kept), self._shares(start))

    def first_order(self, start: Any, rates: Any, problem: Problem) -> OuterGradient:
        """The sum of weights_i * grad M(G_k_i), and for the rates the derivative with the path's directions fixed."""
        kept = problem.refine(start, rates, num_steps=self.anchors[-1], keep=self.anchors).kept
        losses, grads = jax.lax.map(jax.value_and_grad(problem.outer), kept)
        shares = self._shares(start)

        def weighted(leaf):
            return jnp.tensordot(shares, leaf, axes=1)

        # G_k = G_0 + rates * (sum of directions): what multiplies a rate is the way so far, divided by the rate.
        moved = jax.tree.map(lambda g, k, s: weighted(g * (k - s[None])), grads, kept, start)
        _, transpose = jax.vjp(lambda r: scaled(r, moved), jax.tree.map(jnp.ones_like, rates))
        (products,) = transpose(jax.tree.map(jnp.ones_like, moved))
        by_rate = jax.tree.map(lambda p, r: jnp.where(r == 0, 0, p / jnp.where(r == 0, 1, r)), products, rates)
        return OuterGradient(jax.tree.map(weighted, grads), by_rate, jnp.dot(losses, shares))

    def _shares(self, start) -> jax.Array:
        return jnp.array(self.shares, _dtype(start))


def _no_rates(rates: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, rates)


def _last(num_steps: int) -> _Anchored:
    return _Anchored((num_steps,))


# --- first order ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ZeroStep:
    """grad M(G_0): the prediction itself is judged, as vanilla training does. One gradient."""

    name: ClassVar[str] = "zero_step"

    def __call__(self, key, start, rates, problem):
        loss, grads = jax.value_and_grad(problem.outer)(start)
        return grads, _no_rates(rates), loss


@dataclass(frozen=True)
class FirstOrder:
    """grad M(G_K) with J_K := I (first-order MAML; Finn et al., 2017). K steps and one gradient.

    Fields:
      num_steps: K.
    """

    name: ClassVar[str] = "first_order"
    num_steps: int

    def __post_init__(self):
        _check_steps(num_steps=self.num_steps)

    def __call__(self, key, start, rates, problem):
        return _last(self.num_steps).first_order(start, rates, problem)._replace(rates=_no_rates(rates))


@dataclass(frozen=True)
class MultiAnchor:
    """ForeSplat's MetaGrad (Algorithm 1).

      K ~ Uniform{min_steps .. max_steps};   S / N = mean over k = s, 2 s, .. <= K of grad M(G_k),   J := I
      mix * grad M(G_0) + (1 - mix) * S / N

    Steps after the last anchor change nothing, and are not taken. About E[K] (1 + 1 / s) gradients. Under `vmap`
    each problem draws its own K, and all wait for the largest.

    Fields:
      min_steps, max_steps: range of K, min_steps >= stride.
      stride: s.
      mix: lambda, in [0, 1]; 0 in the headline rows of the paper.
    """

    name: ClassVar[str] = "multi_anchor"
    min_steps: int = 50
    max_steps: int = 500
    stride: int = 40
    mix: float = 0.0

    def __post_init__(self):
        _check_steps(min_steps=self.min_steps, max_steps=self.max_steps, stride=self.stride)
        if not self.stride <= self.min_steps <= self.max_steps:
            raise ValueError(
                f"min_steps: expected at least stride {self.stride} and at most max_steps {self.max_steps}, "
                f"got {self.min_steps}"
            )
        if not 0 <= self.mix <= 1:
            raise ValueError(f"mix: expected 0 to 1, got {self.mix}")

    def __call__(self, key, start, rates, problem):
        evaluate = jax.value_and_grad(problem.outer)
        num_anchors = jax.random.randint(key, (), self.min_steps, self.max_steps + 1) // self.stride

        def stride(_, carry):
            state, inner_state, total = carry
            done = problem.refine(state, rates, num_steps=self.stride, inner_state=inner_state)
            return done.final, done.inner_state, jax.tree.map(jnp.add, total, evaluate(done.final))

        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(evaluate, start))
        inner_state = problem.make_tx(rates).init(start)
        _, _, total = jax.lax.fori_loop(0, num_anchors, stride, (start, inner_state, nothing))
        result = jax.tree.map(lambda a: a / num_anchors.astype(a.dtype), total)
        if self.mix:
            result = jax.tree.map(lambda now, later: self.mix * now + (1 - self.mix) * later, evaluate(start), result)
        return result[1], _no_rates(rates), result[0]


@dataclass(frozen=True)
class Budget(_Anchored):
    """sum of weights_i * grad M(G_k_i), J := I, at the steps that a user means to take. K steps and a gradient each.

    Ours: MetaGrad draws its anchors evenly up to 500 steps, whatever the user's patience. Here it is said: anchors
    (0, 20, 100) with weights (1, 2, 1) serve one who mostly takes 20 steps, and the anchor 0 keeps the prediction good.

    Fields: see `_Anchored`; anchors are increasing step numbers, weights one number >= 0 each.
    """

    name: ClassVar[str] = "budget"

    def __call__(self, key, start, rates, problem):
        return self.first_order(start, rates, problem)._replace(rates=_no_rates(rates))


@dataclass(frozen=True)
class MetaSgd(_Anchored):
    """`budget`, and the learning rates learned with the start (after Meta-SGD; Li et al., 2017).

    With directions u_j held fixed, G_k = G_0 + rates * (u_1 + .. + u_k), so that

      dO / drates = sum over i of weights_i * <grad M(G_k_i), (G_k_i - G_0) / rates>   for each attribute,

    which costs nothing beyond the gradients at the anchors. Learn the logarithm of the rates (multiply by rates).

    Fields: as `Budget`.
    """

    name: ClassVar[str] = "meta_sgd"

    def __call__(self, key, start, rates, problem):
        return self.first_order(start, rates, problem)


@dataclass(frozen=True)
class Reptile:
    """(G_0 - G_K) / (K rates): the mean direction of the loop, grad L(G_0) for one step of gradient descent. K steps.

    Nichol et al., 2018. It follows the inner loss; the outer one is only reported. A rate of 0 gives 0.

    Fields:
      num_steps: K.
    """

    name: ClassVar[str] = "reptile"
    num_steps: int

    def __post_init__(self):
        _check_steps(num_steps=self.num_steps)

    def __call__(self, key, start, rates, problem):
        final = problem.refine(start, rates, num_steps=self.num_steps).final
        inverse = jax.tree.map(lambda r: jnp.where(r == 0, 0, 1 / jnp.where(r == 0, 1, r * self.num_steps)), rates)
        direction = scaled(inverse, jax.tree.map(jnp.subtract, start, final))
        return direction, _no_rates(rates), problem.outer(final)


# --- exact, and exact over a window -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Unrolled(_Anchored):
    """The gradient of O itself, through every inner step (MAML). Needs losses that can be differentiated twice.

    Reverse mode over the loop with a state stored every sqrt(K) steps and the steps between computed again: about
    4 K gradients in time, memory that grows with sqrt(K).

    Fields: as `Budget`, and
      checkpoint_every: of `refine`; None for sqrt(K).
    """

    name: ClassVar[str] = "unrolled"
    checkpoint_every: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.checkpoint_every is not None:
            _check_steps(checkpoint_every=self.checkpoint_every)

    def __call__(self, key, start, rates, problem):
        every = self.checkpoint_every or _root(self.anchors[-1])

        def objective(start, rates):
            return self.objective(start, rates, problem, checkpoint_every=every)

        loss, grads = jax.value_and_grad(objective, argnums=(0, 1))(start, rates)
        return *grads, loss


@dataclass(frozen=True)
class Truncated:
    """grad M(G_K) taken back through the last w steps exactly, with J := I before them. K steps, about 4 w more.

    With w = K this is `unrolled` at one anchor; the optimiser's state at step K - w is a constant.

    Fields:
      num_steps: K.
      window: w, 1 to K.
    """

    name: ClassVar[str] = "truncated"
    num_steps: int
    window: int

    def __post_init__(self):
        _check_steps(num_steps=self.num_steps, window=self.window)
        if self.window > self.num_steps:
            raise ValueError(f"window: expected at most num_steps {self.num_steps}, got {self.window}")

    def __call__(self, key, start, rates, problem):
        before = problem.refine(start, rates, num_steps=self.num_steps - self.window)

        def objective(state, rates):
            options = {"num_steps": self.window, "checkpoint_every": _root(self.window)}
            return problem.outer(problem.refine(state, rates, inner_state=before.inner_state, **options).final)

        loss, grads = jax.value_and_grad(objective, argnums=(0, 1))(before.final, rates)
        return *grads, loss


def _root(num_steps: int) -> int:
    return max(1, math.isqrt(num_steps))


# --- implicit ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Implicit:
    """The gradient at a minimum that remembers its start (iMAML; Rajeswaran et al., 2019).

      G* = argmin over G of L(G) + |G - G_0|^2 / (2 strength rates)      =>      dG* / dG_0 = (I + strength R H)^-1

    with R the diagonal of the rates and H the Hessian of L at G*. The loop takes K steps on L with that term, and

      gradient = R^-1/2 (I + A)^-1 R^1/2 grad M(G_K),     A = strength R^1/2 H R^1/2,

    by `iterations` steps of conjugate gradients, or as many terms of the Neumann series sum (-A)^i, which is right only
    where |A| < 1. Each is one Hessian-vector product, about 2 gradients. Where L curves down (not positive definite)
    conjugate gradients stop with what they have. Memory does not grow with K. Rates must be > 0. What `update_mask`
    freezes counts as of rate 0.

    Fields:
      num_steps: K.
      solver: "cg" or "neumann".
      iterations: >= 1.
      strength: how far the loop may go from its start, in units of the rates; gradient descent over K steps goes as
        far as strength K does.
    """

    name: ClassVar[str] = "implicit"
    num_steps: int
    solver: str = "cg"
    iterations: int = 10
    strength: float = 1.0

    def __post_init__(self):
        _check_steps(num_steps=self.num_steps, iterations=self.iterations)
        _check_positive(strength=self.strength)
        if self.solver not in ("cg", "neumann"):
            raise ValueError(f"solver: expected 'cg' or 'neumann', got {self.solver!r}")

    def __call__(self, key, start, rates, problem):
        inverse = jax.tree.map(lambda r: 1 / (self.strength * r), rates)

        def proximal(state):
            away = jax.tree.map(lambda a, b: jnp.square(a - b), state, start)
            return problem.loss_fn(state) + 0.5 * jax.tree.reduce(jnp.add, jax.tree.map(jnp.sum, scaled(inverse, away)))

        final = problem._replace(loss_fn=proximal).refine(start, rates, num_steps=self.num_steps).final
        loss, grads = jax.value_and_grad(problem.outer)(final)
        root = jax.tree.map(jnp.sqrt, rates)
        moves = jax.tree.broadcast(True if problem.update_mask is None else problem.update_mask, start)

        def free(v):
            """0 where nothing is updated: there the rate is 0, whatever it says."""
            return jax.tree.map(lambda m, x: jnp.where(jnp.broadcast_to(m, x.shape), x, 0), moves, v)

        def hessian(v):
            """strength H v."""
            _, product = jax.jvp(jax.grad(problem.loss_fn), (final,), (v,))
            return jax.tree.map(lambda p: self.strength * p, product)

        def curvature(v):
            """A v."""
            return free(scaled(root, hessian(scaled(root, free(v)))))

        solve = _conjugate_gradients if self.solver == "cg" else _neumann
        solved = solve(curvature, free(scaled(root, grads)), self.iterations)
        solved = scaled(jax.tree.map(lambda r: 1 / r, root), solved)
        if problem.update_mask is not None:  # what is frozen stays where it was put, and pulls at what is free
            pulled = jax.tree.map(jnp.subtract, grads, hessian(scaled(rates, solved)))
            solved = jax.tree.map(lambda m, x, g: jnp.where(jnp.broadcast_to(m, x.shape), x, g), moves, solved, pulled)
        return solved, _no_rates(rates), loss


def _conjugate_gradients(matrix, right, iterations: int):
    """(I + matrix)^-1 right; stops at a direction along which the quadratic form is not positive."""
    dot = optax.tree.vdot

    def step(carry, _):
        x, r, p, rr, alive = carry
        applied = jax.tree.map(jnp.add, p, matrix(p))
        form = dot(p, applied)
        alive = alive & (form > 0) & (rr > 0)
        length = jnp.where(alive, rr / jnp.where(alive, form, 1), 0)
        x = jax.tree.map(lambda a, b: a + length * b, x, p)
        r = jax.tree.map(lambda a, b: a - length * b, r, applied)
        rr_next = dot(r, r)
        share = jnp.where(alive, rr_next / jnp.where(alive, rr, 1), 0)
        p = jax.tree.map(lambda a, b: a + share * b, r, p)
        return (x, r, p, rr_next, alive), None

    start = (jax.tree.map(jnp.zeros_like, right), right, right, dot(right, right), jnp.asarray(True))
    (x, *_), _ = jax.lax.scan(step, start, None, length=iterations)
    # Stopped at the first direction, there is nothing but the right-hand side: the first-order gradient.
    empty = dot(x, x) == 0
    return jax.tree.map(lambda a, b: jnp.where(empty, b, a), x, right)


def _neumann(matrix, right, iterations: int):
    """right - matrix right + matrix^2 right - ..., `iterations` products."""

    def step(carry, _):
        total, term = carry
        term = jax.tree.map(jnp.negative, matrix(term))
        return (jax.tree.map(jnp.add, total, term), term), None

    (total, _), _ = jax.lax.scan(step, (right, right), None, length=iterations)
    return total


# --- without derivatives of the loop ----------------------------------------------------------------------------


@dataclass(frozen=True)
class EvolutionStrategies(_Anchored):
    """Antithetic evolution strategies: unbiased for O smoothed by a Gaussian, whatever the loop does. 2 K pairs steps.

      mean over pairs of  e * (O(G_0 + sigma R e, ..) - O(G_0 - sigma R e, ..)) / (2 sigma R),      e ~ N(0, I)

    with R the rates, which must be > 0, so that sigma counts inner steps; the rates move by rate_sigma times
    themselves. Salimans et al., 2017.

    Fields: as `Budget`, and
      sigma: > 0, the change of the start in inner steps.
      pairs: >= 1.
      rate_sigma: > 0, the relative change of the rates.
    """

    name: ClassVar[str] = "es"
    sigma: float = 1.0
    pairs: int = 1
    rate_sigma: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        _check_steps(pairs=self.pairs)
        _check_positive(sigma=self.sigma, rate_sigma=self.rate_sigma)

    def __call__(self, key, start, rates, problem):
        def pair(key):
            key_start, key_rates = jax.random.split(key)
            noise, rate_noise = _normal(key_start, start), _normal(key_rates, rates)

            def one(sign):
                moved = _moved(start, scaled(rates, noise), sign * self.sigma)
                return self.objective(moved, _scaled_by_noise(rates, rate_noise, sign * self.rate_sigma), problem)

            plus, minus = jax.lax.map(one, jnp.array([1.0, -1.0], _dtype(start)))
            return self._estimate(noise, rate_noise, plus - minus, rates), 0.5 * (plus + minus)

        (by_start, by_rates), losses = jax.lax.map(pair, jax.random.split(key, self.pairs))
        mean = jax.tree.map(lambda a: jnp.mean(a, axis=0), (by_start, by_rates))
        return *mean, jnp.mean(losses)

    def _estimate(self, noise, rate_noise, difference, rates):
        """One pair's estimate for the start and for the rates, from the difference that it made."""
        inverse = jax.tree.map(lambda r: difference / (2 * self.sigma * r), rates)
        by_rates = jax.tree.map(lambda e, r: e * difference / (2 * self.rate_sigma * r), rate_noise, rates)
        return scaled(inverse, noise), by_rates


@dataclass(frozen=True)
class PersistentES(EvolutionStrategies):
    """Persistent evolution strategies (Vicol, Metz, Sohl-Dickstein, 2021): a window between two anchors at a time.

    Each window changes the rates anew, and its loss is multiplied with the sum of all changes so far. The start is
    changed once, before the first window, so that for it this is `es`, anchor by anchor. 2 K pairs steps.

    Fields: as `EvolutionStrategies`.
    """

    name: ClassVar[str] = "pes"

    def __call__(self, key, start, rates, problem):
        def pair(key):
            keys = jax.random.split(key, len(self.anchors) + 1)
            noise = _normal(keys[0], start)
            signs = jnp.array([1.0, -1.0], _dtype(start))
            states = [_moved(start, scaled(rates, noise), sign * self.sigma) for sign in signs]
            inner_states = [problem.make_tx(rates).init(state) for state in states]
            changes = jax.tree.map(jnp.zeros_like, rates)
            estimate, loss, step = None, 0.0, 0
            for anchor, share, window_key in zip(self.anchors, self.shares, keys[1:], strict=True):
                fresh = _normal(window_key, rates)
                values = []
                for i, sign in enumerate(signs):
                    varied = _scaled_by_noise(rates, fresh, sign * self.rate_sigma)
                    done = problem.refine(states[i], varied, num_steps=anchor - step, inner_state=inner_states[i])
                    states[i], inner_states[i] = done.final, done.inner_state
                    values.append(problem.outer(done.final))
                if anchor > step:  # a window without steps has not used its change
                    changes = jax.tree.map(jnp.add, changes, fresh)
                part = self._estimate(noise, changes, share * (values[0] - values[1]), rates)
                estimate = part if estimate is None else jax.tree.map(jnp.add, estimate, part)
                loss, step = loss + 0.5 * share * (values[0] + values[1]), anchor
            return estimate, loss

        estimates, losses = jax.lax.map(pair, jax.random.split(key, self.pairs))
        return *jax.tree.map(lambda a: jnp.mean(a, axis=0), estimates), jnp.mean(losses)


@dataclass(frozen=True)
class FiniteDifference(_Anchored):
    """Central differences of O, one number of the start and of the rates after the other: the oracle for tiny problems.

    Fields: as `Budget`, and
      epsilon: > 0, the change of a number of the start, and the relative change of a rate.
    """

    name: ClassVar[str] = "finite_difference"
    epsilon: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        _check_positive(epsilon=self.epsilon)

    def __call__(self, key, start, rates, problem):
        flat, unravel = jax.flatten_util.ravel_pytree((start, rates))
        count = jax.flatten_util.ravel_pytree(start)[0].size
        sizes = self.epsilon * jnp.where(jnp.arange(flat.size) < count, 1, jnp.abs(flat))

        def objective(flat):
            return self.objective(*unravel(flat), problem)

        def slope(i):
            moved = [objective(flat.at[i].add(sign * sizes[i])) for sign in (1, -1)]
            return jnp.where(sizes[i] > 0, (moved[0] - moved[1]) / (2 * jnp.where(sizes[i] > 0, sizes[i], 1)), 0)

        return *unravel(jax.lax.map(slope, jnp.arange(flat.size))), objective(flat)


def _normal(key: jax.Array, tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)])


def _dtype(tree: Any):
    return jax.tree.leaves(tree)[0].dtype


def _moved(tree: Any, direction: Any, length: jax.Array) -> Any:
    return jax.tree.map(lambda a, d: a + length * d, tree, direction)


def _scaled_by_noise(rates: Any, noise: Any, length: jax.Array) -> Any:
    return jax.tree.map(lambda r, e: r * (1 + length * e), rates, noise)


Estimator = (
    ZeroStep
    | FirstOrder
    | MultiAnchor
    | Budget
    | MetaSgd
    | Reptile
    | Unrolled
    | Truncated
    | Implicit
    | EvolutionStrategies
    | PersistentES
    | FiniteDifference
)
ESTIMATORS: dict[str, type] = {kind.name: kind for kind in Estimator.__args__}


def estimator(name: str, **options: Any) -> Estimator:
    """The estimator of that name; its options are the fields of its class.

    Raises:
      ValueError: no such name, or an option that it does not take or that is out of range.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"estimator: expected one of {', '.join(ESTIMATORS)}, got {name!r}")
    try:
        return ESTIMATORS[name](**options)
    except TypeError as error:
        raise ValueError(f"{name}: expected its own options, got {', '.join(options) or 'none'} ({error})") from error


def needs_second_order(estimator: Estimator) -> bool:
    """Whether it differentiates gradients of the losses: a renderer must then be differentiable to any order."""
    return isinstance(estimator, Unrolled | Truncated | Implicit)
