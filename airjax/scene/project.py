"""3D Gaussians to splats on the image plane (EWA splatting; Zwicker et al., 2001), as gsplat and INRIA's code do it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from airjax.gaussians import CUTOFF, Gaussians3D
from airjax.raster.alpha import Splats
from airjax.scene.cameras import Camera, to_camera
from airjax.scene.harmonics import to_rgb
from airjax.scene.quaternions import rotations

BLOCK = 16  # pixels; side of the tiles of the other renderers, which decide where a Gaussian is drawn


@dataclass(frozen=True)
class Preset:
    """The constants on which renderers differ."""

    alpha_max: float = 0.999  # largest alpha of a Gaussian at a pixel
    stop: float = 1e-4  # a Gaussian that would leave no more transmittance than this is not drawn, and none behind it
    # A Gaussian is drawn only in the 16-pixel tiles that a box of three standard deviations of its longer axis touches.
    # The number is the least squared half difference of the two variances, pixels^4, for that axis. None to draw it
    # wherever its alpha is at least 1/255.
    three_sigma: float | None = None
    near: float = 0.01
    far: float = 1e10  # depths from near to far are drawn, both included, world units
    dilation: float = 0.3  # added to both variances on the image plane, pixels^2


# gsplat 1.5.3 is the default. The 3DGS code of INRIA keeps what leaves exactly 1e-4, and drops a depth of exactly 0.2.
PRESETS = {
    "gsplat": Preset(),
    "gsplat-1.4": Preset(three_sigma=0.01),
    "gsplat-1.6": Preset(alpha_max=0.99),
    "inria": Preset(
        alpha_max=0.99,
        stop=float(np.nextafter(np.float32(1e-4), np.float32(0))),
        three_sigma=0.1,
        near=float(np.nextafter(np.float32(0.2), np.float32(1))),
        far=math.inf,
    ),
}


def project(
    gaussians: Gaussians3D,
    camera: Camera,
    *,
    image_size: tuple[int, int],
    preset: Preset = PRESETS["gsplat"],
    antialiased: bool = False,
) -> Splats:
    """Splats of a set for one camera, front to back.

    Sigma = R S S^T R^T, Sigma' = J W Sigma W^T J^T + dilation I, with J the derivative of the projection at the mean,
    whose x / z and y / z are kept within the image and 15 % of it (30 % of the half width) around.

    Where `antialiased`, opacities are multiplied by sqrt(det / det with the dilation), so that small Gaussians do not
    gain light. The values of the n splats are (r, g, b, z). A Gaussian before the near plane, beyond the far one, or
    not finite is inactive, and has no gradient.
    """
    height, width = image_size
    visible = jax.lax.stop_gradient(_visible(gaussians, camera, preset))
    # Invisible slots are replaced before anything is computed: they can produce neither a NaN nor a gradient.
    in_front = (camera.center + camera.forward)[None]
    means = jnp.where(visible[:, None], gaussians.means, in_front)
    scales = jnp.where(visible[:, None], gaussians.scales, 0.0)
    quats = jnp.where(visible[:, None], gaussians.quats, 0.0)
    opacities = jnp.where(visible, gaussians.opacities, 0.0)
    harmonics = jnp.where(visible[:, None, None], gaussians.harmonics, 0.0)
    local = to_camera(camera, means)
    x, y, z = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2], local[:, 2]
    fx, fy, cx, cy = camera.intrinsics[0, 0], camera.intrinsics[1, 1], camera.intrinsics[0, 2], camera.intrinsics[1, 2]
    pixels = jnp.stack([fx * x + cx, fy * y + cy], axis=-1)

    x = _clamp(x, (-cx - 0.15 * width) / fx, (width - cx + 0.15 * width) / fx)
    y = _clamp(y, (-cy - 0.15 * height) / fy, (height - cy + 0.15 * height) / fy)
    # The two rows of J W R S: the Gaussian's principal axes, as long as its deviations, in pixels along x and y.
    axes = jnp.einsum("ij,njk->nik", camera.rotation, rotations(quats), precision="highest") * scales[:, None]
    row_x = (fx / z)[:, None] * (axes[:, 0] - x[:, None] * axes[:, 2])
    row_y = (fy / z)[:, None] * (axes[:, 1] - y[:, None] * axes[:, 2])
    xx, xy, yy = (jnp.sum(a * b, axis=-1) for a, b in ((row_x, row_x), (row_x, row_y), (row_y, row_y)))
    a, c = xx + preset.dilation, yy + preset.dilation
    # Of det = a c - xy^2 the part without the dilation is a squared cross product: it cannot come out negative.
    sharp = jnp.sum(jnp.square(jnp.cross(row_x, row_y)), axis=-1)
    det = sharp + preset.dilation * (xx + yy + preset.dilation)
    if antialiased:
        opacities = opacities * _safe_sqrt(sharp / det)
    factors = jnp.stack([jnp.sqrt(c / det), -xy / jnp.sqrt(c * det), 1 / jnp.sqrt(c)], axis=-1)
    rgb = to_rgb(harmonics, _safe_unit(means - camera.center[None]))
    values = jnp.concatenate([rgb, z[:, None]], axis=1)
    splats = Splats(pixels, factors, opacities, values, _half_extents(a, xy, c, opacities, preset), visible)
    order = jnp.argsort(jnp.where(visible, jax.lax.stop_gradient(z), jnp.inf), stable=True).astype(jnp.int32)
    return jax.tree.map(lambda leaf: leaf[order], splats)  # ties in the order of the set, invisible slots last


def _visible(gaussians: Gaussians3D, camera: Camera, preset: Preset) -> Bool[Array, " n"]:
    """Active, finite, and between the near and the far plane."""
    fields = (getattr(gaussians, name) for name in ("means", "scales", "quats", "opacities", "harmonics"))
    finite = [jnp.all(jnp.isfinite(field.reshape(gaussians.num_slots, -1)), axis=1) for field in fields]
    depth = jnp.dot(gaussians.means, camera.rotation[2], precision="highest") + camera.translation[2]
    return jnp.stack([gaussians.active, depth >= preset.near, depth <= preset.far, *finite]).all(axis=0)


def _half_extents(
    a: Float[Array, " n"], b: Float[Array, " n"], c: Float[Array, " n"], opacities: Float[Array, " n"], preset: Preset
) -> Float[Array, "n 2"]:
    """Half width and height of the box in which a splat with the covariance [[a, b], [b, c]] is drawn."""
    a, b, c, opacities = jax.lax.stop_gradient((a, b, c, opacities))
    if preset.three_sigma is not None:
        longer = 0.5 * (a + c) + jnp.sqrt(jnp.maximum(preset.three_sigma, jnp.square(0.5 * (a - c)) + jnp.square(b)))
        radius = jnp.ceil(3.0 * jnp.sqrt(longer))
        return jnp.stack([radius, radius], axis=-1)
    reach = jnp.sqrt(2.0 * jnp.maximum(jnp.log(jnp.maximum(opacities, 1e-30) / CUTOFF), 0.0))
    return reach[:, None] * jnp.sqrt(jnp.stack([a, c], axis=-1))


def _clamp(x, low, high):
    """x within bounds; no gradient beyond them."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def _safe_sqrt(x):
    """Square root of x >= 0 with no gradient at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _safe_unit(vectors: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """Vectors of length 1; 0 for 0."""
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return jnp.where(squared > 0, vectors * jax.lax.rsqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
