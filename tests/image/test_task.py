"""Refinement of one image; oracles: the dense renderer, finite differences, a loop that was never interrupted."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes2d as scenes

from airjax.errors import AirjaxError
from airjax.image import task
from airjax.image.task import (
    RATES,
    Coordinates,
    advance,
    coordinates_of,
    reconstruction_loss,
    refine_gaussians,
    squared_error,
    start_state,
)
from airjax.inner.optimizers import rates_from_text, rates_to_text
from airjax.raster.dense import render_dense
from airjax.raster.draw import capacity_of

SIZE = (24, 32)


@pytest.fixture(scope="module")
def gaussians():
    """Eighteen slots, some of them not in use."""
    return scenes.with_inactive(scenes.random_set(0, 14, SIZE), 0.3)[0]


@pytest.fixture(scope="module")
def image(gaussians):
    """What the set shows, moved a little: something that refinement can reach."""
    moved = replace(gaussians, means=gaussians.means + 0.7, colors=gaussians.colors * 0.9)
    return np.asarray(render_dense(moved, image_size=SIZE))


def test_coordinates_are_a_round_trip(gaussians):
    again = coordinates_of(gaussians).gaussians(gaussians.active)
    for name in ("means", "scales", "angles", "colors"):
        np.testing.assert_allclose(getattr(again, name), getattr(gaussians, name), rtol=1e-5, atol=1e-6)


def test_scales_stay_finite():
    wild = Coordinates(jnp.zeros((2, 2)), jnp.array([[-1e3, 1e3], [0.0, 0.0]]), jnp.zeros(2), jnp.zeros((2, 3)))
    scales = wild.gaussians(jnp.ones(2, bool)).scales
    assert jnp.all(jnp.isfinite(scales)) and jnp.all(scales > 0)


def test_the_loss_is_that_of_the_dense_renderer(gaussians, image):
    capacity = capacity_of(gaussians, image_size=SIZE)
    loss = reconstruction_loss(image, gaussians.active, capacity=capacity)(coordinates_of(gaussians))
    dense = squared_error(image, render_dense(gaussians, image_size=SIZE))
    np.testing.assert_allclose(loss, dense, rtol=1e-4)


def test_refinement_comes_closer_and_leaves_unused_slots_alone(gaussians, image):
    start = float(squared_error(image, render_dense(gaussians, image_size=SIZE)))
    told = []
    result = refine_gaussians(gaussians, image, num_steps=33, progress=told.append)
    assert told == [10, 20, 30, 33]
    assert float(squared_error(image, render_dense(result, image_size=SIZE))) < 0.3 * start
    unused = ~np.asarray(gaussians.active)
    assert unused.any()
    for before, after in zip(coordinates_of(gaussians), coordinates_of(result), strict=True):
        np.testing.assert_allclose(np.asarray(after)[unused], np.asarray(before)[unused], rtol=1e-6, atol=1e-7)


def test_no_step_changes_nothing(gaussians, image):
    result = refine_gaussians(gaussians, image, num_steps=0)
    np.testing.assert_allclose(result.scales, gaussians.scales, rtol=1e-6)
    np.testing.assert_array_equal(result.means, gaussians.means)


def test_segments_do_not_matter(gaussians, image):
    whole = advance(start_state(gaussians), image, num_steps=12)
    parts = advance(advance(start_state(gaussians), image, num_steps=5), image, num_steps=7)
    assert whole.step == parts.step == 12
    jax.tree.map(np.testing.assert_array_equal, whole.coordinates, parts.coordinates)


def test_a_set_that_outgrows_its_lists_is_planned_again(gaussians, image):
    """Lists far too small give the same result as large ones, never an incomplete image."""
    state = start_state(gaussians)
    expected = advance(state, image, num_steps=3)
    tight = state._replace(capacity=expected.capacity._replace(pairs=2, chunks=1))
    again = advance(tight, image, num_steps=3)
    assert again.capacity.pairs > 2
    jax.tree.map(np.testing.assert_array_equal, again.coordinates, expected.coordinates)


def test_a_refinement_that_does_not_stay_finite_is_an_error(gaussians, image):
    with pytest.raises(AirjaxError, match="expected a finite loss"):
        advance(start_state(gaussians), np.where(image > 0.2, np.nan, image), num_steps=2)


def test_the_same_sizes_compile_once(gaussians, image):
    advance(start_state(gaussians), image, num_steps=4)
    before = task._segment._cache_size()
    advance(start_state(gaussians), image * 0.5, num_steps=4, rates=jax.tree.map(lambda rate: 0.5 * rate, RATES))
    assert task._segment._cache_size() == before


def test_rates_as_text():
    assert rates_from_text(rates_to_text(RATES), kind=Coordinates, source="x") == RATES
    for text in ("", "[]", '{"means": 1}', rates_to_text(RATES._replace(colors=-1.0))):
        with pytest.raises(AirjaxError, match=r"file\.safetensors: expected"):
            rates_from_text(text, kind=Coordinates, source="file.safetensors")
