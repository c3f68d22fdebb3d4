"""3D scenes for the tests, placed by hand or at random with a fixed seed."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from airjax.gaussians import Gaussians3D
from airjax.scene.cameras import Camera, look_at, pinhole

FIELDS = ("means", "scales", "quats", "opacities", "harmonics")
SIZE = (26, 38)

_look_at = jax.jit(look_at)


def make(means, scales, opacities, *, quats=None, harmonics=None, active=None, dtype=np.float32) -> Gaussians3D:
    """A set from anything that numpy reads; grey, without a rotation and active unless told otherwise."""
    means = np.asarray(means, dtype).reshape(-1, 3)
    n = len(means)
    quats = np.tile([1.0, 0, 0, 0], (n, 1)) if quats is None else quats
    harmonics = np.zeros((n, 1, 3)) if harmonics is None else harmonics
    return Gaussians3D(
        jnp.asarray(means),
        jnp.asarray(np.broadcast_to(np.asarray(scales, dtype), means.shape)),
        jnp.asarray(np.asarray(quats, dtype)),
        jnp.asarray(np.broadcast_to(np.asarray(opacities, dtype), (n,))),
        jnp.asarray(np.asarray(harmonics, dtype)),
        jnp.ones(n, bool) if active is None else jnp.asarray(active, bool),
    )


def random_set(seed: int, n: int, *, degree: int = 1, scales=(0.02, 0.3), opacities=(0.05, 1.0)) -> Gaussians3D:
    """Gaussians in a cube of side 3 around the origin."""
    rng = np.random.default_rng(seed)
    return make(
        rng.uniform(-1.5, 1.5, (n, 3)),
        np.exp(rng.uniform(*np.log(scales), (n, 3))),
        rng.uniform(*opacities, n),
        quats=rng.normal(size=(n, 4)),
        harmonics=0.4 * rng.normal(size=(n, (degree + 1) ** 2, 3)),
    )


def front_camera(*, size=SIZE, focal=30.0, center=(0.3, -0.5, -3.5), dtype=np.float32) -> Camera:
    """Looks at the origin."""
    camera = _look_at(jnp.array(center), jnp.zeros(3), jnp.array([0.0, -1.0, 0.0]), pinhole(focal, size))
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, dtype)), camera)


def parameters(gaussians: Gaussians3D) -> dict:
    """What a gradient is taken by."""
    return {name: getattr(gaussians, name) for name in FIELDS}


def with_parameters(gaussians: Gaussians3D, fields: dict) -> Gaussians3D:
    """Inverse of `parameters`."""
    return replace(gaussians, **fields)


def cast(tree, dtype):
    """The same with other floats (float64 inside `jax.enable_x64(True)`)."""

    def one(leaf):
        leaf = np.asarray(leaf)
        return jnp.asarray(leaf if leaf.dtype == bool else leaf.astype(dtype))

    return jax.tree.map(one, tree)


def stack(*cameras: Camera) -> Camera:
    """Cameras as one with a first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *cameras)


def scale_world(camera: Camera, factor) -> Camera:
    """The same camera in a world `factor` times as large."""
    return replace(camera, translation=camera.translation * factor)
