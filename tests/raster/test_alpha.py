"""The alpha kernel against the dense one, on splats of no camera (tests/scene/test_render.py has cameras)."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.raster.alpha import Splats, composite
from airjax.raster.dense import composite_dense
from airjax.raster.tiles import Tiling, sorted_lists

SIZE, N, CHANNELS = (21, 30), 60, 2
FIELDS = ("means", "factors", "opacities", "values")
OPTIONS = {"alpha_max": 0.9, "stop": 5e-2}


def random_splats(seed=0, scales=(0.7, 4.0)):
    rng = np.random.default_rng(seed)
    p, s = 1 / np.exp(rng.uniform(*np.log(scales), (2, N)))
    r = rng.uniform(-0.5, 0.5, N) * np.minimum(p, s)
    half = 3.4 * np.stack([np.hypot(1 / p, r / (p * s)), 1 / s], axis=1)  # of the ellipse at the cut-off
    fields = rng.uniform(-2, 33, (N, 2)), np.stack([p, r, s], 1), rng.uniform(0.1, 1, N), rng.normal(size=(N, CHANNELS))
    return Splats(*(jnp.asarray(a, jnp.float32) for a in (*fields, half)), jnp.asarray(np.arange(N) % 7 != 3))


@dataclass(frozen=True)
class Sparse:
    """The fast kernel as a function of splats alone."""

    tile_size: int = 8
    any_order: bool = False

    def __call__(self, splats):
        tiling = Tiling(SIZE, self.tile_size)
        lists = sorted_lists(splats.footprints, tiling, capacity=4096)
        return composite(splats, lists, tiling, any_order=self.any_order, **OPTIONS)


dense = partial(composite_dense, image_size=SIZE, **OPTIONS)


@pytest.mark.parametrize("tile_size", [4, 16])
def test_equals_the_dense_kernel(tile_size):
    """On a set whose clamp, cut-off and stop are all reached."""
    splats = random_splats()
    expected, drawn = jax.jit(dense)(splats), jax.jit(Sparse(tile_size))(splats)
    np.testing.assert_allclose(drawn.values, expected.values, atol=1e-5)
    np.testing.assert_allclose(drawn.alpha, expected.alpha, atol=1e-5)
    assert float(expected.alpha.max()) >= OPTIONS["alpha_max"] and float(expected.alpha.min()) < 0.5
    on = jax.jit(partial(composite_dense, image_size=SIZE, alpha_max=OPTIONS["alpha_max"], stop=0.0))(splats)
    assert float(jnp.max(on.alpha - expected.alpha)) > 0.01


def test_gradients_equal_those_of_the_dense_kernel():
    splats = random_splats()
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(*SIZE, CHANNELS + 1)), jnp.float32)

    def loss(fields, draw):
        drawn = draw(splats._replace(**fields))
        return jnp.sum(weights * jnp.concatenate([drawn.values, drawn.alpha[..., None]], axis=-1))

    fields = {name: getattr(splats, name) for name in FIELDS}
    expected, own, plain = (
        jax.jit(jax.grad(partial(loss, draw=draw)))(fields) for draw in (dense, Sparse(), Sparse(any_order=True))
    )
    for gradient in (own, plain):
        for name in FIELDS:
            np.testing.assert_allclose(gradient[name], expected[name], atol=2e-4 * np.abs(expected[name]).max())
            np.testing.assert_array_equal(np.asarray(gradient[name])[3::7], 0)
