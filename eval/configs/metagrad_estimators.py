"""Estimators of the outer gradient beside the exact one on crops of Kodak photographs.

python -m eval.main --config eval/configs/metagrad_estimators.py      (half an hour on a 2-core CPU)
"""

from eval.estimators import Estimators
from eval.image.subjects import Images

ESTIMATORS = (
    "zero_step",
    "first_order",
    "multi_anchor",
    "budget",
    "reptile",
    "truncated",
    "implicit",
    "implicit_neumann",
    "es",
    "pes",
)


def evaluation() -> Estimators:
    """Cosine, bias, variance, time and memory over the inner horizon."""
    return Estimators(
        name="metagrad_estimators",
        description="outer gradients on 64x64 crops of Kodak",
        subjects=Images("../shared/data/kodak", crop=64, limit=8),
        estimators=ESTIMATORS,
        seed=1,
    )
