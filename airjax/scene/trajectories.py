"""Paths of a camera through a scene.

Letters: f frames, v views.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicHermiteSpline

from airjax.scene.cameras import Camera

_SWING = 0.12  # radius of `around` in distances to the point that it looks at


def around(camera: Camera, *, distance: float, num_frames: int) -> Camera:
    """A closed circle around a camera's place, looking at one point all the way; numpy arrays, a stack of f.

    The first frame stands to its right; a single one is the camera itself. `distance` is that of the point from the
    camera, along its optical axis, world units.
    """
    intrinsics, rotation = np.asarray(camera.intrinsics, float), np.asarray(camera.rotation, float)
    center = np.asarray(camera.center, float)
    target = center + distance * rotation[2]
    angles = 2 * np.pi * np.arange(num_frames) / num_frames
    radius = _SWING * distance if num_frames > 1 else 0.0
    eyes = center + radius * (np.cos(angles)[:, None] * rotation[0] + np.sin(angles)[:, None] * rotation[1])
    forward = _unit(target - eyes)
    right = _unit(np.cross(np.broadcast_to(rotation[1], forward.shape), forward))
    rotations = np.stack([right, np.cross(forward, right), forward], axis=1)
    return _stack(intrinsics, rotations, eyes)


def through(cameras: Camera, *, num_frames: int) -> Camera:
    """A smooth path past all cameras of a stack, from the first to the last; numpy arrays, a stack of f.

    Catmull-Rom curves through intrinsics, places and rotation matrices, these replaced by the nearest rotations (by
    singular values).
    """
    count = len(cameras.translation)
    frames = np.linspace(0, count - 1, num_frames)

    def curve(values):
        values = np.asarray(values, float)
        if count == 1:
            return np.repeat(values, num_frames, axis=0)
        slopes = np.gradient(values, axis=0)
        slopes[[0, -1]] /= 2  # as if the first and the last camera stood there twice
        return CubicHermiteSpline(np.arange(count), values, slopes)(frames)

    u, _, v = np.linalg.svd(curve(cameras.rotation))
    return _stack(curve(cameras.intrinsics), u @ v, curve(cameras.center))


def _stack(intrinsics, rotations, eyes) -> Camera:
    intrinsics = np.broadcast_to(intrinsics, rotations.shape)
    parts = intrinsics, rotations, -np.einsum("fij,fj->fi", rotations, eyes)
    return Camera(*(part.astype(np.float32) for part in parts))


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
