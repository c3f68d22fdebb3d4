"""AnySplat: its parts in closed form or as a few lines of numpy, and the whole of it against golden files."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from airjax.convert.anysplat import anysplat_table
from airjax.convert.names import converted
from airjax.errors import AirjaxError
from airjax.gaussians import only_active
from airjax.nn.vggt import CameraHead, VggtConfig, vggt_networks
from airjax.scene import anysplat
from airjax.scene.anysplat import AnySplatConfig
from airjax.scene.cameras import project_points
from airjax.scene.unposed import AnySplatSystem, system_from_text, system_to_text
from tests.helpers import parity
from tests.helpers.small_anysplat import SMALL

BOUND = 1e-5  # relative to the largest value

# Known, and not needed.
UNUSED = dict.fromkeys(("encoder.distill_aggregator.camera_token", "encoder.distill_camera_head.x"), np.zeros(1))


@functools.cache
def shapes_of(config):
    return jax.eval_shape(lambda: anysplat.init_params(jax.random.key(0), config))


def params_of(tensors):
    found = converted(tensors, shapes_of(SMALL), anysplat_table(SMALL), source="golden")
    return jax.tree.map(jnp.asarray, found)


@pytest.fixture(scope="module")
def tensors():
    return parity.load("anysplat")[0]


@pytest.fixture(scope="module")
def golden(tensors):
    with np.load(parity.FOLDER / "anysplat.npz") as file:
        return params_of(tensors | UNUSED), {name: file[name] for name in file.files}


def test_counts_of_weights():
    shapes = shapes_of(AnySplatConfig())

    def count(part):
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(part))

    pairs = shapes["aggregator"]["pairs"]
    assert count(shapes) == 1_190_735_432
    assert count(shapes["aggregator"]["encoder"]) == 304_371_712
    assert [sum(count(pairs[part][kind]) for part in pairs) for kind in ("frame", "global_")] == [302_364_672] * 2
    assert [count(shapes[part]) for part in ("camera", "depth", "gaussians")] == [216_174_610, 32_654_562, 32_794_964]
    with pytest.raises(AirjaxError, match="expected 1404 tensors"):  # the released file has the mask's token, too
        converted({}, shapes, anysplat_table(AnySplatConfig()), source="nothing")


def test_the_maps_of_all(golden):
    params, outputs = golden
    images = jnp.asarray(parity.images(3, 42, 56))

    @jax.jit
    def run(params, images):
        found = anysplat.geometry(params, images, config=SMALL)
        return found, vggt_networks(SMALL.network).gaussians(params, found.taps, images)

    found, numbers = run(params, images)
    ours = {"poses": found.poses, "depths": found.depths, "points": found.points, "numbers": numbers}
    cameras = found.cameras
    ours |= {"intrinsics": cameras.intrinsics, "rotation": cameras.rotation, "translation": cameras.translation}
    assert {name: e for name, got in ours.items() if (e := parity.error(got, outputs[name])) > BOUND} == {}


@pytest.mark.slow
def test_prediction(golden):
    """The same in one program, fused."""
    params, outputs = golden
    gaussians, cameras = anysplat.predict(params, parity.images(3, 42, 56), config=SMALL)
    assert parity.error(cameras.intrinsics, outputs["intrinsics"]) < BOUND
    count = int(gaussians.active.sum())
    assert 0 < count < 3 * 42 * 56
    assert gaussians.active[:count].all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gaussians))
    assert gaussians.harmonics.shape[1:] == (25, 3)
    with pytest.raises(ValueError, match="multiples of 14 pixels, got 42 x 50"):
        anysplat.predict(params, np.zeros((2, 42, 50, 3), np.float32), config=SMALL)


def test_fusion_and_activation():
    _, outputs = parity.load("anysplat_fusion")
    points, numbers = (jnp.asarray(parity.tokens(i, 1, 20, 15, k)) for i, k in enumerate((3, 84)))
    gaussians = anysplat.gaussians_of(points, numbers, voxel=0.5)
    count = int(outputs["count"])
    np.testing.assert_array_equal(gaussians.active, np.arange(300) < count)
    gaussians = only_active(gaussians)
    ours = {
        "means": gaussians.means,
        "scales": gaussians.scales,
        "rotations": gaussians.quats[:, [1, 2, 3, 0]],
        "opacities": gaussians.opacities,
        "harmonics": gaussians.harmonics.swapaxes(1, 2),
    }
    assert {name: e for name, got in ours.items() if (e := parity.error(got, outputs[name])) > BOUND} == {}


def test_fusion_is_that_of_numpy():
    rng = np.random.default_rng(0)
    points, numbers = rng.normal(0, 1, (400, 3)).astype(np.float32), rng.normal(0, 2, (400, 5)).astype(np.float32)
    means, others, active = anysplat.fuse(jnp.asarray(points), jnp.asarray(numbers), voxel=1.0)
    cells, members = np.unique(np.round(points), axis=0, return_inverse=True)
    assert active.sum() == len(cells) and active[: len(cells)].all()
    for i in range(len(cells)):
        inside = members.ravel() == i
        weights = np.exp(numbers[inside, -1:] - numbers[inside, -1].max())
        weights /= weights.sum() + 1e-6
        np.testing.assert_allclose(means[i], (points[inside] * weights).sum(axis=0), atol=1e-5)
        np.testing.assert_allclose(others[i], (numbers[inside, :-1] * weights).sum(axis=0), atol=1e-5)
    assert not np.any(means[len(cells) :])


def test_unused_slots_are_valid():
    gaussians = anysplat.activated(jnp.zeros((2, 3)), jnp.zeros((2, 83)), jnp.array([True, False]))
    assert np.linalg.norm(gaussians.quats[1]) == pytest.approx(1)
    assert (gaussians.scales > 0).all()


def test_activation_in_closed_form():
    numbers = np.zeros((1, 83), np.float32)
    numbers[0, :8] = 0, 0, 1e3, -1e3, 0, 0, 3, 3
    numbers[0, 8:33] = 1  # all of red
    gaussians = anysplat.activated(jnp.zeros((1, 3)), jnp.asarray(numbers), jnp.array([True]))
    np.testing.assert_allclose(gaussians.opacities, [0.5])
    np.testing.assert_allclose(gaussians.scales, [[1e-3 * np.log(2), 0.3, 0]], atol=1e-9)
    np.testing.assert_allclose(gaussians.quats, [[0.5**0.5, 0, 0, 0.5**0.5]], atol=1e-6)
    factors = np.repeat([1, 0.025, 0.00625, 0.0015625, 0.000390625], [1, 3, 5, 7, 9])
    np.testing.assert_allclose(gaussians.harmonics[0, :, 0], factors, rtol=1e-6)
    assert not np.any(gaussians.harmonics[0, :, 1:])


def test_cameras_and_points_in_closed_form():
    """A quarter turn about the optical axis; a field of view of 90 degrees is a focal length of half a side."""
    turn = [0.0, 0.0, 2.0, 2.0]  # x y z w, of another length than 1
    poses = jnp.array([[1.0, 2.0, 3.0, *turn, np.pi / 2, np.pi / 2], [0.0, 0.0, 0.0, 0, 0, 0, 1, -1.0, 1.0]])
    cameras = anysplat.cameras_of(poses, image_size=(4, 6))
    np.testing.assert_allclose(cameras.rotation[0], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
    expected = [[3 / 1.001, 0, 3], [0, 2 / 1.001, 2], [0, 0, 1]]
    np.testing.assert_allclose(cameras.intrinsics[0], expected, rtol=1e-6)
    assert cameras.intrinsics[1, 1, 1] == pytest.approx(2000)  # below 0 is 0
    depths = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (2, 4, 6)).astype(np.float32))
    points = anysplat.points_of(depths, cameras)
    for i in range(2):
        pixels, z = project_points(cameras[i], points[i].reshape(-1, 3))
        y, x = np.mgrid[:4, :6]
        np.testing.assert_allclose(pixels, np.stack([x.ravel(), y.ravel()], axis=1), atol=2e-5)
        np.testing.assert_allclose(z, depths[i].ravel(), rtol=1e-6)


def test_camera_head_is_that_of_numpy():
    config = VggtConfig(width=16, heads=2, camera_heads=2, camera_blocks=2)
    head, tokens = CameraHead(config), parity.tokens(0, 3, 32)
    like = jax.eval_shape(lambda: head.init(jax.random.key(0), jnp.asarray(tokens)))["params"]

    def draw(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return parity.seeded(name, leaf.shape) + (name.endswith("scale"))

    params = jax.tree_util.tree_map_with_path(draw, like)
    ours = jax.jit(lambda params, tokens: head.apply({"params": params}, tokens))(params, tokens)
    assert parity.error(ours, camera_head(params, tokens.astype(np.float64), heads=2)) < BOUND


def camera_head(params, tokens, *, heads):
    """Section by section, in float64."""

    def dense(x, part):
        return x @ part["kernel"] + part["bias"]

    def norm(x, part=None, epsilon=1e-5):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return x if part is None else x * part["scale"] + part["bias"]

    def mlp(x, part):
        hidden = dense(x, part["fc1"])
        return dense(hidden * 0.5 * (1 + erf(hidden / 2**0.5)), part["fc2"])

    def attention(x, part):
        q, k, v = dense(x, part["qkv"]).reshape(len(x), 3, heads, -1).transpose(1, 2, 0, 3)
        scores = np.exp(q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5)
        return dense((scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(x.shape), part["proj"])

    tokens, pose = norm(tokens, params["token_norm"]), None
    for _ in range(4):
        known = np.repeat(params["nothing"], len(tokens), axis=0) if pose is None else pose
        embedded = dense(known, params["embed"])
        shift, scale, gate = np.split(dense(embedded / (1 + np.exp(-embedded)), params["modulate"]), 3, axis=1)
        x = tokens + gate * (norm(tokens, epsilon=1e-6) * (1 + scale) + shift)
        stack = params["trunk"]["stack"]["block"]
        for i in range(len(stack["ls1"])):
            block = jax.tree.map(lambda leaf: leaf[i], stack)  # noqa: B023
            x = x + block["ls1"] * attention(norm(x, block["norm1"]), block["attn"])
            x = x + block["ls2"] * mlp(norm(x, block["norm2"]), block["mlp"])
        change = mlp(norm(x, params["norm"]), params["mlp"])
        pose = change if pose is None else pose + change
    return pose


def test_framing():
    rng = np.random.default_rng(0)
    flat = np.full((20, 31, 3), 0.4, np.float32)
    squares, framings = anysplat.framed([flat, rng.random((30, 20, 3), np.float32)], size=14)
    assert squares.shape == (2, 14, 14, 3)
    np.testing.assert_allclose(squares[0], 0.4, atol=1e-6)
    assert framings[0].corner == (0, 3) and framings[0].scale == (0.7, 21 / 31)
    assert framings[1].corner == (3, 0)
    exact, _ = anysplat.framed([squares[1]], size=14)
    np.testing.assert_array_equal(exact[0], squares[1])


def test_cameras_of_photographs():
    """What a square's camera draws at a pixel, that of the photograph draws where the pixel came from."""
    poses = jnp.array([[0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.9, 1.0, 1.0]])
    square = anysplat.cameras_of(poses, image_size=(14, 14))
    _, framings = anysplat.framed([np.zeros((20, 31, 3), np.float32)], size=14)
    whole = anysplat.of_photographs(square, framings)
    point = jnp.array([[0.1, -0.2, 2.0]])
    (x, y), _ = (part[0] for part in project_points(square[0], point))
    pixel, _ = project_points(jax.tree.map(jnp.asarray, whole[0]), point)
    np.testing.assert_allclose(pixel[0], [(x + 3) * 31 / 21, y / 0.7], rtol=1e-5)


def test_text_of_a_configuration():
    text = system_to_text(AnySplatSystem(SMALL))
    assert system_from_text(text, source="x") == AnySplatSystem(SMALL)
    assert json.loads(text)["system"] == "anysplat"
    for other in (
        "",
        "{}",
        '{"system": "anysplat"}',
        '{"planes": [48, 8]}',
        '{"system": "anysplat", "network": {"x": 1}}',
    ):
        with pytest.raises(AirjaxError, match=r"w\.safetensors: expected a network"):
            system_from_text(other, source="w.safetensors")


def test_names_of_the_released_file(tensors):
    """Those of the unused parts may be there (`golden`); everything else must be, and nothing more."""
    assert len(tensors) == 349
    blank, name = np.zeros(1, np.float32), "encoder.depth_head.norm.weight"
    with pytest.raises(AirjaxError, match=r"1 are not known: encoder\.extra"):
        params_of(tensors | {"encoder.extra": blank})
    with pytest.raises(AirjaxError, match=f"1 are missing: {name}"):
        params_of({key: value for key, value in tensors.items() if key != name})
    name = "encoder.aggregator.camera_token"
    with pytest.raises(AirjaxError, match=name):
        params_of(tensors | {name: blank})
