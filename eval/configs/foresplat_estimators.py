"""Estimators of the outer gradient beside the exact one on procedural scenes.

python -m eval.main foresplat_estimators --images FOLDER
"""

from airjax.scene.task import RATES
from eval.configs.metagrad_estimators import NAMES
from eval.estimators import Estimators
from eval.scene.subjects import ProceduralScenes


def evaluation() -> Estimators:
    """Cosine, also by group of coordinates, bias, variance, time and memory over the inner horizon."""
    return Estimators(
        name="foresplat_estimators",
        description="outer gradients on procedural scenes, two views of 32x32",
        subjects=ProceduralScenes(num_scenes=8, image_size=(32, 32)),
        estimators=tuple(name for name in NAMES if name != "implicit_neumann"),
        rates=RATES,
    )
