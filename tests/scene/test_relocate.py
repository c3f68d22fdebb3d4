"""Relocation of Gaussians that show nothing. Oracles: the closed forms of two parts, and what must stay as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes3d import random_set

from airjax.gaussians import pad
from airjax.scene.relocate import DEAD, GROWTH, MOST, _divided, relocate
from airjax.scene.task import Coordinates, refinement_adam

COUNT, SLOTS = 40, 64


@pytest.fixture(scope="module")
def start():
    """Coordinates of 40 Gaussians in 64 slots, the state of an optimizer that has seen them, and which are in use."""
    gaussians = pad(random_set(3, COUNT, opacities=(0.2, 0.9)), SLOTS)
    coordinates = jax.tree.map(jnp.asarray, Coordinates.of(gaussians, unit=1.0))
    tx, numbers = refinement_adam(), jnp.arange(SLOTS, dtype=jnp.float32)
    grads = jax.tree.map(
        lambda leaf: jnp.broadcast_to(numbers.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf.shape), coordinates
    )
    with jax.numpy_dtype_promotion("standard"):
        _, state = jax.jit(tx.update)(grads, tx.init(coordinates))
    return coordinates, jnp.asarray(gaussians.active), state


def moved(start, *, faint=(), useless=(), most=0, seed=0):
    coordinates, active, state = start
    coordinates = coordinates._replace(logits=coordinates.logits.at[jnp.array(faint, int)].set(-9.0))
    marks = jnp.zeros(SLOTS, bool).at[jnp.array(useless, int)].set(True)
    return coordinates, relocate(jax.random.key(seed), coordinates, active, marks, state, most=most)


def test_opacity_and_scale_of_parts():
    """One part is the whole; N over one another are as opaque as it; two as equation 9 says, by hand."""
    whole = jnp.linspace(0.05, 0.95, 19)
    opacity, shrink = _divided(whole, jnp.ones(19, int))
    np.testing.assert_allclose(opacity, whole, rtol=1e-5)
    np.testing.assert_allclose(shrink, 1.0, rtol=1e-5)
    for parts in range(2, MOST + 1):
        opacity, shrink = _divided(whole, jnp.full(19, parts))
        np.testing.assert_allclose(1 - (1 - np.asarray(opacity, float)) ** parts, whole, rtol=1e-4)
        assert (shrink < 1).all()
    opacity, shrink = (np.asarray(part, float) for part in _divided(whole, jnp.full(19, 2)))
    np.testing.assert_allclose(shrink, np.asarray(whole) / (2 * opacity - opacity**2 / np.sqrt(2)), rtol=1e-4)


def test_a_set_of_which_all_show_something_stays():
    start_ = jax.tree.map(jnp.asarray, Coordinates.of(random_set(0, 8, opacities=(0.2, 0.9)), unit=1.0))
    found, active, state = relocate(jax.random.key(0), start_, jnp.ones(8, bool), jnp.zeros(8, bool), start_, most=8)
    jax.tree.map(np.testing.assert_array_equal, (found, state), (start_, start_))
    assert active.all()


def test_what_shows_nothing_moves_to_what_does(start):
    """Beside a Gaussian that shows something, in its color, with its moments; the others stay where they are."""
    before, (found, active, state) = moved(start, faint=[3, 7], useless=[11])
    assert np.asarray(active).tolist() == np.asarray(start[1]).tolist()
    gone = np.isin(np.arange(SLOTS), [3, 7, 11])
    np.testing.assert_array_equal(found.means[~gone], before.means[~gone])
    assert (jax.nn.sigmoid(found.logits[:COUNT]) > DEAD).all()
    for i in np.flatnonzero(gone):
        (source,) = np.flatnonzero((np.asarray(before.base) == np.asarray(found.base[i])).all(axis=(1, 2)) & ~gone)
        away = np.linalg.norm(np.asarray(found.means[i] - found.means[source]))
        assert 0 < away < 5 * np.exp(np.asarray(before.log_scales[source])).max()
        assert found.logits[i] == found.logits[source] < before.logits[source]
        np.testing.assert_array_equal(state[0].nu.means[i], start[2][0].nu.means[source])
    assert state[0].count == start[2][0].count


def test_unused_slots_are_filled_little_by_little(start):
    """A fifth at a time, up to the given number."""
    _, (_, active, _) = moved(start, most=SLOTS)
    assert COUNT < int(active.sum()) <= COUNT + GROWTH * COUNT and active[:COUNT].all()
    _, (_, active, _) = moved(start, most=COUNT + 2)
    assert active.sum() <= COUNT + 2 and not active[COUNT + 2 :].any()


def test_where_nothing_shows_anything_nothing_moves(start):
    before, (found, active, _) = moved(start, faint=range(COUNT), most=SLOTS)
    np.testing.assert_array_equal(found.means, before.means)
    assert not active.any()
