"""Views without poses to cameras and 3D Gaussians: Pi3X, or a network of its kind, and a Gaussian head (ForeSplat).

`see` runs the backbone: cameras, a point for every pixel, and what a head needs to know. `splats` runs the head, which
is all that ForeSplat trains: what was seen can be kept and used again.

Choices, where the paper is silent: quaternions are w x y z and the harmonics of a Gaussian (k, 3), both in the frame of
the predicted world; confidences are sigmoids; degree l > 0 of the harmonics counts for 0.1 * 0.25^l; lengths are those
of the network after its unit, if it has one; a view has one focal length, its principal point is in the middle.

Letters: v views, h, w pixels, r, c the patch grid, e width of a tap, n = v h w Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.arrays import AnyArray
from airjax.gaussians import Gaussians3D
from airjax.nn import pi3
from airjax.nn.gaussian_head import EDGE_HEAD, GEOMETRY, GaussianHeadConfig, apply_head, init_head
from airjax.nn.pi3 import Pi3Config, Pi3Output
from airjax.nn.resize import pooled
from airjax.scene.aligned import aligned
from airjax.scene.cameras import Camera
from airjax.scene.harmonics import from_rgb

_SMALL, _LARGEST = 1e-3, 0.3  # scales in the paper: min(0.001 * softplus, 0.3)
_DAMPING = 0.1, 0.25  # of the harmonics of degree l: the first times the second to the power of l
_SAMPLED = 8  # every so many-th row and column tells how near a scene is


@dataclass(frozen=True)
class SplatConfig:
    """A backbone with a Gaussian head."""

    backbone: Pi3Config
    head: GaussianHeadConfig
    # Whether scales are counted in pixels of the view at the depth of the Gaussian, at least so that a fresh head draws
    # a whole image, instead of in thousandths of the unit of length, as in the paper.
    pixels: bool = False
    detail: int = 1  # how many times larger than its views the pictures are that matches are found in; a power of two


PI3X = SplatConfig(pi3.pi3x(), GaussianHeadConfig())
EDGE = SplatConfig(pi3.edge(), EDGE_HEAD)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Seen:
    """Views, and what a backbone made of them."""

    images: Float[AnyArray, "*b v h w 3"]
    cameras: Camera  # a stack of v
    points: Float[AnyArray, "*b v h w 3"]  # of every pixel, world
    confidence: Float[AnyArray, "*b v h w"]  # in [0, 1]
    taps: list[Any]  # token maps (v, r, c, e) that the head reads

    def __getitem__(self, index: Any) -> Seen:
        """Some of the views."""
        return jax.tree.map(lambda leaf: leaf[index], self)


def see(params: dict, images: Float[Array, "v h w 3"], config: Pi3Config, *, detail: int = 1) -> Seen:
    """The backbone on views in [0, 1], whose sides are multiples of its patch; the world is that of the network.

    `images` are `detail` times as large as the views, a power of two, where matches are found in larger pictures.
    """
    views = images if detail == 1 else pooled(images, detail)
    found = pi3.apply(params, views, config)
    return placed(views, found if found.features is None else aligned(found, images))


def placed(images: Float[Array, "v h w 3"], found: Pi3Output) -> Seen:
    """What a network says of views in [0, 1]: cameras (v,), points of the world (v, h, w, 3) in its unit."""
    local = found.points
    points = jnp.einsum("vij,vhwj->vhwi", found.rotations, local, precision="highest")
    points = points + found.translations[:, None, None]
    rotation = jnp.swapaxes(found.rotations, 1, 2)
    translation = -jnp.einsum("vij,vj->vi", rotation, found.translations, precision="highest")
    cameras = Camera(_intrinsics(local), rotation, translation)
    return Seen(images, cameras, points, jax.nn.sigmoid(found.confidence), found.taps)


def _intrinsics(local: Float[Array, "v h w 3"]) -> Float[Array, "v 3 3"]:
    """Of the focal lengths, pixels, that draw points nearest to the pixels which they belong to."""
    _, height, width, _ = local.shape
    across = jnp.asarray(np.arange(width) + 0.5 - width / 2, jnp.float32)[None, None]
    down = jnp.asarray(np.arange(height) + 0.5 - height / 2, jnp.float32)[None, :, None]
    x, y = local[..., 0] / local[..., 2], local[..., 1] / local[..., 2]
    focal = jnp.sum(x * across + y * down, axis=(1, 2)) / jnp.maximum(jnp.sum(x * x + y * y, axis=(1, 2)), 1e-12)
    focal = jnp.maximum(focal, 1.0)  # fresh weights say anything
    one, zero = jnp.ones_like(focal), jnp.zeros_like(focal)
    rows = [[focal, zero, one * (width / 2)], [zero, focal, one * (height / 2)], [zero, zero, one]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1)


def depths_of(seen: Seen) -> Float[Array, "v h w"]:
    """Depths z of the points in their own views."""
    local = jnp.einsum("vj,vhwj->vhw", seen.cameras.forward, seen.points, precision="highest")
    return local + seen.cameras.translation[:, 2, None, None]


def near_of(seen: Seen) -> Float[Array, ""]:
    """A depth that one in fifty points lies before: the unit of length of a refinement."""
    return jnp.quantile(depths_of(seen)[:, ::_SAMPLED, ::_SAMPLED], 0.02)


def splats(params: dict, seen: Seen, config: SplatConfig) -> Gaussians3D:
    """A Gaussian at the point of every pixel, view by view and row by row, all of them active.

      opacity = sigmoid * confidence
      scales = min(0.001 * softplus, 0.3), or with `config.pixels` depth / focal length * softplus
      harmonics = those of the color of the pixel, and what the head adds, higher degrees damped

    A fresh head gives exactly the colors of the pixels.
    """
    degree = config.head.degree
    images = jnp.asarray(seen.images)
    raw = apply_head(params, seen.taps, images, config.head)
    opacity, scale, quat, harmonics = jnp.split(raw, (1, 4, GEOMETRY), axis=-1)
    opacities = jax.nn.sigmoid(opacity[..., 0]) * seen.confidence
    if config.pixels:
        footprints = depths_of(seen) / seen.cameras.intrinsics[:, 0, 0, None, None]
        scales = footprints[..., None] * jax.nn.softplus(scale)
    else:
        scales = jnp.minimum(_SMALL * jax.nn.softplus(scale), _LARGEST)
    quats = quat / (jnp.linalg.norm(quat, axis=-1, keepdims=True) + 1e-8)
    damping = [1.0, *(_DAMPING[0] * _DAMPING[1] ** level for level in range(1, degree + 1))]
    factors = np.repeat(np.array(damping, np.float32), 2 * np.arange(degree + 1) + 1)
    harmonics = harmonics.reshape(-1, len(factors), 3) * factors[None, :, None]
    harmonics = harmonics.at[:, 0].add(from_rgb(images).reshape(-1, 3))
    means, scales, quats = (jnp.asarray(part).reshape(-1, part.shape[-1]) for part in (seen.points, scales, quats))
    return Gaussians3D(means, scales, quats, opacities.ravel(), harmonics, jnp.ones(len(means), bool))


def init_backbone(key: jax.Array, config: SplatConfig) -> dict:
    """Fresh weights of the backbone."""
    return pi3.init_params(key, config.backbone)


def init_splats(key: jax.Array, config: SplatConfig) -> dict:
    """Fresh weights of the head."""
    return init_head(key, config.head, 2 * config.backbone.decoder.width)
