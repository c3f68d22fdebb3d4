"""Pi3X: a small one equals what independent packages made of seeded weights; sizes; rotations and their gradients."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from airjax.convert.names import converted
from airjax.convert.pi3 import pi3_table
from airjax.errors import AirjaxError
from airjax.nn import pi3
from airjax.nn.gaussian_head import EDGE_HEAD, GaussianHeadConfig, init_head
from airjax.nn.pi3 import Pi3Config, nearest_rotation
from airjax.nn.vit import BlockConfig, EncoderConfig, count_parameters
from tests.helpers import parity

BOUND = 1e-5  # relative to the largest value
HEAD = BlockConfig(64, 2)
DECODER = replace(HEAD, qk_epsilon=1e-5, layer_scale=0.01)
ENCODER = EncoderConfig(BlockConfig(64, 2, layer_scale=1.0), 14, (2,))
METRIC = {"metric": BlockConfig(32, 2), "metric_blocks": 2}
SMALL = Pi3Config(ENCODER, DECODER, (1, 1), HEAD, 2, (32, 32, 16), camera=32, **METRIC)


def weights(tensors, config):
    like = jax.eval_shape(lambda: pi3.init_params(jax.random.key(0), config))
    return jax.tree.map(jnp.asarray, converted(tensors, like, pi3_table(config), source="golden"))


def test_a_small_one_equals_independent_packages():
    tensors, outputs = parity.load("pi3")
    images = jnp.asarray(parity.images(3, 42, 56))
    found = jax.jit(lambda params: pi3.apply(params, images, SMALL))(weights(tensors, SMALL))
    assert parity.error(found.taps[0], outputs["tap"]) < BOUND
    assert parity.error(found.taps[1], outputs["tokens"]) < BOUND
    assert parity.error(found.points, outputs["points"]) < BOUND
    assert parity.error(found.confidence, outputs["confidence"]) < 10 * BOUND
    assert parity.error(found.translations, outputs["translations"]) < BOUND
    assert parity.error(found.metric, outputs["metric"]) < BOUND
    more = nearest_rotation(jnp.asarray(parity.seeded("matrices", (20, 3, 3))))
    assert parity.error(jnp.concatenate([found.rotations, more]), outputs["rotations"]) < BOUND


def test_the_branch_of_priors_is_known_and_left_out():
    tensors, _ = parity.load("pi3")
    tensors |= {"depth_emb": np.zeros((1, 1, 64)), "pose_inject_blk.0.norm1.weight": np.zeros(64)}
    weights(tensors, SMALL)
    with pytest.raises(AirjaxError, match=r"1 are not known: point_head\.extra"):
        weights(tensors | {"point_head.extra": np.zeros(3)}, SMALL)


@pytest.mark.parametrize(("config", "millions"), [(pi3.pi3x(), 992.465329), (pi3.edge(), 606.153136)])
def test_numbers_of_weights(config, millions):
    assert count_parameters(lambda key: pi3.init_params(key, config)) == round(1e6 * millions)


@pytest.mark.parametrize(("config", "count"), [(GaussianHeadConfig(), 14_637_651), (EDGE_HEAD, 6_643_155)])
def test_numbers_of_weights_of_gaussian_heads(config, count):
    assert count_parameters(lambda key: init_head(key, config, 2048)) == count


def test_order_of_views_does_not_matter():
    config = pi3.small(32, 2, blocks=1, pairs=(1, 1))
    params = pi3.init_params(jax.random.key(0), config)
    images = jnp.asarray(parity.images(3, 16, 24))
    order = jnp.array([2, 0, 1])
    apply = jax.jit(lambda images: pi3.apply(params, images, config))
    one, other = apply(images), apply(images[order])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a[order], b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("width", "heads", "patch"), [(64, 4, 8), (100, 5, 6), (24, 2, 14)])
def test_small_ones_of_any_width_and_patch(width, heads, patch):
    config = pi3.small(width, heads, patch=patch)
    images = jax.ShapeDtypeStruct((2, 3 * patch, 2 * patch, 3), jnp.float32)
    params = jax.eval_shape(lambda: pi3.init_params(jax.random.key(0), config))
    found = jax.eval_shape(lambda params, images: pi3.apply(params, images, config), params, images)
    assert found.points.shape == (2, 3 * patch, 2 * patch, 3) and found.metric is None
    assert [tap.shape for tap in found.taps] == [(2, 3, 2, 2 * width)] * 4


def test_products_in_16_bits_leave_weights_and_outputs_in_32():
    parts = {name: replace(getattr(SMALL, name), dtype="bfloat16") for name in ("decoder", "head", "metric")}
    encoder = replace(ENCODER, block=replace(ENCODER.block, dtype="bfloat16"))
    config, images = replace(SMALL, encoder=encoder, **parts), jax.ShapeDtypeStruct((2, 28, 42, 3), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):  # inside JAX's own attention
        params = jax.eval_shape(lambda: pi3.init_params(jax.random.key(0), config))
        found = jax.eval_shape(lambda params, images: pi3.apply(params, images, config), params, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, found))} == {jnp.dtype("float32")}


@pytest.mark.forbidden
def test_other_sizes_are_refused():
    config = pi3.small(32, 2, blocks=1, pairs=(1,))
    with pytest.raises(ValueError, match="multiples of 8, got 16 x 20"):
        jax.eval_shape(lambda: pi3.Pi3Network(config).init(jax.random.key(0), jnp.zeros((1, 16, 20, 3))))


def test_rotations_have_the_gradient_of_differences():
    def turn(matrices):
        return jnp.sum(nearest_rotation(jnp.asarray(matrices)) * jnp.arange(9.0).reshape(1, 3, 3))

    with jax.enable_x64(True):
        matrices = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 3)))
        check_grads(turn, (matrices,), order=1, modes=("rev",))


@pytest.mark.parametrize("matrix", [np.eye(3), np.zeros((3, 3)), np.ones((3, 3)), -np.eye(3)])
def test_rotations_and_gradients_are_finite_everywhere(matrix):
    matrices = jnp.asarray(matrix, jnp.float32)[None]
    found, back = jax.vjp(nearest_rotation, matrices)
    assert np.isfinite(found).all()
    assert np.isfinite(back(jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 3)), jnp.float32))[0]).all()
