"""AnySplat: photographs without poses to cameras and 3D Gaussians, in one pass.

VGGT finds cameras and depths; a head gives every pixel a Gaussian at its point; those of one voxel become one. The
world is that of the network, near the first view's camera, in a unit of its own.

Letters: v views, h, w pixels, n = v h w Gaussians before fusion, k numbers of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from PIL import Image

from airjax.arrays import AnyArray
from airjax.gaussians import Gaussians3D
from airjax.nn.vggt import VggtConfig, vggt_networks
from airjax.programs import kept
from airjax.scene.cameras import Camera
from airjax.scene.harmonics import degree_of
from airjax.scene.quaternions import rotations
from airjax.scene.task import Coordinates

SIZE = 448  # pixels, of the squares that the released weights know best

# Learning rates of the post-optimisation of its authors, in units of its world (`SceneTask.unit` 1).
RATES = Coordinates(means=1.6e-4, log_scales=5e-3, quats=1e-3, logits=5e-2, base=2.5e-3, rest=1.25e-4)

# The constants by which images are normalised, as the release rounds them (bfloat16).
_MEAN, _STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
_FOCAL = 1e-3  # added to the tangents of half the fields of view
_SCALE, _MOST_SCALE = 1e-3, 0.3  # unit of the scales, and the largest one
_FEW = 1e-6  # added to sums of weights


@dataclass(frozen=True)
class AnySplatConfig:
    """The predictor; defaults are those of the release."""

    network: VggtConfig = field(default=VggtConfig(mean=_MEAN, std=_STD))
    voxel: float = 0.002  # side of the cubes of which each holds one Gaussian


def init_params(key: jax.Array, config: AnySplatConfig) -> Any:
    """Fresh weights: a dict by part, aggregator, camera, depth, gaussians."""
    return vggt_networks(config.network).init(key)


# --- photographs -----------------------------------------------------------------------------------------------------


class Framing(NamedTuple):
    """How a square was cut from a photograph."""

    scale: tuple[float, float]  # pixels of the square for one of the photograph, (y, x)
    corner: tuple[int, int]  # (y, x) of the square in the resized photograph, its pixels


def framed(
    photographs: Sequence[Float[np.ndarray, "_ _ 3"]], *, size: int = SIZE
) -> tuple[Float[np.ndarray, "v s s 3"], tuple[Framing, ...]]:
    """Squares from the middle of photographs in [0, 1], the shorter side resized (bicubic) to `size` pixels."""
    squares, framings = [], []
    for photograph in photographs:
        height, width = photograph.shape[:2]
        rows, columns = (int(side * (size / min(height, width))) for side in (height, width))
        rows, columns = max(rows, size), max(columns, size)
        top, left = (rows - size) // 2, (columns - size) // 2
        picture = Image.fromarray(np.round(np.clip(photograph, 0, 1) * 255).astype(np.uint8))
        resized = np.asarray(picture.resize((columns, rows), Image.Resampling.BICUBIC))
        squares.append(resized[top : top + size, left : left + size].astype(np.float32) / 255)
        framings.append(Framing((rows / height, columns / width), (top, left)))
    return np.stack(squares), tuple(framings)


def of_photographs(cameras: Camera, framings: Sequence[Framing]) -> Camera:
    """The cameras of the photographs, of those of their squares; numpy arrays."""
    intrinsics = np.array(cameras.intrinsics)
    for matrix, framing in zip(intrinsics, framings, strict=True):
        matrix[:2, 2] += framing.corner[::-1]
        matrix[:2] /= np.array(framing.scale[::-1])[:, None]
    return Camera(intrinsics, np.asarray(cameras.rotation), np.asarray(cameras.translation))


# --- what the networks say -------------------------------------------------------------------------------------------


def cameras_of(poses: Float[Array, "v 9"], *, image_size: tuple[int, int]) -> Camera:
    """Cameras of what the camera head gives (`airjax.nn.vggt.POSE`), the principal points in the middle of (h, w)."""
    x, y, z, w = poses[:, 3:7].T
    tangents = jnp.tan(jax.nn.relu(poses[:, 7:]) / 2) + _FOCAL
    fy, fx = (side / 2 / tangents[:, i] for i, side in enumerate(image_size))
    zero, one = jnp.zeros_like(fx), jnp.ones_like(fx)
    rows = [[fx, zero, image_size[1] / 2 * one], [zero, fy, image_size[0] / 2 * one], [zero, zero, one]]
    intrinsics = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    return Camera(intrinsics, rotations(jnp.stack([w, x, y, z], axis=-1)), poses[:, :3])


def points_of(depths: Float[Array, "v h w"], cameras: Camera) -> Float[Array, "v h w 3"]:
    """Points of the world that pixels show.

    As the weights were trained, those at the pixels' upper left corners: half a pixel off where they are drawn.
    """
    _, height, width = depths.shape
    k = cameras.intrinsics[:, None, None]
    x = (jnp.arange(width, dtype=depths.dtype)[None, None] - k[..., 0, 2]) / k[..., 0, 0]
    y = (jnp.arange(height, dtype=depths.dtype)[None, :, None] - k[..., 1, 2]) / k[..., 1, 1]
    local = jnp.stack([x * depths, y * depths, depths], axis=-1) - cameras.translation[:, None, None]
    return jnp.einsum("vij,vhwi->vhwj", cameras.rotation, local, precision="highest")


class Geometry(NamedTuple):
    """What AnySplat finds before there are Gaussians; no head training changes it."""

    taps: list[Float[Array, "v t d"]]  # what the Gaussian head reads
    poses: Float[Array, "v 9"]
    cameras: Camera
    points: Float[Array, "v h w 3"]
    depths: Float[Array, "v h w"]


def geometry(params: Any, images: Float[Array, "v h w 3"], *, config: AnySplatConfig) -> Geometry:
    """Cameras and points of views in [0, 1], sides multiples of 14 pixels."""
    _, height, width, _ = images.shape
    if height % config.network.patch or width % config.network.patch:
        raise ValueError(f"images: expected sides that are multiples of 14 pixels, got {height} x {width}")
    networks = vggt_networks(config.network)
    taps = networks.taps(params, images)
    poses = networks.poses(params, taps)
    cameras = cameras_of(poses, image_size=(height, width))
    depths = jnp.exp(networks.depth(params, taps, images)[..., 0])
    return Geometry(taps, poses, cameras, points_of(depths, cameras), depths)


def fuse(
    points: Float[Array, "n 3"], numbers: Float[Array, "n k"], *, voxel: float
) -> tuple[Float[Array, "n 3"], Float[Array, "n j"], Bool[Array, " n"]]:
    """Means over each voxel, by the softmax of the last of the numbers, of points and of the other numbers.

    There are as many slots as before; the third result tells which are in use, the first ones: voxels in the order of
    their x, then y, then z.
    """
    count = len(points)
    cells = jnp.round(points / voxel).astype(jnp.int32)
    *axes, order = jax.lax.sort((*cells.T, jnp.arange(count)), num_keys=3)
    first = jnp.any(jnp.stack([jnp.diff(axis) != 0 for axis in axes]), axis=0)
    rank = jnp.pad(jnp.cumsum(first), (1, 0))
    slots = jnp.zeros(count, rank.dtype).at[order].set(rank)
    add = partial(jax.ops.segment_sum, segment_ids=slots, num_segments=count)
    confidence = numbers[:, -1]
    top = jax.ops.segment_max(jax.lax.stop_gradient(confidence), slots, count)
    weights = jnp.exp(confidence - top[slots])
    weights = (weights / (add(weights)[slots] + _FEW))[:, None]
    return add(points * weights), add(numbers[:, :-1] * weights), jnp.arange(count) <= rank[-1]


def activated(points: Float[Array, "n 3"], numbers: Float[Array, "n j"], active: Bool[Array, " n"]) -> Gaussians3D:
    """Gaussians of raw numbers: opacity 1, scales 3, quaternion x y z w, and harmonics, those of red first."""
    degree = degree_of((numbers.shape[1] - 8) // 3)
    damped = [0.1 * 0.25**i if i else 1.0 for i in range(degree + 1) for _ in range(2 * i + 1)]
    harmonics = numbers[:, 8:].reshape(len(numbers), 3, -1).swapaxes(1, 2)
    x, y, z, w = numbers[:, 4:8].T
    quats = jnp.stack([jnp.where(active, w, 1.0), x, y, z], axis=-1)
    return Gaussians3D(
        points,
        jnp.minimum(_SCALE * jax.nn.softplus(numbers[:, 1:4]), _MOST_SCALE),
        quats / (jnp.linalg.norm(quats, axis=-1, keepdims=True) + 1e-8),
        jax.nn.sigmoid(numbers[:, 0]),
        harmonics * jnp.array(damped, jnp.float32)[None, :, None],
        active,
    )


def gaussians_of(points: Float[Array, "v h w 3"], numbers: Float[Array, "v h w k"], *, voxel: float) -> Gaussians3D:
    """Gaussians of points and of what the Gaussian head says of their pixels: v h w slots, the first ones in use."""
    return activated(*fuse(points.reshape(-1, 3), numbers.reshape(-1, numbers.shape[-1]), voxel=voxel))


def predict(params: Any, images: Float[AnyArray, "v h w 3"], *, config: AnySplatConfig) -> tuple[Gaussians3D, Camera]:
    """(Gaussians, a camera of every view) of photographs without poses; see `geometry` and `gaussians_of`.

    Weights are best given as arrays of JAX: numpy arrays of full size would be copied. The release rounds images to
    bfloat16 first, which nothing here does. ValueError for sides that are not multiples of 14 pixels.
    """
    return _predict(params, images, config=config)


@kept(static_argnames="config")
def _predict(params, images, *, config):
    images = jnp.asarray(images)
    found = geometry(params, images, config=config)
    numbers = vggt_networks(config.network).gaussians(params, found.taps, images)
    return gaussians_of(found.points, numbers, voxel=config.voxel), found.cameras
