"""Names of the weights of Pi3X, as its authors publish them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax

from airjax.convert.dino import encoder_rules
from airjax.convert.names import Rule, Table
from airjax.convert.system import Plan, Shapes, System
from airjax.nn.pi3 import Pi3Config, init_params, pi3x
from airjax.scene.pi3 import PI3X
from airjax.scene.unposed import METADATA, Pi3System, system_to_text

# Constants, and the branch of known depths, rays and poses, which is not built here.
UNUSED = (r"image_mean", r"image_std", r"depth_encoder\..*", r"depth_emb", r"ray_embed\..*", r"pose_inject_blk\..*")


def pi3_table(config: Pi3Config) -> Table:
    """Of `airjax.nn.pi3.Pi3Network`; for sizes without an adapter, which nobody has published."""
    rules, first = [Rule("register_token", "register_token")], 0
    for i, count in enumerate(config.pairs):
        rules.append(Rule(f"decoder/pairs{i}/frame", "decoder.{}", first, 2))
        rules.append(Rule(f"decoder/pairs{i}/global_", "decoder.{}", first + 1, 2))
        first += 2 * count
    for name in ("point", "conf", "camera"):
        rules.append(Rule(f"{name}_decoder/blocks/stack/block", name + "_decoder.blocks.{}"))
        rules.append(Rule(f"{name}_decoder", f"{name}_decoder"))
    rules += _maps(config, "point_head", 2) + _maps(config, "conf_head", 1)
    for i in range(2):
        rules += [Rule(f"camera_head/residual{i}_{j}", f"camera_head.res_conv.{i}.res_conv{j + 1}") for j in range(3)]
        rules.append(Rule(f"camera_head/dense{i}", f"camera_head.more_mlps.{2 * i}"))
    rules += [Rule("camera_head/rotation", "camera_head.fc_rot"), Rule("camera_head/translation", "camera_head.fc_t")]
    metric = "metric_decoder"
    rules += [Rule(f"{metric}/metric_token", "metric_token"), Rule(f"{metric}/metric_head", "metric_head")]
    for part in ("q_proj", "k_proj", "v_proj", "proj"):
        rules.append(Rule(f"{metric}/stack/{part}", f"{metric}.blocks.{{}}.cross_attn.{part}"))
    rules += [Rule(f"{metric}/stack", metric + ".blocks.{}"), Rule(metric, metric)]
    return Table((*encoder_rules(config.encoder, "encoder", "encoder"), *rules), UNUSED)


def _maps(config: Pi3Config, name: str, outputs: int) -> list[Rule]:
    """Of an `airjax.nn.pi3.ConvHead`."""
    rules = []
    for i in range(len(config.widths)):
        theirs = f"{name}.upsample_blocks.{i}"
        rules += [Rule(f"{name}/up{i}/up", f"{theirs}.0.0"), Rule(f"{name}/up{i}/conv", f"{theirs}.0.1")]
        for j in range(config.residuals):
            for part, number in (("norm1", 0), ("conv1", 2), ("norm2", 3), ("conv2", 5)):
                rules.append(Rule(f"{name}/residual{i}_{j}/{part}", f"{theirs}.{j + 1}.layers.{number}"))
    for k in range(outputs):
        rules.append(Rule(f"{name}/hidden{k}", f"{name}.output_block.{k}.0"))
        rules.append(Rule(f"{name}/out{k}", f"{name}.output_block.{k}.2"))
    return rules


def _plan(_: Shapes, __: Mapping[str, Any]) -> Plan:
    """There is one size."""
    system = Pi3System(replace(PI3X, backbone=pi3x()))
    config = system.config.backbone
    like = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    return Plan(like, pi3_table(config), {METADATA: system_to_text(system)})


SYSTEMS = (
    System(
        "pi3x",
        "Pi3X",
        ("register_token", "metric_token", "decoder.0.norm1.weight", "metric_head.weight"),
        _plan,
        "CC BY-NC 4.0: not for commercial use; hand the weights on only under the same terms, naming their authors",
    ),
)
