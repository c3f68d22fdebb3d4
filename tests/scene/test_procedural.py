"""Ray-cast scenes: depths against geometry, pictures against each other, and nothing left to chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.scene.cameras import look_at, pinhole, project_points, unproject
from airjax.scene.procedural import NUM_OBJECTS, Objects, Room, noise_textures, random_views
from airjax.scene.procedural import cast as cast_eagerly

pytestmark = pytest.mark.slow

SIZE = (40, 56)

cast = jax.jit(cast_eagerly, static_argnames="image_size")


@pytest.fixture(scope="module")
def atlas():
    return noise_textures(jax.random.key(0), 16)


@pytest.fixture(scope="module")
def views(atlas):
    return jax.jit(lambda key: random_views(key, atlas, image_size=SIZE, num_views=4))(jax.random.key(2))


def room(**changes):
    """An empty room of 4 x 3 x 5, in one colour; `changes` are to its objects."""
    objects = Objects(
        jnp.zeros((NUM_OBJECTS, 3)),
        jnp.full((NUM_OBJECTS, 3), 0.5),
        jnp.tile(jnp.eye(3)[None], (NUM_OBJECTS, 1, 1)),
        jnp.ones(NUM_OBJECTS, bool),
        jnp.zeros(NUM_OBJECTS, bool),
    )
    return Room(
        jnp.array([2.0, 1.5, 2.5]),
        objects._replace(**changes),
        jnp.full((6 + NUM_OBJECTS, 4, 4, 3), 0.5),
        jnp.ones(6 + NUM_OBJECTS),
        jnp.array([0.0, -1.0, 0.0]),
    )


def test_depths_of_a_wall_a_ball_and_a_box():
    """From the middle of an empty room the wall is at 2.5; a ball and a box of half size 0.5 at 1.5 begin at 1."""
    camera = look_at(jnp.zeros(3), jnp.array([0.0, 0, 1]), jnp.array([0.0, -1, 0]), pinhole(60.0, (33, 33)))
    _, depth = cast(room(), camera, image_size=(33, 33))
    np.testing.assert_allclose(depth, 2.5, rtol=1e-5)
    there = jnp.arange(NUM_OBJECTS) == 2
    centers = jnp.zeros((NUM_OBJECTS, 3)).at[2].set(jnp.array([0.0, 0, 1.5]))
    for sphere in (True, False):
        thing = room(exist=there, centers=centers, spheres=jnp.full(NUM_OBJECTS, sphere))
        _, depth = cast(thing, camera, image_size=(33, 33))
        assert float(depth[16, 16]) == pytest.approx(1.0, abs=1e-5)
        # Six pixels off the middle, 0.1 a unit of depth: the face, and the ball where (t / 10)^2 + (t - 1.5)^2 = 1 / 4.
        expected = (3 - np.sqrt(9 - 4 * 1.01 * 2)) / (2 * 1.01) if sphere else 1.0
        assert float(depth[16, 22]) == pytest.approx(expected, rel=1e-4)
        assert float(depth[0, 0]) == pytest.approx(2.5 if sphere else 1.0, rel=1e-4)


def test_views_agree_where_they_see_the_same(views):
    """Points of the first view, by its depths, have the same colour and depth in the second unless they are hidden."""
    h, w = SIZE
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    points = unproject(
        views.cameras[0], jnp.stack([x.ravel(), y.ravel()], -1).astype(jnp.float32), views.depths[0].ravel()
    )
    seen, depth = project_points(views.cameras[1], points)
    seen, depth = np.asarray(seen), np.asarray(depth)
    inside = (depth > 0) & (seen > 0).all(axis=1) & (seen < [w, h]).all(axis=1)
    j, i = np.floor(seen[inside]).astype(int).T
    there = np.asarray(views.depths[1])[i, j]
    same = np.abs(there / depth[inside] - 1) < 0.05
    assert inside.mean() > 0.5 and same.mean() > 0.8
    colors = [np.asarray(views.images[0]).reshape(-1, 3)[inside], np.asarray(views.images[1])[i, j]]
    difference = np.abs(colors[0] - colors[1])[same]
    shuffled = np.abs(colors[0] - colors[1][::-1])
    assert np.median(difference) < 0.3 * np.median(shuffled)


def test_bounds_hold_what_the_first_views_see(views):
    assert 0 < float(views.near) <= float(views.depths[:2].min())
    assert float(views.far) >= float(views.depths[:2].max())
    assert np.isfinite(views.images).all() and float(views.images.min()) >= 0 and float(views.images.max()) <= 1.001


def test_the_same_key_gives_the_same_scene(atlas, views):
    draw = jax.jit(jax.vmap(lambda key: random_views(key, atlas, image_size=SIZE, num_views=4)))
    again = draw(jnp.stack([jax.random.key(1), jax.random.key(2)]))
    np.testing.assert_allclose(again.images[1], views.images, atol=1e-3)
    assert np.abs(np.asarray(again.images[0] - again.images[1])).max() > 0.1
