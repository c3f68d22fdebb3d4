"""Long refinement of procedural scenes: 2,000 steps from vanilla training and from MetaGrad.

python -m train.main --config train/configs/foresplat_metagrad.py --variant NAME
python -m eval.main --config eval/configs/foresplat_long.py

NAME is zero_step, multi_anchor and meta_sgd.
"""

from eval.configs.foresplat_metagrad import files
from eval.scenes import SceneRefinement, SceneStart


def evaluation() -> SceneRefinement:
    """The first 12 of the test scenes; the first seed of every variant."""
    return SceneRefinement(
        name="foresplat_long",
        description="long refinement of procedural scenes, two views of 64x64",
        starts=(
            SceneStart("vanilla", files("zero_step")[:1]),
            SceneStart("multi_anchor", files("multi_anchor")[:1]),
            SceneStart("meta_sgd", files("meta_sgd")[:1]),
        ),
        num_scenes=12,
        capacity=(24576, 2560),
        steps=(0, 20, 50, 100, 200, 500, 1000, 2000),
        compared=(0, 200, 500, 1000, 2000),
    )
