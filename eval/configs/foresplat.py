"""Refinement curves of the shipped scene predictor and from scratch, on procedural test scenes: 64 x 64, two views.

python -m eval.main --config eval/configs/foresplat.py
"""

from eval.scenes import SCRATCH, SceneRefinement, SceneStart


def evaluation() -> SceneRefinement:
    """64 scenes, up to 200 steps."""
    return SceneRefinement(
        name="foresplat",
        description="refinement of procedural scenes, two views of 64x64",
        starts=(SceneStart("shipped", ("",)), SceneStart("scratch", (SCRATCH,))),
        capacity=(24576, 2560),
    )
