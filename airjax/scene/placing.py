"""Gaussians at the depths of a view's cells: discs that face the camera, and how far a network may change them.

Letters: h, w pixels, d planes, a, b rows and columns of cells (2 x 2 pixels), k numbers of a cell, n Gaussians.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from airjax.gaussians import Gaussians3D
from airjax.nn.blocks import CELL
from airjax.raster.tiles import patch_centers
from airjax.scene.cameras import Camera, unproject
from airjax.scene.harmonics import from_rgb
from airjax.scene.quaternions import from_rotation, multiply

ROWS = 13  # numbers of a Gaussian, see `place`
# Standard deviations of a disc in distances between Gaussians: across, across, and along the view. Never all equal:
# a quaternion has no gradient then.
_DISC = (0.6, 0.5, 0.15)


def inverse_depths(near: Float[Array, ""], far: Float[Array, ""], planes: int) -> Float[Array, " d"]:
    """Of all planes."""
    return inverse_depth_at(jnp.arange(planes, dtype=jnp.float32), near, far, planes)


def inverse_depth_at(
    plane: Float[Array, "*n"], near: Float[Array, ""], far: Float[Array, ""], planes: int
) -> Float[Array, "*n"]:
    """Inverse depth of a plane number, whole or not; never below half that of `far`."""
    return jnp.maximum(1.0 / far + plane / (planes - 1) * (1.0 / near - 1.0 / far), 0.5 / far)


def place(
    outputs: Float[Array, "a b k"],
    plane: Float[Array, "a b"],
    image: Float[Array, "h w 3"],
    camera: Camera,
    near: Float[Array, ""],
    far: Float[Array, ""],
    *,
    planes: int,
    grid: int,
    image_size: tuple[int, int],
) -> tuple[Gaussians3D, Float[Array, "n 2"]]:
    """The Gaussians of one view, row by row, and the pixels that they show.

    A Gaussian belongs to a square of s x s pixels around c, at a depth of about that of the plane number d:

      pixel = c + s tanh(offset)
      depth = depth of plane d + 2 tanh(depth), from half a plane beyond `far` to one before `near`
      scales = depth / focal length * s * _DISC * exp(3 tanh(log scales / 3)), by at most e^3 larger or smaller
      rotation = unit(1, quaternion), from the camera's axes
      opacity = sigmoid(logit + 1)
      colour = mean of the square + colour / 2
    """
    rows, columns, _ = outputs.shape
    spacing = CELL // grid
    size = rows * grid, columns * grid
    k = outputs.reshape(rows, columns, grid, grid, ROWS).transpose(0, 2, 1, 3, 4).reshape(-1, ROWS)
    offset, depth, log_scale, quat, logit, color = jnp.split(k, (2, 3, 6, 9, 10), axis=-1)  # any real numbers
    pixels = patch_centers(size, spacing)
    active = (pixels[:, 0] < image_size[1]) & (pixels[:, 1] < image_size[0])
    colors = image.reshape(size[0], spacing, size[1], spacing, 3).mean(axis=(1, 3)).reshape(-1, 3)
    plane = jnp.repeat(jnp.repeat(plane, grid, axis=0), grid, axis=1).ravel()
    plane = jnp.clip(plane + 2 * jnp.tanh(depth[:, 0]), -0.5, planes)
    depths = 1.0 / inverse_depth_at(plane, near, far, planes)
    means = unproject(camera, pixels + spacing * jnp.tanh(offset), depths)
    focal = 0.5 * (camera.intrinsics[0, 0] + camera.intrinsics[1, 1])
    disc = jnp.array(_DISC) * spacing
    scales = (depths / focal)[:, None] * disc[None] * jnp.exp(3 * jnp.tanh(log_scale / 3))
    quats = jnp.concatenate([jnp.ones_like(quat[:, :1]), quat], axis=-1)
    quats = quats / jnp.linalg.norm(quats, axis=-1, keepdims=True)
    to_world = jnp.broadcast_to(from_rotation(camera.rotation.T)[None], quats.shape)
    harmonics = from_rgb(colors + 0.5 * color)[:, None]
    opacities = jax.nn.sigmoid(logit[:, 0] + 1)
    return Gaussians3D(means, scales, multiply(to_world, quats), opacities, harmonics, active), pixels
