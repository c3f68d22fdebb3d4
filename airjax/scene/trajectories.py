"""Paths of a camera through a scene.

Letters: f frames, n Gaussians.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicHermiteSpline

from airjax.gaussians import Gaussians3D, only_active
from airjax.scene.cameras import Camera

_SWING = 0.12  # radius of `around` in distances to the point that it looks at
_SHARE = 0.8  # of the opacity, within the box of `overview` on each axis; floaters and most of a sky are outside
_HALF_ANGLE, _ELEVATION = np.radians(25), np.radians(15)  # of `overview`: half its field of view; how far it looks down
_NEAREST = 0.25  # world units from the camera of `overview` to what it shows; near planes are before it


def around(camera: Camera, *, distance: float, num_frames: int) -> Camera:
    """A closed circle around a camera's place, looking at one point all the way; numpy arrays, a stack of f.

    The first frame stands to its right; a single one is the camera itself. `distance` is that of the point from the
    camera, along its optical axis, world units.
    """
    intrinsics, rotation = np.asarray(camera.intrinsics, float), np.asarray(camera.rotation, float)
    center, target = _center_and_target(camera, distance)
    angles = 2 * np.pi * np.arange(num_frames) / num_frames
    radius = _SWING * distance if num_frames > 1 else 0.0
    eyes = center + radius * (np.cos(angles)[:, None] * rotation[0] + np.sin(angles)[:, None] * rotation[1])
    return _stack(intrinsics, _facing(target - eyes, rotation[1]), eyes)


def overview(gaussians: Gaussians3D, *, down: np.ndarray, image_size: tuple[int, int]) -> tuple[Camera, float]:
    """A camera that sees a set from outside, from a little above, and its distance to the middle of the set.

    It shows a ball around a box that is robust: quantiles, weighted by opacity, of where the active Gaussians (two
    standard deviations of each) begin and end on each axis. `down` is a unit vector along an axis of the world.
    """
    used = only_active(gaussians)
    means, reach = np.asarray(used.means, float), 2 * np.asarray(used.scales, float).max(axis=1, keepdims=True)
    weights = np.asarray(used.opacities, float)
    low = _quantiles(means - reach, weights, 0.5 - _SHARE / 2)
    high = _quantiles(means + reach, weights, 0.5 + _SHARE / 2)
    middle, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    radius = radius if radius > 0 else 1.0
    distance = max(radius / np.sin(_HALF_ANGLE), radius + _NEAREST)
    focal = min(image_size) / 2 / np.tan(np.arcsin(radius / distance))
    intrinsics = np.array([[focal, 0, image_size[1] / 2], [0, focal, image_size[0] / 2], [0, 0, 1.0]])
    ahead = np.array([0.0, 0.0, 1.0]) if down[2] == 0 else np.array([0.0, 1.0, 0.0])
    forward = np.cos(_ELEVATION) * ahead + np.sin(_ELEVATION) * down
    return _stack(intrinsics, _facing(forward[None], down), middle - distance * forward[None])[0], distance


def turntable(camera: Camera, *, distance: float, down: np.ndarray, num_frames: int) -> Camera:
    """A full turn around the point that a camera looks at; numpy arrays, a stack of f, of which it is the first.

    The axis is `down`, a unit vector, which points downwards in all images. `distance` is as in `around`.
    """
    center, target = _center_and_target(camera, distance)
    angles = 2 * np.pi * np.arange(num_frames)[:, None] / num_frames
    arm = center - target
    along = (arm @ down) * down
    eyes = target + along + np.cos(angles) * (arm - along) + np.sin(angles) * np.cross(down, arm)
    return _stack(np.asarray(camera.intrinsics, float), _facing(target - eyes, down), eyes)


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


def _center_and_target(camera: Camera, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Where a camera stands, and the point on its optical axis at a distance."""
    center = np.asarray(camera.center, float)
    return center, center + distance * np.asarray(camera.rotation, float)[2]


def _facing(directions: np.ndarray, down: np.ndarray) -> np.ndarray:
    """(f, 3, 3) rotations, world to camera, that look along directions (f, 3), `down` pointing downwards."""
    forward = _unit(directions)
    right = _unit(np.cross(np.broadcast_to(down, forward.shape), forward))
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def _quantiles(values: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """The smallest value of each column of (n, 3) below or at which this share of the weight (n,) lies."""
    order = np.argsort(values, axis=0)
    cumulative = np.cumsum((weights if weights.sum() > 0 else np.ones_like(weights))[order], axis=0)
    rows = (cumulative < share * cumulative[-1]).sum(axis=0)
    return np.take_along_axis(values, np.take_along_axis(order, rows[None], axis=0), axis=0)[0]


def _stack(intrinsics, rotations, eyes) -> Camera:
    intrinsics = np.broadcast_to(intrinsics, rotations.shape)
    parts = intrinsics, rotations, -np.einsum("fij,fj->fi", rotations, eyes)
    return Camera(*(part.astype(np.float32) for part in parts))


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
