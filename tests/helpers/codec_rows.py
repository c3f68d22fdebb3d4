"""Gaussians of a patch grid as networks give them, and their rounded rows."""

import jax
import numpy as np

from airjax.gaussians import Gaussians2D
from airjax.image.codec.quantise import amplitudes_of, quantise
from airjax.raster.tiles import patch_centers, patch_grid

P = 16
SIZE = (120, 200)
GRID = patch_grid(SIZE, P)
OPTIONS = {"patch_size": P, "columns": GRID[1]}
CODES = np.array([-24, -20, 4, 8, 6, 36])


def random_gaussians(seed: int) -> Gaussians2D:
    """One Gaussian per patch as networks give them: scales of 0.5 to 12 pixels, colours of all magnitudes up to 1."""
    rng, n = np.random.default_rng(seed), GRID[0] * GRID[1]
    magnitude = 10 ** rng.uniform(-3, 0, (n, 1))
    return Gaussians2D(
        (np.asarray(patch_centers(GRID, P)) + rng.uniform(-P, P, (n, 2))).astype(np.float32),
        np.exp(rng.uniform(np.log(0.5), np.log(12), (n, 2))).astype(np.float32),
        rng.uniform(-7, 7, n).astype(np.float32),
        (magnitude * rng.uniform(-1, 1, (n, 3))).astype(np.float32),
        np.ones(n, bool),
    )


def quantised(gaussians: Gaussians2D, codes=CODES):
    patches = np.arange(len(gaussians.means))
    return quantise(gaussians, patches, amplitudes_of(gaussians), codes=codes, **OPTIONS)


def select(gaussians: Gaussians2D, index) -> Gaussians2D:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], gaussians)
