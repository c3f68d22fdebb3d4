"""`Task`, one inner problem, and the one host loop that refines Gaussians for it.

Letters: n slots. A wing says what its Gaussians' coordinates are and what its images should look like; images and
scenes, refinement, fitting from scratch and meta-training then share what is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from airjax.arrays import AnyArray
from airjax.errors import AirjaxError
from airjax.gaussians import AnyGaussians, on_ladder, take
from airjax.inner.estimators.base import Problem
from airjax.inner.refine import Refined, refine
from airjax.inner.stopwatch import Stopwatch
from airjax.programs import kept
from airjax.progress import Steps

SEGMENT = 10  # steps of one jitted call
# Room of the renderer's lists for a set that grows: first in plans to come, then for a set that outgrew its plan.
HEADROOMS = (1.25, 1.5, 2.5, 5.0)


class Task:
    """One inner problem: what moves, at which rates, towards what, and how it is drawn.

    A subclass is a frozen dataclass, registered as a pytree (`jax.tree_util.register_dataclass`): a jitted function
    takes it as an argument, and tasks of equal shapes share one program. Its arrays may be traced.

    Fields:
      rates: learning rates, a prefix of the coordinates' pytree.
    """

    rates: Any

    def make_tx(self, rates: Any) -> optax.GradientTransformation:
        """The inner optimizer; its last factor is the rates."""
        raise NotImplementedError

    def coordinates(self, gaussians: Any) -> Any:
        """The numbers that the optimizer moves, a pytree of arrays (n, ..); differentiable."""
        raise NotImplementedError

    def gaussians(self, coordinates: Any, active: Bool[AnyArray, " n"]) -> Any:
        """The Gaussians with these coordinates; any real numbers are valid."""
        raise NotImplementedError

    def loss(
        self, coordinates: Any, active: Bool[AnyArray, " n"], batch=None, *, capacity: Any, any_order: bool = False
    ) -> Float[Array, ""]:
        """The inner loss; NaN where the renderer's lists, of this capacity, overflow.

        The batch is one row of `batches`, None for all that there is to look at; `any_order` is whether the loss can be
        differentiated more than once.
        """
        raise NotImplementedError

    def outer_loss(
        self, coordinates: Any, active: Bool[AnyArray, " n"], *, capacity: Any, any_order: bool = False
    ) -> Float[Array, ""]:
        """What a refinement is judged by, for estimators; arguments as in `loss`."""
        raise NotImplementedError

    def batches(self, step: int, num_steps: int) -> Any:
        """What the losses of `num_steps` steps from `step` on look at: a pytree of arrays (num_steps, ..), or None."""
        del step, num_steps

    def at(self, step: int, share: float) -> Task:
        """The task of the steps from `step` on: coarser targets at first, say, or smaller rates at the end.

        `share` in [0, 1) is how much of the refinement is behind, as far as that is known. Tasks whose arrays have the
        same shapes share one program.
        """
        del step, share
        return self

    def rearrange(self, state: State, share: float, *, most: int) -> State:
        """The state with Gaussians moved to where they are needed more; called after every segment of steps.

        `share` is how much of the refinement is behind, 1 at the end: that segment included. The first `most` slots may
        be in use.
        """
        del share, most
        return state

    def plan(self, gaussians: Any, *, headroom: float, thorough: bool) -> Any:
        """The capacity of the renderer's lists for concrete Gaussians, with room for `headroom` times as many pairs.

        `thorough`: look at everything that the task draws; else a sample of it will do.
        """
        raise NotImplementedError

    def problem(self, active: Bool[AnyArray, " n"], *, capacity: Any, any_order: bool = False) -> Problem:
        """The same for estimators of the outer gradient: functions of the coordinates alone."""
        options = {"capacity": capacity, "any_order": any_order}
        return Problem(
            lambda coordinates: self.loss(coordinates, active, **options),
            outer_loss_fn=lambda coordinates: self.outer_loss(coordinates, active, **options),
            make_tx=self.make_tx,
        )


class Case(NamedTuple):
    """A task and where its refinement begins, n slots; the name is for reports."""

    name: str
    task: Task
    gaussians: Any


class State(NamedTuple):
    """A refinement between two steps: all that is needed to go on.

    `coordinates` and `active` are those of all slots. The inner state is None before the first step, the loss is that
    before the last step taken (NaN before the first), the capacity of the renderer's lists None before they are
    planned.
    """

    step: int
    coordinates: Any
    active: Bool[AnyArray, " n"]
    inner_state: Any = None
    loss: float = float("nan")
    capacity: Any = None


def start_state(task: Task, gaussians: AnyGaussians) -> State:
    """The state before the first step, with slots added up to a number that many sets share."""
    gaussians = on_ladder(gaussians)
    return State(0, task.coordinates(gaussians), gaussians.active)


def advance(task: Task, state: State, *, num_steps: int) -> State:
    """`num_steps` of the task's optimizer, on concrete arrays.

    The renderer's lists are sorted in every step, in arrays of a planned size; a call in which the set outgrows them is
    done again with more room. Nothing is ever drawn incompletely: an AirjaxError where the coordinates did not stay
    finite, or grew beyond what can be drawn.
    """
    if state.inner_state is None:
        # Here, so that the first call runs the program of all others.
        state = state._replace(inner_state=task.make_tx(task.rates).init(state.coordinates))
    batches = task.batches(state.step, num_steps)
    for attempt, headroom in enumerate(HEADROOMS):
        if state.capacity is None:
            gaussians = task.gaussians(state.coordinates, state.active)
            state = state._replace(capacity=task.plan(gaussians, headroom=headroom, thorough=attempt > 0))
        done, finite = _segment(task, *state[1:4], batches, num_steps=num_steps, capacity=state.capacity)
        if finite:
            loss = float(done.losses[-1]) if num_steps else state.loss
            step = state.step + num_steps
            return State(step, done.final, state.active, done.inner_state, loss, state.capacity)
        state = state._replace(capacity=None)
    got = f"got others within {num_steps} steps after step {state.step}; try smaller learning rates"
    raise AirjaxError(f"refinement: expected finite Gaussians, {got}")


@kept(static_argnames=("num_steps", "capacity"))
def _segment(
    task: Task, coordinates: Any, active: Any, inner_state: Any, batches: Any, *, num_steps: int, capacity: Any
) -> tuple[Refined, Bool[Array, ""]]:
    """Some steps, and whether all of their losses and coordinates are finite."""

    def loss_fn(coordinates, *batch):
        return task.loss(coordinates, active, *batch, capacity=capacity)

    tx = task.make_tx(task.rates)
    done = refine(loss_fn, coordinates, tx, num_steps=num_steps, batches=batches, inner_state=inner_state)
    # A Gaussian that is nowhere is not drawn, and the loss cannot show it.
    finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((done.losses, done.final))])
    return done, jnp.all(finite)


def run(
    task: Task,
    gaussians: AnyGaussians,
    *,
    num_steps: int | None = None,
    seconds: float | None = None,
    progress: Steps | None = None,
) -> AnyGaussians:
    """Gaussians after a refinement, in the same slots; numpy arrays. Arguments and errors are those of `run_to`."""
    state = run_to(task, gaussians, num_steps=num_steps, seconds=seconds, progress=progress)
    refined = task.gaussians(state.coordinates, state.active)
    return take(jax.tree.map(np.asarray, refined), slice(gaussians.num_slots))


def run_to(
    task: Task,
    gaussians: AnyGaussians,
    *,
    num_steps: int | None = None,
    seconds: float | None = None,
    progress: Steps | None = None,
) -> State:
    """The state after a refinement; of its slots, the first are those of the Gaussians.

    Args:
      num_steps: how many steps, >= 0; None for as many as there is time for.
      seconds: how long, >= 0, compilation not counted; the segment of steps that is begun is finished. None for no
        limit.
      progress: called every SEGMENT steps with the number of steps done, or of whole seconds where a time is given.

    Raises:
      ValueError: neither `num_steps` nor `seconds` is given.
      AirjaxError: as `advance`.
    """
    if num_steps is None and seconds is None:
        raise ValueError("num_steps: expected a number of steps, or seconds, got neither")
    task, most = jax.tree.map(jnp.asarray, task), gaussians.num_slots
    state, shapes = start_state(task, gaussians), None
    with Stopwatch() as watch:
        share = _share_done(state.step, watch.seconds, num_steps, seconds)
        while share < 1:
            part = task.at(state.step, share)
            if shapes != (shapes := jax.tree.map(jnp.shape, part)):
                state = state._replace(capacity=None)  # that of other images
            left = SEGMENT if num_steps is None else num_steps - state.step
            state = advance(part, state, num_steps=min(SEGMENT, left))
            share = _share_done(state.step, watch.seconds, num_steps, seconds)
            if share < 1:
                state = part.rearrange(state, share, most=most)
            if progress is not None:
                progress(state.step if seconds is None else int(min(watch.seconds, seconds)))
    return task.rearrange(state, 1.0, most=most)


def _share_done(step: int, spent: float, num_steps: int | None, seconds: float | None) -> float:
    """How much of a refinement is done, 1 for all, of whichever limit is nearer."""
    by_steps = 0.0 if num_steps is None else step / num_steps if num_steps else 1.0
    by_seconds = 0.0 if seconds is None else spent / seconds if seconds > 0 else 1.0
    return min(1.0, max(by_steps, by_seconds))


def shared_capacity(cases: Sequence[Case], *, headroom: float = 2.0) -> Any:
    """Room for the renderer's lists of all cases and of their refinements, so that they share compiled programs."""
    starts = [jax.tree.map(jnp.asarray, case.gaussians) for case in cases]
    plans = [case.task.plan(g, headroom=headroom, thorough=True) for case, g in zip(cases, starts, strict=True)]
    # None stands for as many as the others can need.
    return type(plans[0])(*(None if None in sizes else max(sizes) for sizes in zip(*plans, strict=True)))
