"""Refinement of real scenes that training has not seen: prediction and refinement against from scratch.

python -m eval.main foresplat_real --scenes SCENE ...
"""

from airjax.scene.task import MANY_VIEWS
from eval.curves import SCRATCH, Curves, Start
from eval.scene.subjects import RealScenes

EXPECTED = (
    "folders of the scenes fern (LLFF), fox (instant-ngp), lego (NeRF synthetic), castle-P30, fountain-P11, entry-P10 "
    "(Strecha) and redkitchen (7-Scenes), or of your own, as `airjax reconstruct` reads them"
)


def evaluation() -> Curves:
    """Every 8th view, or the test views, held out."""
    return Curves(
        name="foresplat_real",
        description="refinement of real scenes, 256 pixels",
        subjects=RealScenes(expected=EXPECTED),
        starts=(Start("shipped", ("",), MANY_VIEWS), Start("from points", (SCRATCH,), MANY_VIEWS)),
        steps=(0,),
        seconds=(2, 10, 60),
        compared=(0,),
    )
