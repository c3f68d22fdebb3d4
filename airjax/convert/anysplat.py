"""Names of the weights of AnySplat, and of what VGGT has of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from airjax.convert.dino import encoder_rules
from airjax.convert.names import Rule, Table
from airjax.convert.system import Plan, Shapes, System
from airjax.scene.anysplat import AnySplatConfig, init_params
from airjax.scene.unposed import METADATA, AnySplatSystem, system_to_text


def head_rules(ours: str, theirs: str, *, image: bool) -> tuple[Rule, ...]:
    """Of an `airjax.nn.dpt.Head` at a path; `image` as in `HeadConfig`."""
    ours, theirs = (f"{ours}/" if ours else ""), (f"{theirs}." if theirs else "")
    scratch = f"{theirs}scratch"
    rules = [
        ("trunk/norm", f"{theirs}norm"),
        ("reduce", f"{scratch}.output_conv1"),
        ("hidden", f"{scratch}.output_conv2.0"),
        ("last", f"{scratch}.output_conv2.2"),
    ]
    rules += [("image", f"{theirs}input_merger.0")] if image else []
    for i in range(4):
        rules += [
            (f"trunk/project{i}", f"{theirs}projects.{i}"),
            (f"trunk/resize{i}", f"{theirs}resize_layers.{i}"),
            (f"trunk/adapt{i}", f"{scratch}.layer{i + 1}_rn"),
            (f"trunk/fuse{i}/unit1", f"{scratch}.refinenet{i + 1}.resConfUnit1"),
            (f"trunk/fuse{i}/unit2", f"{scratch}.refinenet{i + 1}.resConfUnit2"),
            (f"trunk/fuse{i}/out", f"{scratch}.refinenet{i + 1}.out_conv"),
        ]
    return tuple(Rule(ours + our, their) for our, their in rules)


def anysplat_table(config: AnySplatConfig) -> Table:
    """Of the weights of `airjax.scene.anysplat`, under the names of the released file."""
    pairs, first = [], 0
    for i, count in enumerate(config.network.counts):
        for ours, theirs in (("frame", "frame_blocks"), ("global_", "global_blocks")):
            pairs.append(Rule(f"aggregator/pairs/pairs{i}/{ours}", f"encoder.aggregator.{theirs}.{{}}", first))
        first += count
    camera = {
        "token_norm": "token_norm",
        "trunk/stack/block": "trunk.{}",
        "norm": "trunk_norm",
        "nothing": "empty_pose_tokens",
        "embed": "embed_pose",
        "modulate": "poseLN_modulation.1",
        "mlp": "pose_branch",
    }
    rules = (
        Rule("aggregator/camera_token", "encoder.aggregator.camera_token"),
        Rule("aggregator/register_token", "encoder.aggregator.register_token"),
        *encoder_rules(config.network.encoder, "aggregator/encoder", "encoder.aggregator.patch_embed"),
        *pairs,
        *(Rule(f"camera/{ours}", f"encoder.camera_head.{theirs}") for ours, theirs in camera.items()),
        *head_rules("depth", "encoder.depth_head", image=False),
        *head_rules("gaussians", "encoder.gaussian_param_head", image=True),
    )
    return Table(rules, (r"encoder\.distill_.*", r"encoder\.aggregator\.patch_embed\.mask_token"))


def _plan(_: Shapes, __: Mapping[str, Any]) -> Plan:
    """There is one size."""
    config = AnySplatConfig()
    like = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    return Plan(like, anysplat_table(config), {METADATA: system_to_text(AnySplatSystem(config))})


SYSTEMS = (
    System(
        "anysplat",
        "AnySplat",
        ("encoder.aggregator.camera_token", "encoder.gaussian_param_head.norm.weight"),
        _plan,
        "said to be MIT, but made from VGGT-1B, whose weights are CC BY-NC 4.0: not for commercial use",
    ),
)
