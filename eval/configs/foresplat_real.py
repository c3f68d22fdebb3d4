"""Refinement of real scenes that training has not seen: prediction and refinement against from scratch.

python -m eval.main --config eval/configs/foresplat_real.py
"""

import jax

from airjax.scene.refinement import RATES
from eval.scenes import SCRATCH, SceneRefinement, SceneStart

SCENES = ("fern", "fox", "lego", "castle_p30", "fountain_p11", "entry_p10", "redkitchen")


def evaluation() -> SceneRefinement:
    """Every 8th view, or the test views, held out."""
    return SceneRefinement(
        name="foresplat_real",
        description="refinement of real scenes, 256 pixels",
        starts=(
            SceneStart("shipped", ("",)),
            SceneStart("scratch", (SCRATCH,)),
            SceneStart("scratch, rates x 4", (SCRATCH,), jax.tree.map(lambda rate: 4 * rate, RATES)),
        ),
        folders=tuple(f"../shared/data/scenes/{name}" for name in SCENES),
        steps=(0, 10),
        seconds=(1, 2, 5, 10, 20, 60),
        compared=(0, 10),
    )
