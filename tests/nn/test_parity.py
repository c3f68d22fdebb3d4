"""Networks of others with seeded weights give what independent implementations gave (`tests/golden/parity/make.py`)."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from airjax.convert.dino import encoder_rules
from airjax.convert.names import Table, converted
from airjax.convert.pi3 import pi3_table
from airjax.nn.pi3 import Pi3Config, Pi3Network, nearest_rotation
from airjax.nn.rope import axial_periods
from airjax.nn.vit import BlockConfig, Encoder, EncoderConfig
from tests.helpers import parity

BOUND = 1e-5  # relative to the largest value

V2 = EncoderConfig(BlockConfig(64, 2, layer_scale=1.0), 14, (4,))
V3 = EncoderConfig(BlockConfig(128, 2, epsilon=1e-5, layer_scale=1e-5), 16, (2, 2), positions=None)

PI3_HEAD = BlockConfig(64, 2)
PI3_DECODER = replace(PI3_HEAD, qk_epsilon=1e-5, layer_scale=0.01)
PI3 = Pi3Config(
    EncoderConfig(BlockConfig(64, 2, layer_scale=1.0), 14, (2,)),
    PI3_DECODER,
    (1, 1),
    PI3_HEAD,
    2,
    (32, 32, 16),
    camera=32,
    metric=BlockConfig(32, 2),
    metric_blocks=2,
)


def params_of(module, table, tensors, *inputs):
    like = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]
    return jax.tree.map(jnp.asarray, converted(tensors, like, table, source="golden"))


def test_dino_v2():
    tensors, outputs = parity.load("dino_v2")
    images, module = jnp.asarray(parity.images(2, 56, 98)), Encoder(V2)
    params = params_of(module, Table(encoder_rules(V2, "", ""), ("mask_token",)), tensors, images)
    (tokens,) = module.apply({"params": params}, images)
    assert parity.error(tokens, outputs["tokens"]) < BOUND


def test_dino_v3():
    tensors, outputs = parity.load("dino_v3")
    tensors["rope_embed.periods"] = axial_periods(64)
    images, module = jnp.asarray(parity.images(2, 48, 80)), Encoder(V3)
    params = params_of(module, Table(encoder_rules(V3, "", ""), ("mask_token",)), tensors, images)
    middle, tokens = module.apply({"params": params}, images)
    assert parity.error(middle, outputs["middle"]) < BOUND
    assert parity.error(tokens, outputs["tokens"]) < BOUND


def test_pi3():
    tensors, outputs = parity.load("pi3")
    images, module = jnp.asarray(parity.images(3, 42, 56)), Pi3Network(PI3)
    params = params_of(module, pi3_table(PI3), tensors, images)
    found = jax.jit(module.apply)({"params": params}, images)
    assert parity.error(found.taps[0], outputs["tap"]) < BOUND
    assert parity.error(found.taps[1], outputs["tokens"]) < BOUND
    assert parity.error(found.points, outputs["points"]) < BOUND
    assert parity.error(found.confidence, outputs["confidence"]) < 10 * BOUND
    assert parity.error(found.translations, outputs["translations"]) < BOUND
    assert parity.error(found.metric, outputs["metric"]) < BOUND
    more = nearest_rotation(jnp.asarray(parity.seeded("matrices", (20, 3, 3))))
    assert parity.error(jnp.concatenate([found.rotations, more]), outputs["rotations"]) < BOUND
