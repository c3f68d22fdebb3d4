"""Matches by features that name their own places, and what `aligned` makes of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.nn.pi3 import Pi3Output
from airjax.scene import matching
from airjax.scene.aligned import aligned
from airjax.scene.bundle import Matches
from airjax.scene.cameras import look_at, pinhole

GRID = 12, 16
SHARPNESS = 4.0


def radial(places: jax.Array) -> jax.Array:
    """Features whose product is largest for the nearest point: sines and cosines of many waves."""
    rng = np.random.default_rng(0)
    waves = jnp.asarray(rng.standard_normal((3, 256)) * 6, jnp.float32)
    phases = places @ waves
    parts = jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1) / 16
    return (SHARPNESS**0.5 * parts).reshape(len(places), *GRID, -1)


def test_a_view_shifted_by_cells_is_found_there():
    places = jnp.asarray(np.concatenate([matching.cells(GRID), np.zeros((GRID[0] * GRID[1], 1))], axis=1), jnp.float32)
    shift = 2 / GRID[1]  # two cells
    views = jnp.stack([places, places + jnp.array([[shift, 0, 0]], jnp.float32)])
    found = matching.found(radial(views))
    number = np.stack(np.meshgrid(np.arange(GRID[1]), np.arange(GRID[0])), axis=-1).reshape(-1, 2)
    inside = (number[:, 0] > 3) & (number[:, 0] < GRID[1] - 2) & (number[:, 1] > 1) & (number[:, 1] < GRID[0] - 2)
    seen = np.asarray(found.seen[0, 1])[inside]
    np.testing.assert_allclose(seen, np.asarray(places[:, :2])[inside] - [[shift, 0]], atol=0.1 / GRID[1])
    weights = np.asarray(found.weights)
    assert weights[0, 1][inside].min() > 0.5 and not weights[0, 1][number[:, 0] < 3].any()
    assert not weights[0, 0].any() and weights.max() <= 1


def waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(.., 3) a smooth picture that is nowhere the same, in [0, 1]; x and y in pixels."""
    rng = np.random.default_rng(1)
    total = np.zeros((*x.shape, 3))
    for a, b, phase in rng.uniform(-0.6, 0.6, (24, 3)):
        total += rng.random(3) * np.sin(a * x + b * y + 9 * phase)[..., None]
    return 0.5 + total / 24


def shifted(offset, *, gain=1.0):
    """(two pictures, the second of which shows everything that much farther right and down, matches off by a pixel)."""
    height, width = 4 * GRID[0], 4 * GRID[1]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pictures = np.stack([waves(x, y), gain * waves(x - offset[0], y - offset[1]) + (1 - gain) / 3])
    cells = matching.cells(GRID)
    true = (
        np.stack([cells, cells - np.array(offset) / width])[:, None] + np.array([[0, 0], offset])[None, :, None] / width
    )
    off = np.random.default_rng(2).uniform(-1, 1, true.shape) / width
    weights = np.broadcast_to(1 - np.eye(2)[:, :, None], true.shape[:3])
    start = (jnp.asarray(part, jnp.float32) for part in (true + off, weights))
    return jnp.asarray(pictures, jnp.float32), Matches(jnp.asarray(cells), *start, 0.02), true


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_places_are_found_to_parts_of_a_pixel(gain):
    pictures, matches, true = shifted((1.3, -0.6), gain=gain)
    found = jax.jit(matching.refined)(pictures, matches)
    width = pictures.shape[2]
    off = width * np.linalg.norm(np.asarray(found.seen) - true, axis=-1)
    sure = np.asarray(found.weights) > 0.5
    assert sure[0, 1].mean() > 0.6 and sure[1, 0].mean() > 0.6 and not sure[0, 0].any()
    assert off[sure].max() < 0.25 and np.median(off[sure]) < 0.03
    assert found.error == pytest.approx(0.4 / width)


