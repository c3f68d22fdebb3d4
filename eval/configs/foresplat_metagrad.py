"""Refinement curves of what each estimator made of the vanilla scene predictor, on procedural test scenes.

python -m train.main foresplat_metagrad --data.folders PHOTOGRAPHS --variant NAME --seed SEED
python -m eval.main foresplat_metagrad --images FOLDER

NAME is zero_step, multi_anchor and meta_sgd, SEED 0 and 1.
"""

from airjax.scene.task import RATES
from eval.configs.foresplat import SCENES, STEPS, TWO_VIEWS
from eval.curves import Curves, Start

SEEDS = (0, 1)


def files(variant: str) -> tuple[str, ...]:
    """What the training of a variant left, one for each seed."""
    return tuple(f"runs/foresplat_metagrad_{variant}_{seed}/weights.safetensors" for seed in SEEDS)


def evaluation() -> Curves:
    """64 scenes, up to 200 steps; vanilla is trained for as many iterations. The last two swap start and rates."""
    vanilla, multi_anchor, meta_sgd = map(files, ("zero_step", "multi_anchor", "meta_sgd"))
    return Curves(
        name="foresplat_metagrad",
        description="refinement of procedural scenes, two views of 64x64",
        subjects=SCENES,
        starts=(
            Start("vanilla", vanilla),
            Start("multi_anchor", multi_anchor),
            Start("meta_sgd", meta_sgd),
            Start("vanilla, learned rates", vanilla, TWO_VIEWS),
            Start("meta_sgd, rates of 3DGS", meta_sgd, RATES),
        ),
        steps=STEPS,
        compared=(0, 20, 50, 100, 200),
    )
