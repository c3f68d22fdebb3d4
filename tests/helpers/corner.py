"""Photographs of the corner of a room with known cameras, made without JAX: three textured walls, cast by rays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates, zoom

SIZE, FOCAL, VIEWS = (192, 256), 230.0, 6
_TEXELS = 256


def look_at(center, target):
    """(rotation, translation), world to camera, y of the image down the z of the world."""
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return rotation, -rotation @ center


def cameras(count=VIEWS):
    """Poses around the corner, on an arc of some 50 degrees and at two heights."""
    angles = np.linspace(0.35, 1.22, count)
    centers = [np.array([4 * np.cos(a), 4 * np.sin(a), 1.6 + 0.5 * (i % 2)]) for i, a in enumerate(angles)]
    return [look_at(center, np.array([0.6, 0.6, 0.7])) for center in centers]


def textures(seed=0):
    """(3, s, s, 3) noise at several scales, in [0, 1]."""
    random = np.random.default_rng(seed)
    total = np.zeros((3, _TEXELS, _TEXELS, 3))
    for cells, weight in ((8, 0.2), (32, 0.3), (64, 0.3), (128, 0.2)):
        noise = random.random((3, cells, cells, 3))
        total += weight * zoom(noise, (1, _TEXELS // cells, _TEXELS // cells, 1), order=1)
    return np.clip(1.8 * total - 0.4, 0, 1)


def photograph(rotation, translation, walls, size=SIZE, focal=FOCAL):
    """(h, w, 3) uint8: the wall x = 0, y = 0 or z = 0 that each ray meets first, 4 units wide."""
    height, width = size
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    rays = np.stack([x / focal, y / focal, np.ones_like(x)], axis=-1) @ rotation
    center = -rotation.T @ translation
    with np.errstate(divide="ignore"):
        times = np.where(rays < 0, -center / rays, np.inf)
    axis = times.argmin(axis=-1)
    points = center + rays * times.min(axis=-1)[..., None]
    image = np.zeros((height, width, 3))
    for i in range(3):
        u, v = (points[..., j] * (_TEXELS / 4) for j in range(3) if j != i)
        colors = [map_coordinates(walls[i, :, :, c], [u, v], order=1, mode="mirror") for c in range(3)]
        image = np.where((axis == i)[..., None], np.stack(colors, axis=-1), image)
    return np.rint(255 * image).astype(np.uint8)


def write_photographs(folder: Path, *, count=VIEWS, size=SIZE, focal=FOCAL):
    """000.png, 001.png, .. in a folder; their poses."""
    folder.mkdir(parents=True, exist_ok=True)
    poses, walls = cameras(count), textures()
    for i, pose in enumerate(poses):
        Image.fromarray(photograph(*pose, walls, size, focal)).save(folder / f"{i:03d}.png")
    return poses


def similarity_error(found, known):
    """Largest difference of camera centers after the best similarity, in units of the spread of the known ones."""
    centers, targets = (np.array([-r.T @ t for r, t in poses]) for poses in (found, known))
    a, b = centers - centers.mean(axis=0), targets - targets.mean(axis=0)
    u, s, vt = np.linalg.svd(b.T @ a)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * np.diag(flip)).sum() / (a**2).sum()
    return float(np.abs(scale * a @ (u @ flip @ vt).T - b).max() / np.linalg.norm(b, axis=1).max())
