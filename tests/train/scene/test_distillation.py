"""A student that learns from what a teacher saw: what is taken for true, tokens, normals, and where weights start."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.errors import AirjaxError
from airjax.nn import pi3
from airjax.nn.pi3 import Pi3Output
from airjax.scene.cameras import to_camera
from airjax.scene.pi3 import Seen, placed
from airjax.scene.procedural import noise_textures, random_views
from airjax.weights_file import save_weights
from train.configs import edge
from train.scene.distillation import Distillation, feature_error, some_pairs
from train.scene.unposed import normals_of, truth_of, truth_of_seen


@pytest.fixture(scope="module")
def scene():
    """(views of a room, exactly what a perfect network says of them)."""
    draw = jax.jit(partial(random_views, image_size=(16, 24), num_views=3))
    views = draw(jax.random.key(3), noise_textures(jax.random.key(1), 8))
    truth = truth_of(views)
    confidence = jnp.full(truth.depths.shape, 9.0)
    return views, Pi3Output(truth.points, confidence, truth.rotations, truth.translations, None, [])


def test_what_a_teacher_saw_is_what_it_said(scene):
    views, found = scene
    seen = placed(views.images, found)
    truth, learned = truth_of(views), truth_of_seen(seen)
    for name in ("depths", "rays", "rotations", "translations"):
        np.testing.assert_allclose(getattr(learned, name), getattr(truth, name), atol=2e-5)
    np.testing.assert_allclose(learned.cameras.intrinsics, truth.cameras.intrinsics, rtol=2e-5)


def test_a_perfect_student_has_no_loss(scene):
    views, found = scene
    phase = Distillation(confidence=0.0, matches=0.0)
    loss, metrics = phase.scene_loss(found, truth_of_seen(placed(views.images, found)))
    assert loss < 0.03 and metrics["normals"] < 1e-3 and metrics["auc"] > 0.98
    tilted = found._replace(points=found.points * jnp.linspace(1, 2, 24)[None, None, :, None])
    assert phase.scene_loss(tilted, truth_of(views))[1]["normals"] > 0.02


def test_normals_of_a_plane(scene):
    """A wall seen at a slant has one normal, that of its plane, in the camera of each view."""
    views, _ = scene
    camera, normal = views.cameras[0], jnp.array([0.3, -0.2, 1.0]) / np.float32(1.13**0.5)
    y, x = jnp.asarray(np.mgrid[:16, :24] + 0.5, jnp.float32)
    pixels = jnp.stack([x, y, jnp.ones_like(x)], axis=-1)
    rays = jnp.einsum("ij,hwj->hwi", jnp.linalg.inv(camera.intrinsics), pixels)
    points = rays * (2 / jnp.einsum("hwi,i->hw", rays, normal))[..., None]
    found = normals_of(points[None])
    np.testing.assert_allclose(found, jnp.broadcast_to(normal, found.shape), atol=1e-4)
    world = to_camera(camera, points.reshape(-1, 3)).reshape(points.shape)  # turned, it is the turned plane's
    np.testing.assert_allclose(normals_of(world[None])[0, 3, 3], camera.rotation @ normal, atol=1e-4)


def test_tokens_alike_after_a_layer():
    taps = [jax.random.normal(jax.random.key(i), (2, 4, 4, 6)) for i in range(2)]
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(9), (6, 6)))[0]
    theirs = [jnp.einsum("vrcd,de->vrce", tap, 3 * turn) for tap in taps]
    found = Pi3Output(*(None,) * 5, taps)  # type: ignore[arg-type]
    seen = Seen(*(None,) * 4, theirs)  # type: ignore[arg-type]
    layers = jnp.stack([turn, turn])
    assert abs(feature_error(found, seen, layers)) < 1e-5
    assert abs(feature_error(found, seen, -layers) - 2) < 1e-5
    flat = [jnp.broadcast_to(tap[:, :1, :1], tap.shape) for tap in taps]
    coarse = Seen(*(None,) * 4, [tap[:, :2, :2] for tap in flat])  # type: ignore[arg-type]
    same = jnp.stack([jnp.eye(6)] * 2)
    assert abs(feature_error(found._replace(taps=flat), coarse, same)) < 1e-5


def test_blocks_of_a_deeper_teacher_are_evenly_spaced():
    def pairs(counts, start=0):
        numbers = iter(range(start, start + sum(counts)))
        return {f"pairs{i}": {"frame": np.array([next(numbers) for _ in range(n)])} for i, n in enumerate(counts)}

    found = some_pairs(pairs((5, 5, 4, 4)), pairs((3, 3, 3, 3)))
    chosen = np.concatenate([found[f"pairs{i}"]["frame"] for i in range(4)])
    assert [len(found[f"pairs{i}"]["frame"]) for i in range(4)] == [3, 3, 3, 3]
    np.testing.assert_array_equal(chosen, np.linspace(0, 17, 12).round())


def test_a_student_starts_where_its_teacher_is(tmp_path):
    experiment = edge.experiment(True)
    config = experiment.student.config.backbone
    deeper = pi3.small(16, 2, blocks=3, pairs=(2, 1, 1, 1))
    fresh = partial(jax.tree.map, np.asarray)
    teacher = fresh(jax.jit(lambda key: pi3.init_params(key, deeper))(jax.random.key(1)))
    encoder = {"encoder": fresh(jax.jit(lambda key: pi3.init_params(key, config))(jax.random.key(2)))["encoder"]}
    save_weights(tmp_path / "teacher.safetensors", teacher, {})
    save_weights(tmp_path / "encoder.safetensors", encoder, {})
    like = fresh(jax.jit(experiment.init_params)(jax.random.key(0)))
    experiment = experiment.with_(encoder=str(tmp_path / "encoder.safetensors"))
    params = experiment.load_params(tmp_path / "teacher.safetensors", like)
    backbone = params["backbone"]
    jax.tree.map(np.testing.assert_array_equal, backbone["encoder"], encoder["encoder"])
    jax.tree.map(np.testing.assert_array_equal, backbone["point_decoder"], teacher["point_decoder"])
    jax.tree.map(np.testing.assert_array_equal, backbone["decoder"]["pairs3"], teacher["decoder"]["pairs3"])
    jax.tree.map(np.testing.assert_array_equal, params["head"], like["head"])
    wider = fresh(jax.jit(lambda key: pi3.init_params(key, pi3.small(24, 2, blocks=1)))(jax.random.key(1)))
    save_weights(tmp_path / "wider.safetensors", wider, {})
    with pytest.raises(AirjaxError, match="expected weights of the model of edge_0_smoke"):
        experiment.load_params(tmp_path / "wider.safetensors", like)
