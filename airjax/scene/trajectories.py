"""Ways of a camera through a scene.

Letters: f frames, v views.
"""

from __future__ import annotations

import numpy as np

from airjax.scene.cameras import Camera

_SWING = 0.12  # radius of `around` in distances to what is looked at


def around(camera: Camera, *, distance: float, num_frames: int) -> Camera:
    """A closed circle before a camera's place that keeps looking at one point; numpy arrays, a stack of f.

    Args:
      camera: one, numpy or JAX arrays; the first frame stands at the rim, to its right.
      distance: of the point, along the middle of the camera's view, world units.
      num_frames: >= 1; with one it is the camera itself.
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
    """A smooth way past all cameras of a stack, from the first to the last; numpy arrays, a stack of f.

    Catmull-Rom curves through places and rotations, these made rotations again (the nearest, by singular values).
    """
    count = len(cameras.translation)
    intrinsics, rotations = np.asarray(cameras.intrinsics, float), np.asarray(cameras.rotation, float)
    at = np.linspace(0, count - 1, num_frames)
    first = np.minimum(np.floor(at), max(count - 2, 0)).astype(int)
    x = (at - first)[:, None]
    weights = np.concatenate(
        [-x + 2 * x**2 - x**3, 2 - 5 * x**2 + 3 * x**3, x + 4 * x**2 - 3 * x**3, x**3 - x**2], axis=1
    )
    index = np.clip(first[:, None] + np.arange(-1, 3), 0, count - 1)

    def blend(values):
        return np.einsum("fk,fk...->f...", weights / 2, values[index])

    u, _, v = np.linalg.svd(blend(rotations))
    return _stack(blend(intrinsics), u @ v, blend(np.asarray(cameras.center, float)))


def _stack(intrinsics, rotations, eyes) -> Camera:
    intrinsics = np.broadcast_to(intrinsics, rotations.shape)
    parts = intrinsics, rotations, -np.einsum("fij,fj->fi", rotations, eyes)
    return Camera(*(part.astype(np.float32) for part in parts))


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
