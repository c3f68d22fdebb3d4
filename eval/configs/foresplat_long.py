"""Long refinement of procedural scenes: 2,000 steps from vanilla training and from MetaGrad.

python -m eval.main foresplat_long --images FOLDER --runs runs/foresplat_metagrad_sweep

The runs are those of `foresplat_metagrad.py`.
"""

from dataclasses import replace

from eval.configs import foresplat_metagrad
from eval.curves import Curves


def evaluation() -> Curves:
    """The first 12 of the test scenes."""
    base = foresplat_metagrad.evaluation()
    return replace(
        base,
        name="foresplat_long",
        description="long refinement of procedural scenes, two views of 64x64",
        subjects=replace(base.subjects, num_scenes=12),
        rates=(("", None),),
        steps=(0, 20, 50, 100, 200, 500, 1000, 2000),
        compared=(0, 200, 500, 1000, 2000),
    )
