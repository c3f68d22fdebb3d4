"""3D Gaussians to an image in numpy float64, one formula at a time: the oracle of the alpha renderer."""

from __future__ import annotations

import math

import numpy as np

FIELDS = ("means", "scales", "quats", "opacities", "harmonics")


def rotation(quat):
    """By the formula q v q* for each axis."""
    w, *v = np.asarray(quat, float) / np.linalg.norm(quat)
    v = np.array(v)
    return np.stack([e + 2 * np.cross(v, np.cross(v, e) + w * e) for e in np.eye(3)], axis=1)


def legendre(degree, order, t):
    """Associated Legendre function with the Condon-Shortley phase, by recurrence."""
    value = np.prod(np.arange(1, 2 * order, 2), dtype=float) * (-1) ** order * np.sqrt(1 - t * t) ** order
    previous = 0.0
    for k in range(order + 1, degree + 1):
        value, previous = ((2 * k - 1) * t * value - (k + order - 1) * previous) / (k - order), value
    return value


def harmonics(direction, degree):
    """Real spherical harmonics from their definition in angles."""
    x, y, z = direction
    phi = math.atan2(y, x)
    out = []
    for d in range(degree + 1):
        for m in range(-d, d + 1):
            a = abs(m)
            scale = math.sqrt((2 * d + 1) / (4 * math.pi) * math.factorial(d - a) / math.factorial(d + a))
            angle = 1.0 if m == 0 else math.sqrt(2) * (math.sin(a * phi) if m < 0 else math.cos(a * phi))
            out.append(scale * angle * legendre(d, a, z))
    return np.array(out)


def render_exact(gaussians, camera, *, image_size, preset, background=(0, 0, 0), antialiased=False):
    """(image, alpha, depth) by plain loops over Gaussians from front to back."""
    height, width = image_size
    fields = {name: np.asarray(getattr(gaussians, name), np.float64) for name in FIELDS}
    k, r, t = (np.asarray(x, np.float64) for x in (camera.intrinsics, camera.rotation, camera.translation))
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    px, py = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    left, image = np.ones(image_size), np.zeros((*image_size, 3))
    alpha_sum, depth = np.zeros(image_size), np.zeros(image_size)
    done = np.zeros(image_size, bool)
    local = fields["means"] @ r.T + t
    for i in np.argsort(local[:, 2], kind="stable"):
        x, y, z = local[i]
        if not gaussians.active[i] or not preset.near <= z <= preset.far:
            continue
        tan = np.array([width / (2 * fx), height / (2 * fy)])
        low = -np.array([cx / fx, cy / fy]) - 0.3 * tan
        high = np.array([(width - cx) / fx, (height - cy) / fy]) + 0.3 * tan
        tx, ty = np.clip([x / z, y / z], low, high) * z
        jacobian = np.array([[fx / z, 0, -fx * tx / z**2], [0, fy / z, -fy * ty / z**2]])
        axes = rotation(fields["quats"][i]) * fields["scales"][i]
        sharp = jacobian @ r @ axes @ axes.T @ r.T @ jacobian.T
        covar = sharp + preset.dilation * np.eye(2)
        opacity = fields["opacities"][i]
        if antialiased:
            opacity *= math.sqrt(max(0.0, np.linalg.det(sharp) / np.linalg.det(covar)))
        conic = np.linalg.inv(covar)
        u, v = fx * x / z + cx, fy * y / z + cy
        dx, dy = px - u, py - v
        alpha = opacity * np.exp(-0.5 * (conic[0, 0] * dx * dx + 2 * conic[0, 1] * dx * dy + conic[1, 1] * dy * dy))
        if preset.three_sigma is not None:
            low, high = np.linalg.eigvalsh(covar)
            half = max(((high - low) / 2) ** 2, preset.three_sigma) ** 0.5
            radius = math.ceil(3 * math.sqrt((low + high) / 2 + half))
            for p, m in ((px, u), (py, v)):
                tile = np.floor(p / 16)
                alpha[(tile < np.floor((m - radius) / 16)) | (tile >= np.ceil((m + radius) / 16))] = 0
        alpha = np.minimum(alpha, preset.alpha_max)
        alpha[alpha < 1 / 255] = 0
        behind = left * (1 - alpha)
        done |= (alpha > 0) & (behind <= preset.stop)
        weight = np.where(done, 0, left * alpha)
        left = np.where(done, left, behind)
        direction = fields["means"][i] + r.T @ t
        degree = math.isqrt(fields["harmonics"].shape[1]) - 1
        functions = harmonics(direction / np.linalg.norm(direction), degree)
        image += weight[..., None] * np.maximum(functions @ fields["harmonics"][i] + 0.5, 0)
        alpha_sum += weight
        depth += weight * z
    return image + (1 - alpha_sum)[..., None] * np.asarray(background, float), alpha_sum, depth
