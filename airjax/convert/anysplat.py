"""Names of the weights of AnySplat, and of what VGGT has of it."""

from __future__ import annotations

from airjax.convert.names import Rule


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
