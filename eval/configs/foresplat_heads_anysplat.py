"""As `foresplat_heads.py`, of heads on frozen AnySplat.

python -m eval.main foresplat_heads_anysplat --backbone anysplat.safetensors --scenes SCENE ... \
    --runs runs/foresplat_anysplat_*
"""

from dataclasses import replace

from airjax.scene.anysplat import AnySplatConfig
from eval.configs import foresplat_heads
from eval.curves import Curves
from eval.scene.heads import SeenScenes
from train.scene.taps import AnySplatSystem


def evaluation() -> Curves:
    """Up to 2,000 steps."""
    return replace(
        foresplat_heads.evaluation(),
        name="foresplat_heads_anysplat",
        description="refinement of what a head on frozen AnySplat predicts, 12 views of 224x224",
        subjects=SeenScenes(AnySplatSystem(AnySplatConfig())),
        runs=("runs/foresplat_anysplat_*",),
    )
