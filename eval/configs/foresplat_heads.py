"""Refinement curves of Gaussian heads on frozen Pi3X in the paper's protocol: 16 views of a scene, every 4th judged.

python -m eval.main foresplat_heads --backbone pi3x.safetensors --scenes SCENE ... --runs runs/foresplat_pi3x_*

The runs are those of `train/configs/foresplat_pi3x.py`; the reference is vanilla training (zero_step) for as many
iterations. A SCENE is a folder of 16 photographs or more, with poses or without.
"""

from airjax.scene.pi3 import PI3X
from eval.curves import Curves
from eval.scene.heads import SeenScenes
from train.scene.taps import Pi3System


def evaluation() -> Curves:
    """Up to 2,000 steps."""
    return Curves(
        name="foresplat_heads",
        description="refinement of what a head on frozen Pi3X predicts, 12 views of 224x224",
        subjects=SeenScenes(Pi3System(PI3X)),
        runs=("runs/foresplat_pi3x_*",),
        reference="zero_step",
        steps=(0, 200, 500, 1000, 2000),
        compared=(0, 200, 500, 1000, 2000),
    )
