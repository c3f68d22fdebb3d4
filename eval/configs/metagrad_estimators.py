"""Estimators of the outer gradient beside the exact one on crops of Kodak photographs.

python -m eval.main metagrad_estimators --images FOLDER      (half an hour on a 2-core CPU)
"""

from airjax.inner.estimators import ESTIMATORS
from eval.estimators import Estimators
from eval.image.subjects import Images

# What learns rates, the exact one and its differences are not compared.
NAMES = tuple(name for name in ESTIMATORS if name not in ("meta_sgd", "unrolled", "finite_difference"))


def evaluation() -> Estimators:
    """Cosine, bias, variance, time and memory over the inner horizon."""
    return Estimators(
        name="metagrad_estimators",
        description="outer gradients on 64x64 crops of Kodak",
        subjects=Images(image_set="kodak", crop=64, limit=8),
        estimators=NAMES,
        seed=1,
    )
