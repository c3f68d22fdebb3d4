"""Networks of others with seeded weights give what independent implementations gave (`tests/golden/parity/make.py`)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from airjax.convert.air import air_table
from airjax.convert.anysplat import head_rules
from airjax.convert.dino import encoder_rules
from airjax.convert.names import Rule, Table, converted
from airjax.nn.air_stage import AirnetConfig, predictor_of
from airjax.nn.airnet import class_token
from airjax.nn.dpt import Head, HeadConfig, TrunkConfig, one_by_one
from airjax.nn.rope import axial_periods, grid_angles
from airjax.nn.vit import Block, BlockConfig, Encoder, EncoderConfig
from tests.helpers import parity

BOUND = 1e-5  # relative to the largest value

V2 = EncoderConfig(BlockConfig(64, 2, layer_scale=1.0), 14, (4,))
V3 = EncoderConfig(BlockConfig(128, 2, epsilon=1e-5, layer_scale=1e-5), 16, (2, 2), positions=None)


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


GAINS = Rule("ls1", "ls1.gamma"), Rule("ls2", "ls2.gamma")
BLOCK = (*(Rule(name, name) for name in ("norm1", "attn", "norm2", "mlp")), *GAINS)


def test_block_of_vggt():
    tensors, outputs = parity.load("vggt_block")
    x, angles = jnp.asarray(parity.tokens(0, 2, 13, 64)), grid_angles((3, 4), 32, special=1)
    module = Block(BlockConfig(64, 2, epsilon=1e-5, qk_epsilon=1e-5, layer_scale=0.01))
    params = params_of(module, Table(BLOCK), tensors, x, angles)
    assert parity.error(module.apply({"params": params}, x, angles), outputs["tokens"]) < BOUND


TRUNK = TrunkConfig(channels=(16, 32, 64, 64), features=32)


@pytest.mark.parametrize("name", ["dpt", "dpt_raw"])
def test_depth_head_of_vggt(name):
    tensors, outputs = parity.load(name)
    taps = [jnp.asarray(parity.tokens(i, 2, 20, 48)) for i in range(4)]
    images = jnp.zeros((2, 56, 70, 3))
    config = HeadConfig(2, trunk=dataclasses.replace(TRUNK, relu_skip=name == "dpt"))
    params = params_of(Head(config), Table(head_rules("", "", image=False)), tensors, taps, images)
    raw = one_by_one(lambda *view: Head(config).apply({"params": params}, *view), taps, images)
    assert parity.error(jnp.exp(raw[..., 0]), outputs["depth"]) < BOUND
    assert parity.error(1 + jnp.exp(raw[..., 1]), outputs["confidence"]) < BOUND


AIR = AirnetConfig(128, 2, (2, 2), (48, 32, 24, 16, 8), features=12)


def check_air_head(tensors, outputs):
    """Keys have no bias: one way of its files to say so is a mask, and another a mask that holds no numbers."""
    for i, mask in enumerate([[1, 0, 1], [np.nan] * 3, [1, 0, 1], [1, 0, 1]]):
        name = f"gaussian_heads.0.encoder.backbone.blocks.{i}.attn.qkv.bias"
        tensors[f"{name}_mask"] = np.repeat(np.array(mask, np.float32), 128)
    tensors["gaussian_heads.0.encoder.backbone.rope_embed.periods"] = axial_periods(64)
    predictor = predictor_of(AIR, 7)
    like = {"stage0": jax.eval_shape(predictor.init, jax.random.key(0))}
    params = jax.tree.map(jnp.asarray, converted(tensors, like, air_table(AIR), source="golden"))["stage0"]
    residual = jnp.asarray(parity.images(1, 101, 139)[0] - np.float32(0.375))
    errors = (
        parity.error(predictor.apply(params, residual), outputs["raw"]),
        parity.error(class_token(params, residual, config=AIR), outputs["token"]),
    )
    assert max(errors) < 4e-6, errors


def test_air_head():
    check_air_head(*parity.load("air_head"))


def test_air_head_against_the_packages_themselves():
    for name in ("torch", "transformers", "moge"):
        pytest.importorskip(name)
    from tests.golden.parity import make

    shapes, outputs = make.run("air_head")
    check_air_head({name: parity.seeded(name, shape) for name, shape in shapes.items()}, outputs)
