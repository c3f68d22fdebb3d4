"""Refinement curves of the shipped scene predictor and from scratch, on procedural test scenes: 64 x 64, two views.

python -m eval.main foresplat --images FOLDER
"""

from airjax.scene.task import Coordinates
from eval.curves import SCRATCH, Curves, Start
from eval.scene.subjects import ProceduralScenes

# What meta_sgd learned with the weights. The weights file has larger ones, for scenes of many photographs.
TWO_VIEWS = Coordinates(means=7.1e-4, log_scales=1.43e-3, quats=4.4e-4, logits=1.6e-2, base=1.22e-3, rest=1.25e-4)
STEPS = (0, 5, 10, 20, 50, 100, 128, 200)
SCENES = ProceduralScenes(capacity=(24576, 2560))


def evaluation() -> Curves:
    """64 scenes, up to 200 steps."""
    return Curves(
        name="foresplat",
        description="refinement of procedural scenes, two views of 64x64",
        subjects=SCENES,
        starts=(Start("shipped", ("",), TWO_VIEWS), Start("scratch", (SCRATCH,))),
        steps=STEPS,
        compared=(0, 50, 200),
    )
