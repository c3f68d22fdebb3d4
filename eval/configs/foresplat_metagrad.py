"""Refinement curves of what each estimator made of the vanilla scene predictor, on procedural test scenes.

python -m train.main --config train/configs/foresplat_metagrad.py --variant NAME --seed SEED      (all below)
python -m eval.main --config eval/configs/foresplat_metagrad.py
"""

from eval.scenes import SceneRefinement, SceneStart

SEEDS = (0, 1)
VARIANTS = ("meta_sgd",)


def start(variant: str) -> SceneStart:
    """What the training of a variant left, with the inner rates that it learned, if it did."""
    files = tuple(f"runs/foresplat_metagrad_{variant}_{seed}/weights.safetensors" for seed in SEEDS)
    return SceneStart("vanilla" if variant == "zero_step" else variant, files)


def evaluation() -> SceneRefinement:
    """64 scenes, up to 200 steps; vanilla is trained for as many iterations."""
    return SceneRefinement(
        name="foresplat_metagrad",
        description="refinement of procedural scenes, two views of 64x64",
        starts=tuple(start(variant) for variant in ("zero_step", *VARIANTS)),
        capacity=(24576, 2560),
        compared=(0, 20, 50, 100, 200),
    )
