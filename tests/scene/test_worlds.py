"""Scenes of all kinds: views that agree, ranges that hold most depths, given views that are spoiled a little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import noise_atlas

from airjax.scene import procedural
from airjax.scene.cameras import project_points, unproject
from airjax.scene.captures import _cast_grid, _distances_along, depth_ranges, random_world_views, spoil
from airjax.scene.worlds import KINDS, random_world

pytestmark = pytest.mark.slow

SIZE, VIEWS, GIVEN = (24, 32), 4, 3
KEYS = jax.vmap(jax.random.key)(jnp.arange(12))


@pytest.fixture(scope="module")
def drawn():
    """Views and worlds of the same keys."""
    options = {"image_size": SIZE, "num_views": VIEWS, "given": GIVEN}

    def draw(key, atlas):
        return random_world_views(key, atlas, **options), random_world(jax.random.split(key, 6)[0], **options)

    return jax.jit(jax.vmap(draw, in_axes=(0, None)))(KEYS, noise_atlas(20))


@pytest.fixture
def scenes(drawn):
    return jax.device_get(drawn[0])


@pytest.fixture
def worlds(drawn):
    return drawn[1]


def test_depths_agree_between_views(scenes, worlds):
    """Points of a view, by its depths, lie on what another view sees, or behind it."""
    h, w = SIZE
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    pixels = jnp.stack([x.ravel(), y.ravel()], -1).astype(jnp.float32)
    same, total = [], 0
    for i in range(len(KEYS)):
        cameras = jax.tree.map(lambda leaf, i=i: leaf[i], worlds.cameras)
        points = unproject(cameras[0], pixels, scenes.depths[i, 0].ravel())
        seen, depth = (np.asarray(part) for part in project_points(cameras[1], points))
        inside = (depth > 0) & (seen > 0).all(axis=1) & (seen < [w, h]).all(axis=1)
        column, row = np.floor(seen[inside]).astype(int).T
        ratio = scenes.depths[i, 1][row, column] / depth[inside]
        same.append(np.abs(ratio - 1) < 0.1)
        assert np.mean(ratio < 1.1) > 0.7  # what is seen is never far behind, but at edges
        total += inside.sum()
    assert np.concatenate(same).mean() > 0.75 and total > 0.4 * len(KEYS) * h * w


def test_objects_are_where_the_slower_caster_finds_them(worlds):
    """The distances of `procedural`, one object and one ray at a time."""
    rays = jax.random.normal(jax.random.key(1), (50, 3))

    @jax.jit
    def both(room, eye):
        slow = jax.vmap(procedural._distance_to_object, (None, None, 0))(eye, rays, room.objects)
        return slow, _distances_along(room.objects, eye, rays)

    slow, fast = jax.jit(jax.vmap(both))(worlds.room, worlds.cameras.center[:, 0])
    assert np.mean(np.asarray(slow) < 1e5) > 0.02
    np.testing.assert_allclose(1 / np.asarray(fast), 1 / np.asarray(slow), atol=1e-3)


def test_ranges_hold_most_of_what_is_not_sky(scenes):
    near, far = (part[:, :GIVEN, None, None] for part in (scenes.near, scenes.far))
    depths = scenes.depths[:, :GIVEN]
    assert np.all(near > 0) and np.all(near < far) and np.all(np.isfinite(far))
    outside = np.mean((depths < near) | (depths > far), axis=(1, 2, 3))
    assert np.median(outside) < 0.1 and outside.max() > 0.02


def test_a_range_ignores_the_sky():
    depths = np.full((2, 8, 8), 3.0, np.float32)
    depths[:, :4], sky = 90.0, np.zeros((2, 8, 8), bool)
    sky[:, :4] = True
    near, far = depth_ranges(jax.random.key(0), jnp.asarray(depths), jnp.asarray(sky))
    assert np.all(near < 3.0) and np.all(far < 3.0 * 1.61)
    _, far = depth_ranges(jax.random.key(0), jnp.asarray(depths), jnp.ones_like(sky))
    assert np.all(far > 90)


def test_all_kinds_are_drawn(scenes, worlds):
    focal = np.asarray(worlds.cameras.intrinsics[:, 0, 0, 0]) / SIZE[1]
    assert len(KINDS) == 4 and focal.min() < 0.9 and focal.max() > 1.4
    assert np.isfinite(scenes.images).all() and scenes.images.min() >= 0 and scenes.images.max() <= 1.001
    assert np.all(scenes.images.std(axis=(2, 3, 4)) > 0.01)
    assert np.max(scenes.depths.max(axis=(1, 2, 3)) / scenes.depths.min(axis=(1, 2, 3))) > 20


def test_given_views_are_exposed_each_in_its_own_way():
    images = jnp.broadcast_to(jax.random.uniform(jax.random.key(0), (1, 12, 12, 3)), (3, 12, 12, 3))
    spoiled = np.asarray(jax.jit(jax.vmap(lambda key: spoil(key, images)))(KEYS))
    change = np.abs(spoiled - np.asarray(images)).mean(axis=(2, 3, 4))
    assert change.max() < 0.2 and np.median(change) > 1e-3
    assert np.abs(spoiled[:, 0].mean(axis=(1, 2)) - spoiled[:, 1].mean(axis=(1, 2))).max() > 0.01


def test_a_sky_is_bright(worlds):
    cast = jax.jit(jax.vmap(lambda room, camera: _cast_grid(room, camera, SIZE, 1)))
    atlas = jnp.zeros((18 * 4, 4, 4, 3))
    rooms = worlds.room._replace(textures=jnp.broadcast_to(atlas, (len(KEYS), *atlas.shape)))
    color, _, sky = (np.asarray(part) for part in cast(rooms, jax.vmap(lambda c: c[0])(worlds.cameras)))
    assert 0 < sky.mean() < 0.6 and np.all(color[sky] == pytest.approx(0.55)) and np.all(color[~sky] == 0)
