"""Scenes that are computed, of many kinds: rooms, things on a table, streets, views side by side, lenses of all widths.

Letters: T textures, K objects, v views. Shapes and cameras, drawn from a key; `airjax.scene.captures` makes pictures.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.scene.cameras import Camera, look_at, pinhole
from airjax.scene.procedural import (
    Objects,
    Room,
    random_cameras,
    random_room,
)
from airjax.scene.quaternions import rotations

NUM_OBJECTS = 12
NUM_TEXTURES = 6 + NUM_OBJECTS
KINDS = ("room", "table", "street", "side by side")
SHARES = (0.3, 0.3, 0.2, 0.2)  # of the kinds
SKY = 40.0  # half extents of a room from which on its walls are a sky
_UP = (0.0, -1.0, 0.0)


class World(NamedTuple):
    """One scene and its cameras."""

    room: Room  # with NUM_OBJECTS objects; its textures are not there yet
    cameras: Camera  # a stack of v
    focus: Float[Array, " 3"]  # what the cameras look at, about


def random_world(key: jax.Array, *, image_size: tuple[int, int], num_views: int, given: int) -> World:
    """The shapes and cameras of a random scene."""
    keys = jax.random.split(key, 5)
    kind = jax.random.choice(keys[0], len(KINDS), p=jnp.array(SHARES))
    steps = jax.random.uniform(keys[1], (num_views,), minval=-0.6, maxval=0.6)
    beyond = jax.random.uniform(keys[2], (num_views,), minval=-1.5, maxval=1.5)
    steps = jnp.where(jnp.arange(num_views) < given, beyond, steps).at[:2].set(jnp.array([-0.5, 0.5]))
    builders = [partial(build, image_size=image_size) for build in (_room, _table, _street, _side_by_side)]
    world = jax.lax.switch(kind, builders, keys[3], steps)
    eyes = world.cameras.center
    objects = jax.lax.cond(
        kind == 0, lambda o: o, partial(_with_occluder, keys[4], eyes, world.focus), world.room.objects
    )
    reach = jnp.max(jnp.abs(eyes), axis=0) + 0.3
    room = world.room._replace(objects=objects, half_extents=jnp.maximum(world.room.half_extents, reach))
    return world._replace(room=room)


def _room(key: jax.Array, steps: Float[Array, " v"], *, image_size: tuple[int, int]) -> World:
    """A room of `random_room`."""
    keys = jax.random.split(key)
    cameras = random_cameras(keys[0], image_size=image_size, num_views=len(steps))
    room = random_room(keys[1], jnp.zeros((NUM_TEXTURES, 1, 1, 3)), cameras.center)
    objects = jax.tree.map(lambda leaf: _padded(leaf, NUM_OBJECTS), room.objects)
    objects = objects._replace(rotations=objects.rotations.at[len(room.objects.exist) :].set(jnp.eye(3)))
    room = Room(room.half_extents, objects, _no_textures(), _padded(room.repeats, NUM_TEXTURES, 1.0), room.light)
    return World(room, cameras, cameras.center[0] + 2.0 * cameras.forward[0])


def _table(key: jax.Array, steps: Float[Array, " v"], *, image_size: tuple[int, int]) -> World:
    """Things on a table, or on the ground, seen from around and above; the lens as wide as the distance asks for."""
    keys = jax.random.split(key, 12)
    draw = jax.random.uniform(keys[0], (10,))
    focal = 0.7 * jnp.exp(draw[0] * jnp.log(3.0 / 0.7))
    distance = jnp.maximum(1.6, focal * (1.3 + 1.1 * draw[1]))
    turn = jnp.radians(4 + 21 * draw[2]) * steps
    jitter = 0.25 * jnp.radians(4 + 21 * draw[2]) * jax.random.normal(keys[1], steps.shape)
    elevation = jnp.clip(jnp.radians(8 + 52 * draw[3] ** 1.5) + jitter, 0.1, 1.2)
    apart = distance * (1 + 0.05 * jax.random.normal(keys[2], steps.shape))
    azimuth = 2 * jnp.pi * draw[4] + turn
    directions = jnp.stack(
        [jnp.cos(elevation) * jnp.cos(azimuth), -jnp.sin(elevation), jnp.cos(elevation) * jnp.sin(azimuth)], axis=1
    )
    eyes = apart[:, None] * directions
    looks = 0.06 * jax.random.normal(keys[3], eyes.shape)
    ground = 0.2 + 0.3 * draw[5]  # y of it
    table = draw[6] < 0.5
    number = jnp.arange(NUM_OBJECTS)
    # Things in a disc, boxes and balls, some of them rods and plates.
    radius, angle = 0.75 * jnp.sqrt(jax.random.uniform(keys[4], number.shape)), 2 * jnp.pi * _uniform(keys[5], number)
    sizes = jax.random.uniform(keys[6], (NUM_OBJECTS, 3), minval=0.08, maxval=0.38)
    spheres = (number > 2) & (jax.random.uniform(keys[7], number.shape) < 0.35)
    sizes = sizes.at[1].set(jnp.where(draw[7] < 0.5, sizes[1], jnp.array([0.012, 0.5, 0.012]) * (1 + draw[8])))
    sizes = sizes.at[2].set(jnp.where(draw[9] < 0.5, sizes[2], sizes[2] * jnp.array([1.5, 1.5, 0.06])))
    sizes = jnp.where(spheres[:, None], sizes[:, :1], sizes)
    lifted = jnp.where(number % 4 == 3, 0.5 * _uniform(keys[8], number), 0.0)
    y = ground - sizes[:, 1] - lifted
    centers = jnp.stack([radius * jnp.cos(angle), y, radius * jnp.sin(angle)], axis=1)
    top = jnp.where(table, jnp.array([1.3, 0.05, 1.1]) * (0.8 + 0.6 * draw[8]), jnp.array([120.0, 1.0, 120.0]))
    centers = centers.at[0].set(jnp.array([0.0, 1, 0]) * (ground + top[1]))
    sizes = sizes.at[0].set(top)
    count = jax.random.randint(keys[9], (), 3, NUM_OBJECTS)
    open_air = draw[9] < 0.4
    walls = jnp.where(open_air, 45 + 30 * draw[7], (1.2 + 2.5 * draw[8]) * distance)
    turns = _yaw(2 * jnp.pi * _uniform(keys[10], number))
    repeats = _repeats(keys[11], jnp.where(table, 2.0, 240.0 / (1.0 + 3 * draw[1])))
    half_extents = walls * jnp.array([1.0, 0.8, 1.2])
    objects = Objects(centers, sizes, turns, spheres & (number > 0), number < count)
    return _world(key, half_extents, objects, repeats, eyes, looks, focal, image_size)


def _street(key: jax.Array, steps: Float[Array, " v"], *, image_size: tuple[int, int]) -> World:
    """Ground, facades, poles and things under a sky, depths up to a hundred times the nearest; cameras on a path."""
    keys = jax.random.split(key, 12)
    draw = jax.random.uniform(keys[0], (10,))
    azimuth = 2 * jnp.pi * draw[0]
    ahead = jnp.stack([jnp.cos(azimuth), 0.0, jnp.sin(azimuth)])
    aside = jnp.stack([-jnp.sin(azimuth), 0.0, jnp.cos(azimuth)])
    distance = 3 * jnp.exp(draw[1] * jnp.log(5.0))
    focal = 0.7 * jnp.exp(draw[2] ** 1.5 * jnp.log(2.5 / 0.7))
    path = aside + 0.4 * (2 * draw[3] - 1) * ahead + 0.15 * (2 * draw[4] - 1) * jnp.array(_UP)
    width = (0.05 + 0.2 * draw[5]) * distance
    eyes = width * (steps[:, None] * path[None] + 0.06 * jax.random.normal(keys[1], (len(steps), 3)))
    focus = distance * ahead + (0.6 * draw[6] - 0.35) * distance * jnp.array([0.0, 1, 0]) / 2
    looks = focus[None] + 0.04 * distance * jax.random.normal(keys[2], eyes.shape)
    ground = width * 0.3 + 0.6 + 1.2 * draw[7]
    number = jnp.arange(NUM_OBJECTS)
    far, pole = (number > 0) & (number < 5), number > 9
    away = jnp.where(far, 6 * jnp.exp(_uniform(keys[3], number) * jnp.log(6.0)), 1.5 + 7 * _uniform(keys[4], number))
    lateral = away * (2 * _uniform(keys[5], number) - 1) * jnp.where(far, 0.9, 0.6)
    sizes = jax.random.uniform(keys[6], (NUM_OBJECTS, 3), minval=0.15, maxval=0.7)
    sizes = jnp.where(far[:, None], sizes * jnp.array([[10.0, 9, 6]]), sizes)
    sizes = jnp.where(pole[:, None], jnp.array([[0.05, 2.5, 0.05]]) * (0.4 + draw[8]), sizes)
    spheres = (number > 4) & ~pole & (_uniform(keys[7], number) < 0.3)
    sizes = jnp.where(spheres[:, None], sizes[:, :1], sizes).at[0].set(jnp.array([150.0, 1, 150]))
    centers = away[:, None] * ahead[None] + lateral[:, None] * aside[None]
    centers = centers.at[:, 1].set(ground - sizes[:, 1]).at[0].set(jnp.array([0.0, 1, 0]) * (ground + 1))
    exist = (number == 0) | (_uniform(keys[8], number) < 0.75)
    turns = _yaw(azimuth + 1.0 * (2 * _uniform(keys[9], number) - 1))
    repeats = _repeats(keys[10], 300.0 / (1.5 + 5 * draw[9]))
    repeats = repeats.at[7:11].multiply(2.0)
    half_extents = (60 + 40 * draw[9]) * jnp.array([1.0, 0.7, 1.0])
    return _world(
        key, half_extents, Objects(centers, sizes, turns, spheres, exist), repeats, eyes, looks, focal, image_size
    )


def _side_by_side(key: jax.Array, steps: Float[Array, " v"], *, image_size: tuple[int, int]) -> World:
    """Things at all depths before a wall, seen from places on a plane across the line of sight."""
    keys = jax.random.split(key, 12)
    draw = jax.random.uniform(keys[0], (10,))
    azimuth = 2 * jnp.pi * draw[0]
    ahead = jnp.stack([jnp.cos(azimuth), 0.0, jnp.sin(azimuth)])
    aside = jnp.stack([-jnp.sin(azimuth), 0.0, jnp.cos(azimuth)])
    ahead = ahead * jnp.cos(0.3 * draw[1]) - jnp.sin(0.3 * draw[1]) * jnp.array(_UP)
    down = jnp.cross(ahead, aside)
    focal, width = 0.7 * jnp.exp(draw[2] * jnp.log(2.0 / 0.7)), 0.08 + 0.25 * draw[3]
    tilt = 2 * jnp.pi * draw[4]
    line, across = jnp.cos(tilt) * aside + jnp.sin(tilt) * down, jnp.cos(tilt) * down - jnp.sin(tilt) * aside
    offset = 0.35 * jax.random.normal(keys[1], (len(steps), 1))
    eyes = width * (steps[:, None] * line[None] + offset * across[None])
    focus = ahead * (0.8 + 0.6 * draw[5])
    parallel = draw[6] < 0.5
    looks = jnp.where(parallel, eyes + 20 * ahead[None], focus[None])
    looks += 0.03 * jnp.linalg.norm(looks, axis=1, keepdims=True) * jax.random.normal(keys[2], eyes.shape)
    number = jnp.arange(NUM_OBJECTS)
    away = 0.5 * jnp.exp(_uniform(keys[3], number) * jnp.log(6.0))
    place = jax.random.uniform(keys[4], (NUM_OBJECTS, 2), minval=-0.55, maxval=0.55) * (away / focal)[:, None]
    sizes = jax.random.uniform(keys[5], (NUM_OBJECTS, 3), minval=0.05, maxval=0.25)
    thin = _uniform(keys[6], number) < 0.25
    sizes = sizes * jnp.where(thin[:, None], jnp.array([[0.1, 2.0, 0.1]]), 1.0) * (away / focal**0.7)[:, None]
    spheres = ~thin & (_uniform(keys[7], number) < 0.35)
    sizes = jnp.where(spheres[:, None], sizes[:, :1], sizes)
    centers = away[:, None] * ahead[None] + place[:, :1] * aside[None] + place[:, 1:] * down[None]
    turns = rotations(jax.random.normal(keys[8], (NUM_OBJECTS, 4)))
    ground = 0.35 + 0.5 * draw[7]
    has_ground = draw[8] < 0.6
    centers = centers.at[0].set(jnp.array([0.0, 1, 0]) * (ground + 1))
    sizes, turns = sizes.at[0].set(jnp.array([100.0, 1, 100])), turns.at[0].set(jnp.eye(3))
    exist = jnp.where(number == 0, has_ground, number < jax.random.randint(keys[9], (), 4, NUM_OBJECTS + 1))
    open_air = draw[9] < 0.3
    half_extents = jnp.where(open_air, 50.0, 1.5 + 5 * draw[9]) * jnp.array([1.0, 0.8, 1.0])
    repeats = _repeats(keys[10], 200.0 / (0.7 + 2 * draw[1]))
    objects = Objects(centers, sizes, turns, spheres & (number > 0), exist)
    return _world(key, half_extents, objects, repeats, eyes, looks, focal, image_size)


def _world(key, half_extents, objects: Objects, repeats, eyes, looks, focal, image_size) -> World:
    """Whatever the kind: cameras that roll a little, and no object but the first where one of them stands."""
    keys = jax.random.split(jax.random.fold_in(key, 99), 2)
    roll = 0.06 * jax.random.normal(keys[0], (len(eyes), 3))
    intrinsics = pinhole(focal * image_size[1], image_size)
    cameras = jax.vmap(lambda eye, look, up: look_at(eye, look, up, intrinsics))(eyes, looks, jnp.array([_UP]) + roll)
    focus = jnp.mean(looks, axis=0)
    free = _distances(objects, eyes) > 0.08 * jnp.linalg.norm(focus - eyes[0])
    exist = objects.exist & (jnp.all(free, axis=1) | (jnp.arange(NUM_OBJECTS) == 0))
    light = jax.random.normal(keys[1], (3,))
    light = light / jnp.linalg.norm(light)
    return World(Room(half_extents, objects._replace(exist=exist), _no_textures(), repeats, light), cameras, focus)


def _with_occluder(key: jax.Array, eyes: Float[Array, "v 3"], focus: Float[Array, " 3"], objects: Objects) -> Objects:
    """The objects; one in four times, the last of them a rod or a plate near the cameras."""
    keys = jax.random.split(key, 4)
    draw = jax.random.uniform(keys[0], (4,))
    line = focus - eyes[0]
    distance = jnp.linalg.norm(line)
    center = eyes[0] + (0.2 + 0.35 * draw[0]) * line + 0.12 * distance * jax.random.normal(keys[1], (3,)) * draw[1]
    size = distance * jnp.where(draw[2] < 0.6, jnp.array([0.01, 0.4, 0.01]), jnp.array([0.08, 0.08, 0.004]))
    size = size * (0.5 + jax.random.uniform(keys[2], (3,)))
    new = Objects(center, size, rotations(jax.random.normal(keys[3], (1, 4)))[0], jnp.array(False), draw[3] < 0.25)
    free = jnp.all(_distances(jax.tree.map(lambda leaf: leaf[None], new), eyes) > 0.05 * distance)
    use = new.exist & free
    return jax.tree.map(lambda old, leaf: old.at[-1].set(jnp.where(use, leaf, old[-1])), objects, new)


def _distances(objects: Objects, points: Float[Array, "v 3"]) -> Float[Array, "K v"]:
    """From objects, as boxes, to points; 0 inside."""
    offset = points[None] - objects.centers[:, None]
    local = jnp.einsum("kij,kvi->kvj", objects.rotations, offset, precision="highest")
    return jnp.linalg.norm(jnp.maximum(jnp.abs(local) - objects.sizes[:, None], 0.0) + 1e-9, axis=-1)


def _repeats(key: jax.Array, ground: Float[Array, ""] | float) -> Float[Array, " T"]:
    """How often textures are repeated; `ground` times on the first object."""
    return jax.random.randint(key, (NUM_TEXTURES,), 1, 4).astype(jnp.float32).at[6].set(ground)


def _yaw(angles: Float[Array, " n"]) -> Float[Array, "n 3 3"]:
    """Rotations around the vertical."""
    blank = jnp.zeros_like(angles)
    return rotations(jnp.stack([jnp.cos(angles / 2), blank, jnp.sin(angles / 2), blank], axis=1))


def _uniform(key: jax.Array, like: Array) -> Float[Array, " n"]:
    return jax.random.uniform(key, like.shape)


def _padded(leaf: Array, count: int, value: float = 0.0) -> Array:
    """More rows, all of them `value`."""
    rest = np.full((count - len(leaf), *leaf.shape[1:]), value, leaf.dtype)
    return jnp.concatenate([leaf, jnp.asarray(rest)])


def _no_textures() -> Float[Array, "0 1 1 3"]:
    return jnp.zeros((0, 1, 1, 3))
