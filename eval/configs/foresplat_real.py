"""Refinement of three real scenes that training has not seen: prediction and refinement against from scratch.

python -m eval.main --config eval/configs/foresplat_real.py
"""

from eval.scenes import SCRATCH, SceneRefinement, SceneStart


def evaluation() -> SceneRefinement:
    """fern, fox and lego, every 8th view (or the test views) held out."""
    return SceneRefinement(
        name="foresplat_real",
        description="refinement of fern, fox and lego, 256 pixels",
        starts=(SceneStart("shipped", ("",)), SceneStart("scratch", (SCRATCH,))),
        folders=tuple(f"../shared/data/scenes/{name}" for name in ("fern", "fox", "lego")),
        steps=(0, 10),
        seconds=(1, 2, 5, 10, 20, 60),
        compared=(0, 10),
    )
