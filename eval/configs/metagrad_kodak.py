"""Refinement curves of the shipped weights and of those that each estimator made of them, on crops of Kodak.

python -m train.main --config train/configs/metagrad.py --variant NAME --seed SEED      (every name and seed below)
python -m eval.main --config eval/configs/metagrad_kodak.py      (an hour on a 2-core CPU, after two hours of training)
"""

from eval.refinement import Refinement, Start
from train.configs.metagrad import VARIANTS
from train.meta import START_RATES

SEEDS = (0, 1, 2)


def files(variant: str) -> tuple[str, ...]:
    """What the training of a variant left."""
    return tuple(f"runs/metagrad_{variant}_{seed}/weights.safetensors" for seed in SEEDS)


def evaluation() -> Refinement:
    """Three seeds of every estimator: heads under the same inner rates, then learned rates."""
    return Refinement(
        name="metagrad_kodak",
        description="refinement of 128x128 crops of Kodak",
        images="../shared/data/kodak",
        starts=(
            Start("shipped", ("",) * len(SEEDS), START_RATES),
            *(Start(name, files(name), START_RATES) for name in VARIANTS),
            Start("meta_sgd, its rates", files("meta_sgd")),
            Start("rates_es", files("rates_es")),
        ),
        crop=128,
    )
