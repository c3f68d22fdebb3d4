"""Refinement curves of the shipped weights and of those that each estimator made of them, on crops of Kodak.

python -m train.main metagrad --data.folders PHOTOGRAPHS --variant NAME --seed SEED      (every name and seed below)
python -m eval.main metagrad_kodak --images FOLDER      (an hour on a 2-core CPU, after two hours of training)
"""

from airjax.inner.estimators import ESTIMATORS
from eval.curves import Curves, Start
from eval.image.subjects import Images
from train.image.meta import ImageMeta

SEEDS = (0, 1, 2)
VARIANTS = tuple(name for name in ESTIMATORS if name not in ("finite_difference", "implicit_neumann"))


def files(variant: str) -> tuple[str, ...]:
    """What the training of a variant left."""
    return tuple(f"runs/metagrad_{variant}_{seed}/weights.safetensors" for seed in SEEDS)


def evaluation() -> Curves:
    """Three seeds of every estimator: heads under the same inner rates, then learned rates."""
    by_hand = ImageMeta.start_rates
    return Curves(
        name="metagrad_kodak",
        description="refinement of 128x128 crops of Kodak",
        subjects=Images(image_set="kodak", crop=128),
        starts=(
            Start("shipped", ("",) * len(SEEDS), by_hand),
            *(Start(name, files(name), by_hand) for name in VARIANTS),
            Start("meta_sgd, its rates", files("meta_sgd")),
            Start("rates_es", files("rates_es")),
        ),
    )
