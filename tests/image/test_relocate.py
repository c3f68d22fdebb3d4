"""Relocation of Gaussians of little use. Oracles: the dense renderer, the closed form of a gain, what must stay."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import render_dense

from airjax.gaussians import Gaussians2D, join, pad, take
from airjax.image.free_task import RELOCATED_UNTIL, FreeTask
from airjax.image.relocate import SHAPES, WORTH, best_additions, relocate
from airjax.image.task import Coordinates
from airjax.inner.task import SEGMENT, advance, run, start_state

SIZE = (40, 48)


def one(x, y, *, shape, color):
    """A single Gaussian of one of the SHAPES, at a place in pixels."""
    a, b, angle = SHAPES[shape]
    rows = [x, y], [a, b], angle, color
    return Gaussians2D(*(np.array([row], np.float32) for row in rows), np.ones(1, bool))


def grid():
    """Twenty-four of equal energy, far apart, and a faint one in the third slot."""
    places = [(8 * i + 4.5, 8 * j + 4.5) for j in range(4) for i in range(6)]
    colors = np.random.default_rng(0).uniform(0.4, 0.6, (len(places), 3))
    bright = [one(*place, shape=3, color=color) for place, color in zip(places, colors, strict=True)]
    return join([*bright[:2], one(25.5, 25.5, shape=1, color=[1e-3, 0, 0]), *bright[2:]])


def drawn(gaussians):
    return np.asarray(render_dense(gaussians, image_size=SIZE))


@pytest.mark.parametrize("shape", [0, 4, 12, len(SHAPES) - 1])
def test_a_missing_gaussian_is_found(shape):
    """Its place, shape and colour; and what is gained is the squared error that it makes where it is missing."""
    color = np.array([0.5, -0.2, 0.1], np.float32)
    residual = drawn(one(20.5, 17.5, shape=shape, color=color))
    gains, shapes, colors = (np.asarray(part) for part in best_additions(residual))
    assert np.unravel_index(np.argmax(gains), SIZE) == (17, 20) and shapes[17, 20] == shape
    np.testing.assert_allclose(colors[17, 20], color, atol=0.01)  # the renderer cuts weights off at 1 / 255
    np.testing.assert_allclose(gains[17, 20], np.sum(np.square(residual)), rtol=0.02)


def test_nothing_enters_at_the_other_side_or_outside():
    """A canvas that is NaN beyond the image; what is missing at the right edge is not missing at the left one."""
    residual = np.array(drawn(one(30.5, 20.5, shape=1, color=[1.0, 1.0, 1.0])))
    residual[:, 32:] = np.nan
    gains = np.asarray(best_additions(residual)[0])
    assert np.isfinite(gains).all() and gains.max() > 1 and (gains[:, 32:] == 0).all()
    assert gains[:, :4].max() < 1e-6


def test_the_least_useful_moves():
    """The faint one, in its slot; the error falls by the gain, and the others and their number stay."""
    have, lost = grid(), one(38.5, 36.5, shape=12, color=[0.3, 0.3, -0.3])
    image = drawn(join([have, lost]))
    found, is_new = relocate(pad(have, 32), image - drawn(have))
    assert np.flatnonzero(is_new).tolist() == [2] and np.count_nonzero(found.active) == have.num_slots
    np.testing.assert_allclose(found.means[2], lost.means[0])
    np.testing.assert_allclose(found.scales[2], lost.scales[0])
    jax.tree.map(np.testing.assert_array_equal, take(found, ~is_new), take(pad(have, 32), ~np.asarray(is_new)))
    before, after = (np.sum(np.square(image - drawn(each))) for each in (have, found))
    assert after < 0.05 * before


def test_nothing_moves_for_less_than_it_is_worth():
    have = take(grid(), np.arange(25) != 2)
    energy = np.sum(np.square(have.colors), axis=1) * math.pi * np.prod(have.scales, axis=1)
    amplitude = np.sqrt(WORTH * energy.min() / (math.pi * np.prod(SHAPES[2, :2])))
    for factor, count in ((0.0, 0), (0.9, 0), (1.1, 1)):
        residual = factor * drawn(one(40.5, 36.5, shape=2, color=[amplitude, 0, 0]))
        assert np.count_nonzero(relocate(have, residual)[1]) == count


# --- in a refinement -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stepped():
    """A task, and its state after a step, which stands for that of a relocation."""
    have = grid()
    image = drawn(join([have, one(38.5, 36.5, shape=12, color=[0.6, 0.6, -0.3])]))
    task = jax.tree.map(jnp.asarray, FreeTask(image))
    return task, advance(task, start_state(task, have), num_steps=1)._replace(step=SEGMENT)


def test_moments_of_what_moved_are_forgotten(stepped):
    task, state = stepped
    found = task.rearrange(state, 0.2, most=25)
    changed = np.any(np.asarray(found.coordinates.means != state.coordinates.means), axis=1)
    assert np.flatnonzero(changed).tolist() == [2] and (found.active == state.active).all()
    before, after = jax.tree.leaves(state.inner_state), jax.tree.leaves(found.inner_state)
    for old, new in zip(before, after, strict=True):
        expected = np.array(old)
        expected[2 if np.ndim(old) else ()] = 0 if np.ndim(old) else old
        np.testing.assert_array_equal(new, expected)
    kept = take(state.coordinates, ~changed), take(found.coordinates, ~changed)
    jax.tree.map(np.testing.assert_array_equal, *kept)


def test_a_row_that_moved_takes_no_leap(stepped):
    """Its steps stay below 1.2 times the rate, with a count that is not its own and a gradient that does not change."""
    task, count = stepped[0], 12
    tx, start = task.make_tx(Coordinates(1.0, 1.0, 1.0, 1.0)), Coordinates(*(jnp.zeros(2) for _ in range(4)))
    state = tx.init(start)
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(tx.update)
        for step in range(60 + count):
            updates, state = update(jax.tree.map(jnp.ones_like, start), state)
            if step == 59:
                state = jax.tree.map(lambda leaf: leaf.at[0].set(0.0) if leaf.ndim else leaf, state)
            assert step < 60 or float(jnp.max(jnp.abs(updates.means))) < 1.2


@pytest.mark.parametrize(
    ("num_steps", "expected"), [(10, []), (20, [10]), (50, [10, 20, 30]), (300, range(30, 181, 30))]
)
def test_when_gaussians_move(stepped, num_steps, expected):
    """After each tenth of a refinement, or each segment if that is longer; not near the end."""
    task, state = stepped
    steps = range(SEGMENT, num_steps + 1, SEGMENT)
    states = [state._replace(step=step) for step in steps]
    moved = [each.step for each in states if task.rearrange(each, each.step / num_steps, most=25) is not each]
    assert moved == list(expected) and (not moved or moved[-1] / num_steps <= RELOCATED_UNTIL)


def test_rates_fall(stepped):
    rates = [float(stepped[0].at(0, share).rates.means) for share in (0.0, 0.3, 0.6, 1.0)]
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.2 * float(stepped[0].rates.means)


def test_a_refinement_with_moves_ends_nearer(stepped, monkeypatch):
    task = stepped[0]
    with_moves = run(task, grid(), num_steps=90)
    monkeypatch.setattr(FreeTask, "rearrange", lambda self, state, share, *, most: state)
    without = run(task, grid(), num_steps=90)
    errors = [np.sum(np.square(np.asarray(task.image) - drawn(each))) for each in (with_moves, without)]
    assert errors[0] < 0.5 * errors[1]
