"""Views without poses to cameras and Gaussians: what is made of the network's outputs, and what a fresh head says."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.config_text import config_from_text, config_to_text
from airjax.errors import AirjaxError
from airjax.nn import pi3 as network
from airjax.nn.gaussian_head import GaussianHeadConfig
from airjax.nn.pi3 import Pi3Output
from airjax.scene import pi3
from airjax.scene.cameras import look_at, pinhole, project_points
from airjax.scene.harmonics import from_rgb
from airjax.scene.pi3 import SplatConfig

SIZE = (16, 24)  # (h, w) pixels
CONFIG = SplatConfig(network.small(32, 2, blocks=1), GaussianHeadConfig(8, 8, 8, degree=2))


def camera(x: float, focal: float):
    center, target = jnp.array([x, 0.2, -1.0]), jnp.array([0.1, 0.0, 2.0])
    return look_at(center, target, jnp.array([0.0, -1.0, 0.0]), pinhole(focal, SIZE))


@pytest.fixture
def seen(monkeypatch):
    """Views of known cameras, as a perfect network sees them; and these cameras."""
    cameras = jax.tree.map(lambda *leaves: jnp.stack(leaves), camera(0.0, 20.0), camera(0.7, 31.0))
    rng = np.random.default_rng(0)
    depths = rng.uniform(1.0, 3.0, (2, *SIZE)).astype(np.float32)
    pixels = np.stack(np.meshgrid(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5), axis=-1)
    rays = (pixels - [SIZE[1] / 2, SIZE[0] / 2])[None] / np.array([20.0, 31.0])[:, None, None, None]
    points = np.concatenate([rays, np.ones((2, *SIZE, 1))], axis=-1) * depths[..., None]
    taps = [jnp.asarray(rng.standard_normal((2, 2, 3, 64)), jnp.float32)] * 4
    poses = jnp.swapaxes(cameras.rotation, 1, 2), cameras.center
    logits = jnp.asarray(rng.standard_normal((2, *SIZE)), jnp.float32)
    output = Pi3Output(jnp.asarray(points, jnp.float32), logits, *poses, None, taps)
    monkeypatch.setattr(pi3.pi3, "apply", lambda *_: output)
    images = jnp.asarray(rng.uniform(0, 1, (2, *SIZE, 3)), jnp.float32)
    return pi3.see({}, images, CONFIG.backbone), cameras, depths, pixels


def test_cameras_and_points_are_those_of_the_views(seen):
    found, cameras, depths, pixels = seen
    for a, b in zip(jax.tree.leaves(found.cameras), jax.tree.leaves(cameras), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for i in range(2):
        where, depth = project_points(cameras[i], found.points[i].reshape(-1, 3))
        np.testing.assert_allclose(where, pixels.reshape(-1, 2), atol=1e-3)
        np.testing.assert_allclose(depth, depths[i].ravel(), atol=1e-5)
    np.testing.assert_allclose(pi3.depths_of(found), depths, atol=1e-5)
    assert depths.min() <= pi3.near_of(found) < np.median(depths)


def test_a_fresh_head_gives_the_colors_of_the_pixels(seen):
    found = seen[0]
    gaussians = pi3.splats(pi3.init_splats(jax.random.key(0), CONFIG), found, CONFIG)
    np.testing.assert_array_equal(gaussians.harmonics[:, 0], from_rgb(found.images).reshape(-1, 3))
    assert not np.any(gaussians.harmonics[:, 1:]) and gaussians.harmonics.shape[1] == 9
    np.testing.assert_allclose(gaussians.opacities, found.confidence.ravel() / 2, rtol=1e-6)
    np.testing.assert_allclose(gaussians.scales, np.full((2 * 16 * 24, 3), 1e-3 * np.log(2)), rtol=1e-5)
    np.testing.assert_allclose(gaussians.quats[:, 0], 1.0, rtol=1e-5)
    np.testing.assert_array_equal(gaussians.means, found.points.reshape(-1, 3))
    assert gaussians.active.all()


def test_scales_in_pixels(seen):
    found, _, depths, _ = seen
    gaussians = pi3.splats(pi3.init_splats(jax.random.key(0), CONFIG), found, replace(CONFIG, pixels=True))
    expected = depths.reshape(2, -1) / np.array([[20.0], [31.0]]) * np.log(2)
    np.testing.assert_allclose(gaussians.scales[:, 0], expected.ravel(), rtol=1e-4)


def test_views_can_be_taken_apart_before_the_head(seen):
    found = seen[0]
    params = jax.tree.map(lambda leaf: leaf + 0.1, pi3.init_splats(jax.random.key(0), CONFIG))
    splats = jax.jit(lambda seen: pi3.splats(params, seen, CONFIG))
    both, second = splats(found), splats(found[1:])
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a[16 * 24 :], b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, pi3.PI3X, pi3.EDGE])
def test_configurations_as_text(config):
    assert config_from_text(config_to_text(config), SplatConfig, source="x") == config


@pytest.mark.parametrize("text", ["", "3", '{"backbone": 3}', '{"head": {"colour": 1}}'])
def test_other_text_is_refused(text):
    with pytest.raises(AirjaxError, match="file: expected a SplatConfig in JSON, got"):
        config_from_text(text, SplatConfig, source="file")
