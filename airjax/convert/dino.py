"""Names of the weights of image encoders."""

from __future__ import annotations

from airjax.convert.names import Rule
from airjax.nn.vit import EncoderConfig


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
