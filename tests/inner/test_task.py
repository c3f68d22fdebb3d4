"""The host loop of every refinement, with images and with scenes; oracles: the renderers, a loop never interrupted."""

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import image_case, scene_case

from airjax.errors import AirjaxError
from airjax.gaussians import ladder, take
from airjax.image import task as image_wing
from airjax.inner import task as module
from airjax.inner.task import Case, advance, run, shared_capacity, start_state
from airjax.raster.tiles import Capacity
from airjax.scene import task as scene_wing

pytestmark = pytest.mark.slow

CASES = {"image": image_case, "scene": scene_case}
RATES = {"image": image_wing.RATES, "scene": scene_wing.RATES}


@pytest.fixture(scope="module", params=list(CASES))
def case(request) -> Case:
    return CASES[request.param]()


def loss_of(case: Case, gaussians) -> float:
    """The inner loss of a set, all views together."""
    capacity = case.task.plan(gaussians, headroom=2.0, thorough=True)
    loss = jax.jit(partial(case.task.loss, capacity=capacity))
    return float(loss(case.task.coordinates(gaussians), gaussians.active))


def same(first, second, **tolerance) -> None:
    options = tolerance or {"rtol": 0, "atol": 0}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **options), first, second)


def test_refinement_comes_closer_and_leaves_unused_slots_alone(case):
    told: list[int] = []
    result = run(case.task, case.gaussians, num_steps=25, progress=told.append)
    assert told == [10, 20, 25] and result.num_slots == case.gaussians.num_slots
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(result))
    assert loss_of(case, result) < 0.8 * loss_of(case, case.gaussians)
    unused = ~np.asarray(case.gaussians.active)
    assert unused.any()
    pairs = (take(case.task.coordinates(gaussians), unused) for gaussians in (result, case.gaussians))
    same(*pairs, rtol=1e-5, atol=1e-6)


def test_no_step_changes_nothing(case):
    result = run(case.task, case.gaussians, num_steps=0)
    same(result, case.gaussians, rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(result.means, case.gaussians.means)


def test_segments_do_not_matter(case):
    whole = advance(case.task, start_state(case.task, case.gaussians), num_steps=10)
    state = start_state(case.task, case.gaussians)
    for _ in range(2):
        state = advance(case.task, state, num_steps=5)
    assert whole.step == state.step == 10
    same(whole.coordinates, state.coordinates)


def test_a_set_that_outgrows_its_lists_is_planned_again(case):
    """Lists far too small give the same result as large ones, never an incomplete image."""
    start = start_state(case.task, case.gaussians)
    expected = advance(case.task, start, num_steps=5)
    small = start._replace(capacity=Capacity(pairs=16, chunks=2))
    found = advance(case.task, small, num_steps=5)
    assert found.capacity.pairs >= expected.capacity.pairs > small.capacity.pairs
    same(found.coordinates, expected.coordinates)


@pytest.mark.parametrize("field", ["means", "colors"])
def test_what_does_not_stay_finite_is_said(case, field):
    """A mean that is nowhere is not drawn: the loss stays finite, and cannot show it."""
    field = field if case.name == "image" else {"means": "means", "colors": "base"}[field]
    wild = replace(case.task, rates=RATES[case.name]._replace(**{field: float("nan")}))
    with pytest.raises(AirjaxError, match=r"expected finite Gaussians, .* after step 0; try smaller learning rates"):
        run(wild, case.gaussians, num_steps=5)


def test_a_start_that_is_nowhere_is_said(case):
    """One mean of NaN among good ones."""
    means = case.gaussians.means.at[0].set(jnp.nan)
    active = case.gaussians.active.at[0].set(True)
    with pytest.raises(AirjaxError, match="expected finite Gaussians"):
        run(case.task, replace(case.gaussians, means=means, active=active), num_steps=5)


def test_sets_of_any_size_share_programs(case):
    """Slots are added up to a ladder: another number of Gaussians, other pixels and other rates compile nothing."""
    run(case.task, case.gaussians, num_steps=5)
    before = module._segment.jitted._cache_size()
    fewer = take(case.gaussians, slice(2, None))
    slower = replace(case.task, rates=jax.tree.map(lambda rate: 0.5 * rate, RATES[case.name]))
    assert run(slower, fewer, num_steps=5).num_slots == case.gaussians.num_slots - 2
    assert module._segment.jitted._cache_size() == before
    assert start_state(case.task, fewer).active.shape == (ladder(1),)


@pytest.mark.parametrize("wing", CASES)
def test_the_capacity_that_cases_share(wing):
    """In 2D chunks need none: as many as pairs can need cost nothing."""
    case = CASES[wing]()
    large = replace(case.gaussians, scales=case.gaussians.scales * 20)
    cases = [case, case._replace(gaussians=large)]
    shared = shared_capacity(cases)
    plans = [shared_capacity([each]) for each in cases]
    chunks = [p.chunks for p in plans]
    assert shared == Capacity(max(p.pairs for p in plans), None if wing == "image" else max(chunks))


# --- a refinement that knows where it is -----------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Spy(image_wing.ImageTask):
    """Says at which steps, and how much of the way, it was asked; refined in no step of its own."""

    asked: ClassVar[list] = []

    def at(self, step, share):
        self.asked.append((step, share))
        return self

    def rearrange(self, state, share, *, most):
        self.asked.append((state.step, share, most))
        return state


def test_a_task_knows_how_much_is_behind(monkeypatch):
    case = image_case()
    spy = Spy(*(getattr(case.task, field.name) for field in fields(case.task)))
    monkeypatch.setattr(
        module, "advance", lambda task, state, *, num_steps: state._replace(step=state.step + num_steps)
    )
    Spy.asked.clear()
    run(spy, case.gaussians, num_steps=25)
    count = case.gaussians.num_slots
    expected = [(0, 0.0), (10, 0.4, count), (10, 0.4), (20, 0.8, count), (20, 0.8), (25, 1.0, count)]
    assert Spy.asked == expected


def test_a_time_instead_of_a_number(monkeypatch):
    """Segments of 3 s in 10 s: four, the last of which is finished; whole seconds are told, and no more than given."""
    case, now, told = image_case(), [0.0], []
    monkeypatch.setattr(module.Stopwatch, "seconds", property(lambda watch: now[0]))

    def three_seconds(task, state, *, num_steps):
        now[0] += 3
        return state._replace(step=state.step + num_steps)

    monkeypatch.setattr(module, "advance", three_seconds)
    run(case.task, case.gaussians, seconds=10.0, progress=told.append)
    assert told == [3, 6, 9, 10]
    now[0], told[:] = 0.0, []
    run(case.task, case.gaussians, seconds=10.0, num_steps=15, progress=told.append)  # whichever is nearer
    assert len(told) == 2
    same(run(case.task, case.gaussians, seconds=0.0), case.gaussians, rtol=2e-6, atol=1e-6)
    with pytest.raises(ValueError, match="expected a number of steps, or seconds, got neither"):
        run(case.task, case.gaussians)