def test_places_that_look_different_are_not_believed():
    pictures, matches, _ = shifted((1.3, -0.6))
    other = pictures.at[1].set(pictures[1][::-1, ::-1])
    before, after = (jax.jit(matching.refined)(views, matches).weights for views in (pictures, other))
    assert float(jnp.sum(after[0, 1])) < 0.25 * float(jnp.sum(before[0, 1]))
    flat = jax.jit(matching.refined)(jnp.full_like(pictures, 0.3), matches)
    assert not flat.weights.any() and np.isfinite(flat.seen).all()


def test_alignment_finds_cameras_that_a_network_missed():
    """Two cameras beside each other before an uneven wall; the network says that they stand still, depths being 1."""
    height, width = 4 * GRID[0], 4 * GRID[1]
    intrinsics = pinhole(1.0 * width, (height, width))
    up = jnp.array([0.0, -1, 0])
    eyes = jnp.array([[0.0, 0, 0], [0.4, 0.1, 0.0], [-0.3, 0.2, 0.1]])
    cameras = jax.vmap(lambda eye: look_at(eye, jnp.array([0.0, 0.1, 2.0]), up, intrinsics))(eyes)
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1).reshape(-1, 2)
    rays = np.concatenate([(pixels - [width / 2, height / 2]) / width, np.ones((len(pixels), 1))], axis=1)
    depths, worlds = [], []
    for i in range(3):
        camera = cameras[i]
        world, eye = rays @ np.asarray(camera.rotation), np.asarray(eyes[i])
        z = np.ones((len(rays), 1))
        for _ in range(100):  # where rays meet the wall z = 2 + 0.4 x + 0.3 y + 0.1 sin(4 x) of the world
            x, y = (eye + z * world)[:, :1], (eye + z * world)[:, 1:2]
            z = (2 + 0.4 * x + 0.3 * y + 0.1 * np.sin(4 * x) - eye[2]) / world[:, 2:]
        depths.append(z.reshape(height, width))
        worlds.append(eye + z * world)
    centers = np.stack(worlds).reshape(3, GRID[0], 4, GRID[1], 4, 3)[:, :, 1:3, :, 1:3].mean(axis=(2, 4))
    features = radial(jnp.asarray(centers.reshape(3, -1, 3), jnp.float32))
    places = np.stack(worlds).reshape(3, height, width, 3) * width / 3
    pictures = jnp.asarray(waves(places[..., 0], places[..., 1] + places[..., 2]), jnp.float32)
    flat = jnp.asarray(np.broadcast_to(rays.reshape(1, height, width, 3), (3, height, width, 3)), jnp.float32)
    still = jnp.broadcast_to(jnp.eye(3), (3, 3, 3))
    said = Pi3Output(2.0 * flat, jnp.zeros((3, height, width)), still, jnp.zeros((3, 3)), None, [], features)
    found = jax.jit(aligned)(said, pictures)
    turns = jnp.einsum("vab,cb->vac", cameras.rotation, cameras.rotation[0])
    turned = jnp.einsum("vba,bc->vac", found.rotations, found.rotations[0])
    cosines = (jnp.einsum("vab,vab->v", turns, turned) - 1) / 2
    assert float(jnp.degrees(jnp.arccos(jnp.clip(cosines, -1, 1))).max()) < 1.0
    moves = (found.translations - found.translations[:1]) @ found.rotations[0]
    true = (eyes - eyes[:1]) @ cameras.rotation[0].T
    cosine = (
        jnp.sum(moves[1:] * true[1:], axis=1) / jnp.linalg.norm(moves[1:], axis=1) / jnp.linalg.norm(true[1:], axis=1)
    )
    assert float(cosine.min()) > 0.995
    # Points of one view lie where the others see them: the same up to the unit.
    ratio = np.asarray(found.points[..., 2]) / np.stack(depths)
    assert np.std(np.log(ratio)) < 0.05
