"""DINOv2 with registers and DINOv3: the names of their weights, and their own files as systems."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from airjax.config_text import config_to_text
from airjax.convert.names import Rule, Table
from airjax.convert.system import Plan, Shapes, System
from airjax.errors import AirjaxError
from airjax.nn.vit import BlockConfig, Encoder, EncoderConfig

_HEAD = 64  # channels of an attention head in all of them


def encoder_rules(config: EncoderConfig, ours: str, theirs: str) -> tuple[Rule, ...]:
    """Of an `airjax.nn.vit.Encoder` that lies at a path; DINOv2 and DINOv3 under their official names."""
    ours, theirs = (f"{ours}/" if ours else ""), (f"{theirs}." if theirs else "")
    registers = "storage_tokens" if config.positions is None else "register_tokens"
    blocks, first = [], 0
    for i, count in enumerate(config.counts):
        blocks.append(Rule(f"{ours}blocks{i}/stack/block", theirs + "blocks.{}", first))
        first += count
    return (
        Rule(f"{ours}cls_token", f"{theirs}cls_token"),
        Rule(f"{ours}registers", theirs + registers),
        Rule(f"{ours}positions", f"{theirs}pos_embed"),
        Rule(f"{ours}periods", f"{theirs}rope_embed.periods"),
        Rule(f"{ours}patch_embed", f"{theirs}patch_embed.proj"),
        Rule(f"{ours}norm", f"{theirs}norm"),
        *blocks,
    )


def encoder_config(shapes: Shapes, theirs: str) -> EncoderConfig:
    """Of an encoder whose weights lie under a name; one of DINOv3 is seen after half of its blocks and at its end.

    Raises AirjaxError: its patches are not those of an encoder.
    """
    prefix = f"{theirs}." if theirs else ""
    match shapes.get(patches := f"{prefix}patch_embed.proj.weight"):
        case (width, 3, patch, _) if width % _HEAD == 0 < width * patch:
            pass
        case shape:
            raise AirjaxError(
                f"{patches}: expected the shape (width, 3, side, side), width / {_HEAD} whole, got {shape}"
            )
    blocks = sum(name.startswith(f"{prefix}blocks.") and name.endswith(".norm1.weight") for name in shapes)
    if (positions := shapes.get(f"{prefix}pos_embed")) is None:
        block = BlockConfig(width, width // _HEAD, epsilon=1e-5, layer_scale=1e-5)
        half = blocks // 2
        return EncoderConfig(block, patch, (half, blocks - half) if half else (blocks,), positions=None)
    block = BlockConfig(width, width // _HEAD, layer_scale=1.0)
    return EncoderConfig(block, patch, (blocks,), math.isqrt(max(math.prod(positions[:-1]) - 1, 0)))


def _plan(shapes: Shapes, _: Mapping[str, Any]) -> Plan:
    config = encoder_config(shapes, "")
    metadata = {"encoder": config_to_text(config)}
    return Plan(_like(config), Table(encoder_rules(config, "", ""), ("mask_token",)), metadata)


@cache
def _like(config: EncoderConfig) -> Any:
    """Shapes of the weights of an encoder."""
    images = jax.ShapeDtypeStruct((1, config.patch, config.patch, 3), jnp.float32)
    return jax.eval_shape(lambda x: Encoder(config).init(jax.random.key(0), x), images)["params"]


SYSTEMS = (
    System(
        "dinov3",
        "DINOv3",
        ("cls_token", "storage_tokens", "rope_embed.periods", "blocks.0.norm1.weight"),
        _plan,
        "DINOv3 License of Meta: agree to it where you download; hand the weights on only with that agreement; "
        "no military use",
    ),
    System(
        "dinov2",
        "DINOv2 with registers",
        ("cls_token", "register_tokens", "pos_embed", "blocks.0.norm1.weight"),
        _plan,
        "Apache-2.0: free for any use, with its notices kept",
    ),
)
