"""AnySplat beside an independent implementation of it, run here; needs the packages of the extra `parity`."""

from __future__ import annotations

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.convert.anysplat import anysplat_table
from airjax.convert.names import converted
from airjax.gaussians import only_active
from airjax.nn.vggt import vggt_networks
from airjax.scene import anysplat
from tests.helpers import parity
from tests.helpers.small_anysplat import SMALL

pytest.importorskip("torch")
if find_spec("ffgs") is None:
    pytest.skip("ffgs is not installed", allow_module_level=True)

BOUND = 1e-5  # relative to the largest value


def test_every_pixel_and_every_gaussian():
    """All maps, and the Gaussians fused of the other's points: one that crosses a voxel's border changes much."""
    from tests.golden.parity import make

    make.declare_operators()
    shapes, theirs = make.anysplat_whole()
    tensors = {name: parity.seeded(name, shape) for name, shape in shapes.items()}
    like = jax.eval_shape(lambda: anysplat.init_params(jax.random.key(0), SMALL))
    params = jax.tree.map(jnp.asarray, converted(tensors, like, anysplat_table(SMALL), source="oracle"))

    @jax.jit
    def run(params, images):
        found = anysplat.geometry(params, images, config=SMALL)
        return found, vggt_networks(SMALL.network).gaussians(params, found.taps, images)

    found, numbers = run(params, jnp.asarray(parity.images(3, 42, 56)))
    assert difference(found.poses, theirs["poses"]) < BOUND
    assert difference(found.depths, theirs["depths"]) < BOUND
    assert difference(found.points, theirs["points"]) < BOUND
    assert difference(numbers, theirs["numbers"]) < BOUND
    fused = anysplat.gaussians_of(jnp.asarray(theirs["points"]), jnp.asarray(theirs["numbers"]), voxel=SMALL.voxel)
    gaussians = only_active(fused)
    assert len(gaussians.means) == len(theirs["means"])
    assert difference(gaussians.means, theirs["means"]) < BOUND
    assert difference(gaussians.scales, theirs["scales"]) < BOUND
    assert difference(gaussians.quats[:, [1, 2, 3, 0]], theirs["rotations"]) < BOUND
    assert difference(gaussians.opacities, theirs["opacities"]) < BOUND
    assert difference(gaussians.harmonics.swapaxes(1, 2), theirs["harmonics"]) < BOUND


def difference(ours, theirs) -> float:
    """Largest difference, relative to the largest value."""
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max())
