"""Names of the weights of AIR's release, and what our weights file of them says.

A checkpoint of it (`ps_7.pt`, ..) holds, under "model", four heads of one network and, unless it is one from before
that training, the quantiser. Every head becomes a stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from airjax.convert.dino import encoder_rules
from airjax.convert.names import Rule, Table
from airjax.convert.system import Plan, Shapes, System
from airjax.image import air_quantiser
from airjax.image.presets import air_stages, stages_to_text
from airjax.image.stages import StageConfig, init_params
from airjax.nn.air_stage import AIRNET, AirnetConfig
from airjax.nn.airnet import DECODER, NECK, encoder_of

STAGES = 4
LICENCE = (
    "Weights of AIR's release, which states no licence of its own; they derive from DINOv3 ViT-B/16, so Meta's DINOv3"
    " License follows them (https://ai.meta.com/resources/models-and-libraries/dinov3-license/): pass them on only"
    " together with that agreement."
)
_HEADS, _CODEC = "gaussian_heads", "feed_forward_gaussian_codec"
_PATCHES = f"{_HEADS}.0.patch_embedding.patchify.conv.weight"
# Constants of the code that the file repeats, and a token of DINOv3's own training.
_UNUSED = (
    r"gaussian_heads\.\d+\.encoder\.image_(mean|std)",
    r"gaussian_heads\.\d+\.encoder\.backbone\.mask_token",
    r"feed_forward_gaussian_codec\.\w+_quantizer\.(bits_per_channel|qmin_per_channel|qmax_per_channel)",
)


def air_table(config: AirnetConfig = AIRNET) -> Table:
    """Where the weights of the heads, and of a quantiser, come from."""
    rules = [rule for i in range(STAGES) for rule in _head_rules(config, f"stage{i}", f"{_HEADS}.{i}")]
    rules += [Rule(f"quantiser/{part}", f"{_CODEC}.{part}_quantizer.offset_net") for part in air_quantiser.PARTS]
    return Table(tuple(rules), _UNUSED)


def _head_rules(config: AirnetConfig, ours: str, theirs: str) -> list[Rule]:
    rules = list(encoder_rules(encoder_of(config), f"{ours}/encoder", f"{theirs}.encoder.backbone"))
    for i in range(len(config.blocks)):
        rules.append(Rule(f"{ours}/project{i}", f"{theirs}.encoder.output_projections.{i}"))
    for part, name, counts in (("neck", "neck", NECK), ("decoder", "gaussian_feat_decoder", DECODER)):
        for i, count in enumerate(counts):
            rules.append(Rule(f"{ours}/{part}/input{i}", f"{theirs}.{name}.input_blocks.{i}"))
            double, resampler = f"{ours}/{part}/double{i}", f"{theirs}.{name}.resamplers.{i}"
            rules += [Rule(f"{double}/up", f"{resampler}.0"), Rule(f"{double}/conv", f"{resampler}.1")]
            for k in range(count):
                residual, layers = f"{ours}/{part}/residual{i}_{k}", f"{theirs}.{name}.res_blocks.{i}.{k}.layers"
                rules += [Rule(f"{residual}/conv1", f"{layers}.2"), Rule(f"{residual}/conv2", f"{layers}.5")]
    return [
        *rules,
        Rule(f"{ours}/pixels", f"{theirs}.gaussian_feat_decoder.output_blocks.{len(DECODER) - 1}"),
        Rule(f"{ours}/patches", f"{theirs}.patch_embedding.patchify.conv"),
        Rule(f"{ours}/norm", f"{theirs}.feat_layer_norm"),
        Rule(f"{ours}/head", f"{theirs}.gaussian_linear"),
    ]


def dino_v3_table(config: AirnetConfig = AIRNET) -> Table:
    """Where the weights of an encoder alone come from, DINOv3's own file: {"encoder": ..} starts a training."""
    return Table(encoder_rules(encoder_of(config), "encoder", ""), ("mask_token",))


def air_stages_of(shapes: Shapes) -> tuple[StageConfig, ...]:
    """The stages of a checkpoint of the release, with its patch size."""
    return air_stages(shapes[_PATCHES][-1], stretched_grid=True)


def air_shapes(stages: tuple[StageConfig, ...], *, quantiser: bool) -> dict[str, Any]:
    """Our weights of some stages as shapes, `like` of `airjax.convert.names.converted`; none is made."""

    def init(key):
        last = {"quantiser": air_quantiser.init_params(stages[-1].network)} if quantiser else {}
        return init_params(key, stages) | last

    return jax.eval_shape(init, jax.random.key(0))


def has_quantiser(shapes: Shapes) -> bool:
    """Whether a checkpoint has weights of the quantiser: those from before its training have none."""
    return any(f"{_CODEC}.{part}_quantizer.offset_net.weight" in shapes for part in air_quantiser.PARTS)


def air_metadata(stages: tuple[StageConfig, ...]) -> dict[str, str]:
    """What a weights file says of its network: what `airjax.image.model.load` needs, and the patch size."""
    return {"patch_size": str(stages[0].patch_map.patch_size), "stages": stages_to_text(stages)}


def _plan(shapes: Shapes, _: Mapping[str, Any]) -> Plan:
    """Of any patch size; with the quantiser where it is there."""
    stages = air_stages_of(shapes)
    like = air_shapes(stages, quantiser=has_quantiser(shapes))
    return Plan(like, air_table(), air_metadata(stages))


SYSTEMS = (System("air", "AIR", (f"{_HEADS}.0.encoder.backbone.cls_token", _PATCHES), _plan, LICENCE),)
