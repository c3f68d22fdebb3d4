"""Scores of found cameras by closed forms, and one computed scene from end to end."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from airjax.nn import pi3
from airjax.nn.gaussian_head import GaussianHeadConfig
from airjax.scene import unposed as library
from airjax.scene.cameras import Camera
from airjax.scene.pi3 import SplatConfig
from airjax.scene.unposed import Pi3System, system_to_text
from airjax.weights_file import save_weights
from eval.main import main
from eval.scene.unposed import Result, _auc_of_some, auc, carried, pose_errors, table


def turn(axis: int, degrees: float) -> np.ndarray:
    """A rotation around an axis."""
    angle = np.radians(degrees)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def camera_stack(rotations, centers) -> Camera:
    rotations, centers = np.array(rotations, float), np.array(centers, float)
    intrinsics = np.tile(np.array([[50.0, 0, 16], [0, 50, 16], [0, 0, 1]]), (len(rotations), 1, 1))
    return Camera(intrinsics, rotations, -np.einsum("vab,vb->va", rotations, centers))


KNOWN = camera_stack([turn(1, 5 * i) @ turn(0, 3 * i) for i in range(4)], [[i, 0.2 * i * i, 0.1 * i] for i in range(4)])


def in_another_world(cameras: Camera, scale=2.5) -> Camera:
    """The same cameras where the world is turned, scaled and shifted."""
    world = turn(2, 40) @ turn(0, -70)
    centers = scale * np.asarray(cameras.center) @ world.T + [3.0, -1, 2]
    return camera_stack(np.asarray(cameras.rotation) @ world.T, centers)


def test_cameras_are_compared_up_to_a_similarity():
    np.testing.assert_allclose(pose_errors(in_another_world(KNOWN), KNOWN), 0, atol=1e-4)
    assert auc(pose_errors(in_another_world(KNOWN), KNOWN)) > 0.9999


def test_the_larger_error_of_a_pair_counts():
    turned = np.asarray(KNOWN.rotation).copy()
    turned[3] = turn(1, 12) @ turned[3]
    errors = pose_errors(camera_stack(turned, KNOWN.center), KNOWN)
    # Pairs are 10, 20 21, 30 31 32: the last three have the turned view, around its own center.
    np.testing.assert_allclose(errors[:3], 0, atol=1e-4)
    assert np.all(errors[3:] >= 12 - 1e-4) and errors[3:].max() < 24
    backwards = camera_stack(KNOWN.rotation, -np.asarray(KNOWN.center))
    np.testing.assert_allclose(pose_errors(backwards, KNOWN), 180, atol=1e-3)


def test_the_area_under_the_shares():
    errors = np.array([0.0, 15, 30, 90])
    grid = np.linspace(0, 30, 30_001)
    shares = (errors[None] < grid[:, None]).mean(axis=1)
    assert auc(errors) == pytest.approx(0.375) and auc(errors) == pytest.approx(np.mean(shares), abs=1e-3)


def test_cameras_are_carried_by_the_similarity_of_others():
    some, others = KNOWN[:3], KNOWN[3:]
    found = in_another_world(KNOWN)
    there = carried(others, some, found[:3])
    for name in ("intrinsics", "rotation", "translation"):
        np.testing.assert_allclose(getattr(there, name), getattr(found[3:], name), atol=1e-5)


def test_a_photograph_without_a_pose_is_wrong_in_all_its_pairs():
    class Found:
        names = ("000.png", "002.png", "003.png")
        cameras = KNOWN[np.array([0, 2, 3])]

    class All:
        names = ("a", "b", "c", "d")
        cameras = KNOWN

    assert _auc_of_some(Found, All) == pytest.approx(0.5, abs=1e-3)


def test_a_table_of_means():
    one = Result("rooms 1", 0.1, 0.5, None, None, 20.0, 21.0, 25.0, None)
    other = one._replace(auc=0.7, psnr=22.0)
    text = table([Result("fern", None, 0.25, 0.5, 0.75, 18.0, None, 20.0, 19.0)], {"rooms": [one, other], "worlds": []})
    rows = [line.split() for line in text.splitlines()]
    assert rows[2] == ["rooms", "(2)", "0.600", "0.100", "-", "-", "21.00", "21.00", "25.00", "-"]
    assert rows[3] == ["fern", "0.250", "-", "0.500", "0.750", "18.00", "-", "20.00", "19.00"]


def test_one_computed_scene_from_end_to_end(tmp_path, capsys):
    """Fresh weights find nothing, and every number is there."""
    head = GaussianHeadConfig(8, 8, 8, degree=1)
    system = Pi3System(SplatConfig(pi3.small(16, 2, blocks=1, matching=8), head, pixels=True), size=32)
    params = jax.device_get(jax.jit(system.init_backbone)(jax.random.key(0)))
    save_weights(tmp_path / "w.safetensors", params, {library.METADATA: system_to_text(system)})
    options = ("--made-up", "2", "--num-scenes", "1", "--image-size", "32", "32", "--context", "3", "--targets", "2")
    out = tmp_path / "out"
    assert main(["unposed", *options, "--weights", str(tmp_path / "w.safetensors"), "--out", str(out)]) == 0
    assert "rooms (1)" in capsys.readouterr().out
    report = json.loads((out / "unposed.json").read_text())
    assert len(report["results"]) == 2
    for result in report["results"]:
        assert 0 <= result["auc"] <= 1 and 0 <= result["auc_head"] <= 1
        assert 5 < result["psnr"] < 40 and 5 < result["psnr_posed"] < 50
        assert result["psnr_fitted"] > result["psnr"] - 0.5
