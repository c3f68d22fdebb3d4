"""Scenes for heads on frozen backbones: what is given, what is judged, which weights fit."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from airjax.config_text import config_to_text
from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D
from airjax.inner.optimizers import rates_to_text
from airjax.scene.cameras import Camera
from airjax.scene.pi3 import Seen
from airjax.weights_file import save_weights
from eval.configs import foresplat_heads, foresplat_heads_anysplat
from eval.scene.heads import SeenScenes
from train.configs import foresplat_pi3x
from train.scene import taps
from train.scene.heads import RATES
from train.scene.taps import Pi3System


@dataclasses.dataclass(frozen=True)
class Stub(Pi3System):
    """A backbone that finds a flat scene, and a head of one number."""

    def init_backbone(self, key):
        return {}

    def see(self, params, images):
        views = len(images)
        cameras = Camera(*(jnp.ones((views, *shape)) for shape in ((3, 3), (3, 3), (3,))))
        return Seen(images, cameras, images, images[..., 0], [jnp.ones((views, 2, 2, 4))] * 4)

    def splats(self, head, seen):
        count = seen.confidence.size
        means, ones = seen.points.reshape(count, 3), jnp.ones((count, 4))
        return Gaussians3D(means, ones[:, :3] * head["size"][0], ones, ones[:, 0], ones[:, None, :3], ones[:, 0] > 0)

    def unit(self, seen):
        return jnp.float32(2)


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    taps._files.cache_clear()
    noise = np.random.default_rng(0).uniform(0, 1, (5, 3, 4, 4, 3)).astype(np.float32)
    monkeypatch.setattr(taps, "_scenes", lambda data: [(f"s{i}", noise[i]) for i in range(5)])
    return SeenScenes(Stub(foresplat_pi3x.TINY), folder=str(tmp_path), made_up=5, views=3, every=3, limit=2)


def test_given_and_judged_views(scenes, tmp_path):
    config = config_to_text(scenes.system.config)
    save_weights(tmp_path / "w.safetensors", {"size": np.full(1, 3, np.float32)}, {"head": config})
    model = scenes.load_model(str(tmp_path / "w.safetensors"))
    assert len(scenes) == 2 and model.rates == RATES
    first, second = (open_scene() for open_scene in scenes)
    assert first.images.shape == (2, 4, 4, 3) and first.judged_images.shape == (1, 4, 4, 3)
    gaussians = first.start(model)
    np.testing.assert_array_equal(gaussians.means, first.images.reshape(-1, 3))
    np.testing.assert_array_equal(gaussians.scales, np.full((32, 3), 3))
    task = first.task(RATES)
    assert task.unit == 2 and task.target_images is first.judged_images
    assert second.name != first.name and not np.array_equal(second.images, first.images)


def test_rates_that_were_learned(scenes, tmp_path):
    rates, config = RATES._replace(means=0.5), config_to_text(scenes.system.config)
    save_weights(
        tmp_path / "w.safetensors", {"size": np.ones(1, np.float32)}, {"head": config, "rates": rates_to_text(rates)}
    )
    assert scenes.load_model(str(tmp_path / "w.safetensors")).rates == rates


def test_other_weights_are_refused(scenes, tmp_path):
    with pytest.raises(AirjaxError, match="got none; give training runs"):
        scenes.load_model("")
    save_weights(tmp_path / "w.safetensors", {"size": np.ones(1, np.float32)}, {"head": "{}"})
    with pytest.raises(AirjaxError, match="expected a head of the network of this evaluation"):
        scenes.load_model(str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("config", [foresplat_heads, foresplat_heads_anysplat])
def test_the_protocol_of_the_paper(config):
    subjects = config.evaluation().subjects
    assert (subjects.views, subjects.every, subjects.image_size) == (16, 4, (224, 224))
