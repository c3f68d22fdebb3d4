"""Photographs without poses to Gaussians, with tiny networks of fresh weights: everything but what training brings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians3D
from airjax.inner.task import run_to
from airjax.nn import pi3
from airjax.nn.gaussian_head import GaussianHeadConfig
from airjax.scene import unposed
from airjax.scene.files.photographs import load_unposed, scene_of
from airjax.scene.harmonics import from_rgb
from airjax.scene.pi3 import SplatConfig
from airjax.scene.reconstruct import reconstruct
from airjax.scene.render import render
from airjax.scene.task import MovingCoordinates, SceneTask
from airjax.scene.unposed import Pi3System, UnposedModel, system_from_text, system_to_text
from airjax.weights_file import save_weights
from tests.helpers.table_top import table_top

HEAD = GaussianHeadConfig(16, 16, 16, degree=1)
SYSTEM = Pi3System(SplatConfig(pi3.small(32, 2, blocks=1, matching=16), HEAD, pixels=True), size=32)


@pytest.fixture(scope="module")
def backbone():
    return jax.device_get(jax.jit(SYSTEM.init_backbone)(jax.random.key(0)))


def test_a_system_as_text_is_the_same(tmp_path):
    assert system_from_text(system_to_text(SYSTEM), source="x") == SYSTEM
    for text in ("", "[]", '{"system": "pi4", "size": 3, "config": {}}', '{"system": "pi3", "size": 3, "config": {}}'):
        with pytest.raises(AirjaxError, match=r"x: expected"):
            system_from_text(text, source="x")


def test_weights_of_a_backbone_come_without_a_head(backbone, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_weights(file, backbone, {unposed.METADATA: system_to_text(SYSTEM)})
    assert unposed.is_unposed(file)
    model = unposed.load(file)
    assert model.system == SYSTEM and "Pi3System" in repr(model)
    jax.tree.map(np.testing.assert_array_equal, model.backbone, backbone)
    assert model.head is None
    head = jax.device_get(jax.jit(SYSTEM.init_head)(jax.random.key(1)))
    save_weights(file, {"backbone": backbone, "head": head}, {unposed.METADATA: system_to_text(SYSTEM)})
    jax.tree.map(np.testing.assert_array_equal, unposed.load(file).head, head)


def test_weights_that_are_others_are_refused(backbone, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_weights(file, backbone, {})
    assert not unposed.is_unposed(file) and not unposed.is_unposed(tmp_path / "none.safetensors")
    with pytest.raises(AirjaxError, match="expected weights of a network for views without poses"):
        unposed.load(file)
    save_weights(file, backbone | {"register_token": np.zeros((5, 3))}, {unposed.METADATA: system_to_text(SYSTEM)})
    with pytest.raises(AirjaxError, match="expected weights that fit"):
        unposed.load(file)


@pytest.mark.parametrize("drawn", [True, False])
def test_fresh_weights_reconstruct_something(backbone, drawn):
    """Wrong, but finite: as many cameras as photographs, each of the photographs' size, Gaussians, scores."""
    head = jax.jit(SYSTEM.init_head)(jax.random.key(1)) if drawn else None
    model, capture = UnposedModel(SYSTEM, backbone, head, "fresh"), table_top()
    scene = scene_of(capture.images, capture.cameras)
    made = reconstruct(scene, model=model, refine_steps=3, hold_out=3, near=0.1, far=30.0)
    assert made.gaussians.num_slots and len(made.names) == len(made.cameras.rotation) == 4
    for leaf in jax.tree.leaves((made.gaussians, made.cameras)):
        assert np.isfinite(leaf).all()
    width = capture.images.shape[2]
    np.testing.assert_allclose(made.cameras.intrinsics[:, 0, 2], width / 2, rtol=0.05)
    assert len(made.held_out.psnr) == 2 and made.sheet is not None


def test_cameras_that_move_find_back():
    """Cameras pushed by some pixels return, refined alone towards what the Gaussians show."""
    capture = table_top()
    rng, count = np.random.default_rng(0), 300
    means = rng.uniform(-0.8, 0.8, (count, 3)).astype(np.float32)
    gaussians = Gaussians3D(
        jnp.asarray(means),
        jnp.full((count, 3), 0.12),
        jnp.tile(jnp.array([[1.0, 0, 0, 0]]), (count, 1)),
        jnp.full(count, 0.9),
        from_rgb(jnp.asarray(rng.uniform(0, 1, (count, 3)), jnp.float32))[:, None],
        jnp.ones(count, bool),
    )
    cameras = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2], jnp.float32), capture.cameras)
    size = capture.images.shape[1:3]
    images = np.stack([np.asarray(render(gaussians, cameras[i], image_size=size).image) for i in range(2)])
    steps = jnp.asarray([[0.02, -0.01, 0.01, 0.03, 0.02, -0.02], [-0.01, 0.02, 0.0, -0.03, 0.01, 0.02]], jnp.float32)
    rates = MovingCoordinates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5e-3)
    task = SceneTask(images, cameras.moved(steps), 1.0, rates=rates, moving=True)
    state = run_to(task, gaussians, num_steps=100)
    found = task.moved_cameras(state.coordinates)
    before, after = (
        float(jnp.abs(c.rotation - cameras.rotation).max() + jnp.abs(c.translation - cameras.translation).max())
        for c in (task.cameras, found)
    )
    assert after < 0.25 * before
    refined = task.gaussians(state.coordinates, state.active)
    np.testing.assert_allclose(refined.means[:count], gaussians.means, atol=1e-5)
    np.testing.assert_allclose(refined.opacities[:count], gaussians.opacities, atol=1e-4)


def test_photographs_alone_are_a_scene(tmp_path):
    from airjax.photographs import write_image

    rng = np.random.default_rng(0)
    for i, size in enumerate([(20, 30), (20, 30), (40, 60), (30, 20)]):
        write_image(tmp_path / f"{i}.png", rng.uniform(0, 1, (*size, 3)).astype(np.float32))
    scene = load_unposed(tmp_path, max_size=30)
    assert scene.names == ("0.png", "1.png", "2.png") and scene.images.shape == (3, 20, 30, 3)
    assert any("3.png" in line for line in scene.notices) and any("60x40" in line for line in scene.notices)
    assert scene.cameras.rotation.shape == (3, 3, 3)
    for file in ("0.png", "1.png", "2.png"):
        (tmp_path / file).unlink()
    with pytest.raises(AirjaxError, match="expected at least 2 photographs"):
        load_unposed(tmp_path)
