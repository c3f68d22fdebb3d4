"""Refinement curves of what each estimator made of the vanilla scene predictor, on procedural test scenes.

python -m train.sweep foresplat_metagrad --data.folders FOLDER --seeds 0 1 --grid variant=zero_step,meta_sgd
python -m eval.main foresplat_metagrad --images FOLDER --runs runs/foresplat_metagrad_sweep

The FOLDER of photographs is the same in both: one in ten of them is kept for the textures of test scenes.
"""

from airjax.scene.task import RATES
from eval.configs.foresplat import SCENES, STEPS, TWO_VIEWS
from eval.curves import Curves


def evaluation() -> Curves:
    """64 scenes, up to 200 steps; the reference is vanilla training (zero_step) for as many iterations.

    Each with the rates that it learned, with those that meta_sgd learned for the shipped weights, and with those of
    3DGS, where that is another start.
    """
    return Curves(
        name="foresplat_metagrad",
        description="refinement of procedural scenes, two views of 64x64",
        subjects=SCENES,
        runs=("runs/foresplat_metagrad_*",),
        reference="zero_step",
        rates=(("", None), ("learned rates", TWO_VIEWS), ("rates of 3DGS", RATES)),
        steps=STEPS,
        compared=(0, 20, 50, 100, 200),
    )
