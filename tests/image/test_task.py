"""Refinement of one image; oracles: the dense renderer, finite differences, a loop that was never interrupted."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import scenes2d as scenes
from dense import render_dense

from airjax.errors import AirjaxError
from airjax.image.task import RATES, Coordinates, ImageTask, squared_error
from airjax.inner.optimizers import rates_from_text, rates_to_text
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
    again = Coordinates.of(gaussians).gaussians(gaussians.active)
    for name in ("means", "scales", "angles", "colors"):
        np.testing.assert_allclose(getattr(again, name), getattr(gaussians, name), rtol=1e-5, atol=1e-6)


def test_scales_stay_finite():
    wild = Coordinates(jnp.zeros((2, 2)), jnp.array([[-1e3, 1e3], [0.0, 0.0]]), jnp.zeros(2), jnp.zeros((2, 3)))
    scales = wild.gaussians(jnp.ones(2, bool)).scales
    assert jnp.all(jnp.isfinite(scales)) and jnp.all(scales > 0)


def test_the_losses_are_those_of_the_dense_renderer(gaussians, image):
    """The inner loss, the outer one (minus the PSNR), and a loss of somebody else's."""
    capacity, task = capacity_of(gaussians, image_size=SIZE), ImageTask(image)
    dense = render_dense(gaussians, image_size=SIZE)
    coordinates = task.coordinates(gaussians)
    loss = task.loss(coordinates, gaussians.active, capacity=capacity)
    np.testing.assert_allclose(loss, squared_error(image, dense), rtol=1e-4)
    decibels = task.outer_loss(coordinates, gaussians.active, capacity=capacity)
    np.testing.assert_allclose(decibels, 10 * np.log10(np.mean(np.square(dense - image))), rtol=1e-4)
    other = ImageTask(image, loss_fn=lambda image, rendered: jnp.mean(jnp.abs(image - rendered) ** 1.5))
    loss = other.loss(coordinates, gaussians.active, capacity=capacity)
    np.testing.assert_allclose(loss, np.mean(np.abs(np.asarray(dense) - image) ** 1.5), rtol=1e-4)


def test_the_problem_of_a_task(gaussians, image):
    """For estimators: the same losses, the same optimizer."""
    capacity, task = capacity_of(gaussians, image_size=SIZE), ImageTask(image)
    problem, coordinates = task.problem(gaussians.active, capacity=capacity), task.coordinates(gaussians)
    assert problem.loss_fn(coordinates) == task.loss(coordinates, gaussians.active, capacity=capacity)
    assert problem.outer(coordinates) == task.outer_loss(coordinates, gaussians.active, capacity=capacity)


def test_the_plan_has_room(gaussians, image):
    plans = [ImageTask(image).plan(gaussians, headroom=h, thorough=False) for h in (1.0, 500.0)]
    assert plans[0] == capacity_of(gaussians, image_size=SIZE) and plans[1].pairs > plans[0].pairs


def test_rates_as_text():
    assert rates_from_text(rates_to_text(RATES), kind=Coordinates, source="x") == RATES
    for text in ("", "[]", '{"means": 1}', rates_to_text(RATES._replace(colors=-1.0))):
        with pytest.raises(AirjaxError, match=r"file\.safetensors: expected"):
            rates_from_text(text, kind=Coordinates, source="file.safetensors")
