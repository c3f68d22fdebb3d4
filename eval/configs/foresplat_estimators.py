"""Estimators of the outer gradient beside the exact one on procedural scenes.

python -m eval.main --config eval/configs/foresplat_estimators.py
"""

from eval.scene_estimators import SceneEstimators


def evaluation() -> SceneEstimators:
    """Cosine, also by group of coordinates, bias, variance, time and memory over the inner horizon."""
    return SceneEstimators(
        name="foresplat_estimators",
        description="outer gradients on procedural scenes, two views of 32x32",
        estimators=(
            "zero_step",
            "first_order",
            "multi_anchor",
            "budget",
            "reptile",
            "truncated",
            "implicit_cg",
            "es",
            "pes",
        ),
    )
