"""Long refinement of procedural scenes: 2,000 steps from vanilla training and from MetaGrad.

python -m train.main foresplat_metagrad --data.folders PHOTOGRAPHS --variant NAME
python -m eval.main foresplat_long --images FOLDER

NAME is zero_step, multi_anchor and meta_sgd.
"""

from dataclasses import replace

from eval.configs.foresplat import SCENES
from eval.configs.foresplat_metagrad import files
from eval.curves import Curves, Start


def evaluation() -> Curves:
    """The first 12 of the test scenes; the first seed of every variant."""
    names = {"vanilla": "zero_step", "multi_anchor": "multi_anchor", "meta_sgd": "meta_sgd"}
    return Curves(
        name="foresplat_long",
        description="long refinement of procedural scenes, two views of 64x64",
        subjects=replace(SCENES, num_scenes=12),
        starts=tuple(Start(name, files(variant)[:1]) for name, variant in names.items()),
        steps=(0, 20, 50, 100, 200, 500, 1000, 2000),
        compared=(0, 200, 500, 1000, 2000),
    )
