"""Pinhole cameras: x right, y down, z forward (OpenCV); a pixel's centre is at +0.5.

A point X of the world has camera coordinates x = R X + t and is drawn at (fx x/z + cx, fy y/z + cy) pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from airjax.arrays import AnyArray
from airjax.scene.quaternions import rotations


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Camera:
    """One camera, or a stack of them with a further first axis on every field.

    Fields:
      intrinsics: (3, 3) K, in pixels.
      rotation: (3, 3) R, world to camera.
      translation: (3,) t, world units.
    """

    intrinsics: Float[AnyArray, "*v 3 3"]
    rotation: Float[AnyArray, "*v 3 3"]
    translation: Float[AnyArray, "*v 3"]

    @property
    def center(self) -> Float[Array, "*v 3"]:
        """Position in the world, -R^T t."""
        return -jnp.einsum("...ij,...i->...j", self.rotation, self.translation, precision="highest")

    @property
    def forward(self) -> Float[AnyArray, "*v 3"]:
        """Unit vector of the viewing direction, in the world."""
        return self.rotation[..., 2, :]

    def scaled(self, scale: float) -> Camera:
        """The same camera with an image `scale` times as large."""
        return self if scale == 1 else self.resized((1, 1), (scale, scale))

    def moved(self, steps: Float[AnyArray, "v 6"]) -> Camera:
        """A stack turned and shifted, in camera coordinates: x becomes R(w) x + d of steps (w, d).

        R turns by 2 atan(|w| / 2) around w, by |w| where that is small.
        """
        turns = rotations(jnp.concatenate([jnp.ones_like(steps[:, :1]), steps[:, :3] / 2], axis=1))
        rotation = jnp.einsum("vab,vbc->vac", turns, self.rotation, precision="highest")
        translation = jnp.einsum("vab,vb->va", turns, self.translation, precision="highest") + steps[:, 3:]
        return replace(self, rotation=rotation, translation=translation)

    def __getitem__(self, index) -> Camera:
        """Some of a stack."""
        return jax.tree.map(lambda leaf: leaf[index], self)

    def resized(self, size: tuple[float, float], new_size: tuple[float, float]) -> Camera:
        """The same camera for an image of another (h, w): the intrinsics follow the pixels."""
        factors = np.array([[new_size[1] / size[1]], [new_size[0] / size[0]], [1.0]], self.intrinsics.dtype)
        return replace(self, intrinsics=self.intrinsics * factors.reshape((1,) * (self.intrinsics.ndim - 2) + (3, 1)))


def look_at(
    center: Float[AnyArray, " 3"],
    target: Float[AnyArray, " 3"],
    up: Float[AnyArray, " 3"],
    intrinsics: Float[AnyArray, "3 3"],
) -> Camera:
    """A camera at `center` that looks at `target`, `up` pointing upwards in its image; not defined along `up`."""
    forward = _unit(target - center)
    right = _unit(jnp.cross(forward, up))
    rotation = jnp.stack([right, jnp.cross(forward, right), forward])
    return Camera(intrinsics, rotation, -jnp.dot(rotation, center, precision="highest"))


def pinhole(focal: Float[Array, ""] | float, image_size: tuple[int, int]) -> Float[Array, "3 3"]:
    """Intrinsics of a focal length in pixels, the principal point in the middle."""
    height, width = image_size
    return jnp.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], jnp.float32)


def project_points(camera: Camera, points: Float[AnyArray, "n 3"]) -> tuple[Float[Array, "n 2"], Float[Array, " n"]]:
    """Pixels and depths z of points of the world."""
    local = to_camera(camera, points)
    image = jnp.dot(local, camera.intrinsics.T, precision="highest")
    return image[:, :2] / image[:, 2:], local[:, 2]


def to_camera(camera: Camera, points: Float[AnyArray, "n 3"]) -> Float[Array, "n 3"]:
    """Camera coordinates of points of the world."""
    return jnp.dot(points, camera.rotation.T, precision="highest") + camera.translation[None]


def unproject(camera: Camera, pixels: Float[AnyArray, "n 2"], depths: Float[AnyArray, " n"]) -> Float[Array, "n 3"]:
    """Points of the world at `pixels` and depths z: the inverse of `project_points`."""
    homogeneous = jnp.concatenate([pixels, jnp.ones_like(pixels[:, :1])], axis=1)
    rays = jnp.dot(homogeneous, jnp.linalg.inv(camera.intrinsics).T, precision="highest")
    local = rays * depths[:, None] - camera.translation[None]
    return jnp.dot(local, camera.rotation, precision="highest")


def _unit(vector: Float[AnyArray, " 3"]) -> Float[Array, " 3"]:
    return vector / jnp.linalg.norm(vector)
