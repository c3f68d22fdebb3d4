"""Photographs of things on a table in a room, cast by the library, and which of their pixels show the things."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from airjax.scene.cameras import Camera, look_at, pinhole
from airjax.scene.procedural import NUM_OBJECTS, NUM_TEXTURES, Objects, Room, cast
from airjax.scene.quaternions import rotations

SIZE, VIEWS = (48, 64), 6
_ARC, _ELEVATION, _DISTANCE = 60.0, 30.0, 2.2  # degrees around the table and above it, units from its middle


class TableTop(NamedTuple):
    """A capture; numpy arrays."""

    images: NDArray[np.float32]  # (v, h, w, 3) in [0, 1]
    cameras: Camera  # a stack of v, on an arc around the table
    bounds: tuple[float, float]  # a little outside all depths
    things: NDArray[np.bool_]  # (v, h, w), pixels that show neither the table nor the room


def _room() -> Room:
    """A table of 2.2 by 2.2, a ball and three boxes on it; blots of six by six colors on every side."""
    half_turns = 0.5 * np.array([0, 0, 0.4, 0.9, 0.3], np.float32)
    quats = np.stack([np.cos(half_turns), 0 * half_turns, np.sin(half_turns), 0 * half_turns], axis=1)
    objects = Objects(
        jnp.array([[0, 0.45, 0], [0, 0.1, 0.05], [0.55, 0.2, -0.4], [-0.5, 0.22, 0.35], [-0.45, 0.05, -0.5]]),
        jnp.array([[1.1, 0.05, 1.1], [0.3, 0.3, 0.3], [0.2, 0.2, 0.2], [0.22, 0.18, 0.15], [0.1, 0.35, 0.1]]),
        rotations(jnp.asarray(quats)),
        jnp.arange(NUM_OBJECTS) == 1,
        jnp.ones(NUM_OBJECTS, bool),
    )
    textures = np.random.default_rng(0).uniform(0.1, 1, (NUM_TEXTURES, 6, 6, 3)).astype(np.float32)
    light = jnp.array([0.3, -0.9, 0.3])
    return Room(jnp.array([3.0, 1.8, 3.0]), objects, jnp.asarray(textures), jnp.ones(NUM_TEXTURES), light)


def table_top() -> TableTop:
    """The capture."""
    room, azimuths, up = _room(), np.radians(np.linspace(0, _ARC, VIEWS)), np.radians(_ELEVATION)
    down = np.full(VIEWS, -np.sin(up))
    eyes = np.stack([np.cos(up) * np.cos(azimuths), down, np.cos(up) * np.sin(azimuths)], axis=1)
    middle, intrinsics = jnp.array([0, 0.15, 0]), pinhole(1.2 * SIZE[1], SIZE)

    @jax.jit
    @jax.vmap
    def seen(eye):
        camera = look_at(eye, middle, jnp.array([0.0, -1, 0]), intrinsics)
        empty = room._replace(objects=room.objects._replace(exist=jnp.arange(NUM_OBJECTS) == 0))
        image, depth = cast(room, camera, image_size=SIZE)
        return image, depth, cast(empty, camera, image_size=SIZE)[1] > 1.001 * depth, camera

    images, depths, things, cameras = jax.tree.map(np.asarray, seen(jnp.asarray(_DISTANCE * eyes, jnp.float32)))
    return TableTop(images, cameras, (0.9 * float(depths.min()), 1.1 * float(depths.max())), things)
