"""Points where an optimization from scratch may begin that knows no scene.

Letters: p points, v views.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from airjax.scene.cameras import Camera


def random_points(
    rng: np.random.Generator, images: Float[np.ndarray, "v h w 3"], cameras: Camera, near: float, far: float, count: int
) -> tuple[Float[np.ndarray, "p 3"], Float[np.ndarray, "p 3"]]:
    """(points, colors) of `count` pixels drawn from all views, each at a depth drawn evenly in inverse depth."""
    views, height, width, _ = images.shape
    view, y, x = (rng.integers(side, size=count) for side in (views, height, width))
    depth = 1 / rng.uniform(1 / far, 1 / near, count)
    inverse = np.linalg.inv(np.asarray(cameras.intrinsics, float))[view]
    local = np.einsum("pij,pj->pi", inverse, np.stack([x + 0.5, y + 0.5, np.ones(count)], axis=1)) * depth[:, None]
    rotation, translation = (np.asarray(part, float)[view] for part in (cameras.rotation, cameras.translation))
    return np.einsum("pji,pj->pi", rotation, local - translation).astype(np.float32), images[view, y, x]
