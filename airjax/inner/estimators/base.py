"""What every estimator shares: the problem, the objective, the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.inner.optimizers import scaled, scaled_adam
from airjax.inner.refine import Refined, refine

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

    def refine(self, start: Any, rates: Any, **options: Any) -> Refined:
        """`airjax.inner.refine.refine` on this problem."""
        return refine(self.loss_fn, start, self.make_tx(rates), update_mask=self.update_mask, **options)


class OuterGradient(NamedTuple):
    """Result of an estimator; constants to every gradient.

    Fields:
      start: estimate of dO / dG_0, shaped like the start.
      rates: estimate of dO / drates, shaped like the rates; zeros where the estimator has none.
      loss: O as the estimator saw it, scalar.
    """

    start: Any
    rates: Any
    loss: Float[Array, ""]


@dataclass(frozen=True)
class Estimator:
    """Base class: a frozen dataclass whose fields are its options, and a formula `__call__`.

    Class facts, for those who use an estimator without knowing it:
      name: in the registry and in reports; set by `register`.
      needs_second_order: whether it differentiates gradients of the losses. The renderer is then the one that can be
        differentiated to any order.
      draws: whether its result depends on the key.
      learns_rates: whether it is meant to train the learning rates together with the start.
    """

    name: ClassVar[str] = ""
    needs_second_order: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    learns_rates: ClassVar[bool] = False

    @classmethod
    def at(cls, horizon: int) -> Self:
        """The estimator for an objective that ends after `horizon` inner steps, other options as a study wants them.

        This default serves classes with a field `num_steps`, or `anchors`, or neither.
        """
        names = {field.name for field in fields(cls)}
        options: dict[str, Any] = {"num_steps": horizon} if "num_steps" in names else {}
        return cls(**options | ({"anchors": (horizon,)} if "anchors" in names else {}))

    def __call__(self, key: jax.Array, start: Any, rates: Any, problem: Problem) -> OuterGradient:
        """The estimate; arguments as in `outer_gradient`."""
        raise NotImplementedError


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


def clip_rows(gradient: Any, rates: Any, active: Bool[AnyArray, " n"], *, limit: float) -> Any:
    """A gradient of norm 1 in which no row counts for more than `limit` times the median of those in use.

    Through many steps some Gaussians are chaotic: their exact gradient is thousands of times that of the others, and
    says nothing of where to go; and so are some images. Norms are taken in units of the rates. Zero stays zero.

    Args:
      gradient: pytree of arrays (n, ..).
      rates: a prefix of it.
      active: rows in use.
    """
    parts = jax.tree.leaves(scaled(rates, gradient))
    norms = jnp.sqrt(sum(jnp.sum(jnp.square(part.reshape(len(active), -1)), axis=1) for part in parts))
    middle = jnp.nanmedian(jnp.where(active, norms, jnp.nan))
    clipped = jnp.minimum(norms, limit * jnp.nan_to_num(middle))
    total = jnp.sqrt(jnp.sum(jnp.square(clipped)))
    return scaled(clipped / jnp.maximum(norms * total, 1e-30), gradient)


# --- the registry --------------------------------------------------------------------------------------------

ESTIMATORS: dict[str, type[Estimator]] = {}
Kind = TypeVar("Kind", bound=type[Estimator])


def register(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: makes an estimator known by a name, to configurations and command lines.

    Raises:
      ValueError: the name belongs to another class.
    """

    def decorate(kind: Kind) -> Kind:
        known = ESTIMATORS.get(name, kind)
        if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ValueError(f"register: expected a new name, {name!r} is {known.__module__}.{known.__qualname__}")
        kind.name = name
        ESTIMATORS[name] = kind
        return kind

    return decorate


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


# --- the objective -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Anchored(Estimator):
    """Base of estimators that are told the steps O looks at.

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

    def objective(self, start: Any, rates: Any, problem: Problem, **options: Any) -> Float[Array, ""]:
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

    def _shares(self, start: Any) -> jax.Array:
        return jnp.array(self.shares, float_type(start))


def half_way(horizon: int) -> tuple[int, ...]:
    """Half of a horizon, where that is no step 0."""
    return (horizon // 2,) if horizon > 1 else ()


def no_rates(rates: Any) -> Any:
    """Zeros like the rates."""
    return jax.tree.map(jnp.zeros_like, rates)


def float_type(tree: Any) -> Any:
    """The dtype of the first leaf."""
    return jax.tree.leaves(tree)[0].dtype


def check_steps(**steps: int) -> None:
    """Raises ValueError unless all are whole numbers of at least 1."""
    for name, value in steps.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")


def check_positive(**numbers: float) -> None:
    """Raises ValueError unless all are above 0."""
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name}: expected > 0, got {value!r}")
