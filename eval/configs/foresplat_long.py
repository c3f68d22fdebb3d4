"""Long refinement of procedural scenes: 2,000 steps from vanilla training, from MetaGrad, and from scratch.

python -m train.main --config train/configs/foresplat_metagrad.py --variant NAME      (zero_step, and all below)
python -m eval.main --config eval/configs/foresplat_long.py
"""

from eval.scenes import SCRATCH, SceneRefinement, SceneStart

VARIANTS = ("multi_anchor", "meta_sgd")


def start(variant: str) -> SceneStart:
    """What the training of a variant left, with the inner rates that it learned, if it did."""
    file = f"runs/foresplat_metagrad_{variant}_0/weights.safetensors"
    return SceneStart("vanilla" if variant == "zero_step" else variant, (file,))


def evaluation() -> SceneRefinement:
    """The first 16 of the test scenes; the first seed of every variant."""
    return SceneRefinement(
        name="foresplat_long",
        description="long refinement of procedural scenes, two views of 64x64",
        starts=(*map(start, ("zero_step", *VARIANTS)), SceneStart("scratch", (SCRATCH,))),
        num_scenes=16,
        capacity=(24576, 2560),
        steps=(0, 20, 50, 100, 200, 500, 1000, 2000),
        compared=(0, 200, 500, 1000, 2000),
    )
