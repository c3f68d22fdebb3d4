"""Refinement of real scenes that training has not seen: prediction and refinement against from scratch.

python -m eval.main foresplat_real --scenes SCENE ...
"""

import jax

from airjax.scene.task import RATES
from eval.curves import SCRATCH, Curves, Start
from eval.scene.subjects import RealScenes

EXPECTED = (
    "folders of the scenes fern (LLFF), fox (instant-ngp), lego (NeRF synthetic), castle-P30, fountain-P11, entry-P10 "
    "(Strecha) and redkitchen (7-Scenes), or of your own, as `airjax reconstruct` reads them"
)


def scratch(factor: int) -> Start:
    """Triangulated points with so many times the rates of 3DGS."""
    name = f"scratch, rates x {factor}" if factor > 1 else "scratch"
    return Start(name, (SCRATCH,), jax.tree.map(lambda rate: factor * rate, RATES))


def evaluation() -> Curves:
    """Every 8th view, or the test views, held out."""
    return Curves(
        name="foresplat_real",
        description="refinement of real scenes, 256 pixels",
        subjects=RealScenes(expected=EXPECTED),
        starts=(Start("shipped", ("",)), *map(scratch, (1, 4, 8))),
        steps=(0, 10),
        seconds=(1, 2, 5, 10, 20, 60),
        compared=(0, 10),
    )
