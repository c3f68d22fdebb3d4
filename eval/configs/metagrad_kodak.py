"""Refinement curves of the shipped weights and of those that each estimator made of them, on crops of Kodak.

for v in zero_step first_order ...; do for s in 0 1 2; do
python -m train.main --config train/configs/metagrad.py --variant $v --seed $s; done; done
python -m eval.main --config eval/configs/metagrad_kodak.py      (an hour on a 2-core CPU, after an hour of training)
"""

from eval.refinement import Refinement
from train.configs.metagrad import VARIANTS

SEEDS = (0, 1, 2)


def evaluation() -> Refinement:
    """Three seeds of every estimator, heads only."""
    runs = {name: tuple(f"runs/metagrad_{name}_{seed}/weights.safetensors" for seed in SEEDS) for name in VARIANTS}
    return Refinement(
        name="metagrad_kodak",
        description="refinement of 128x128 crops of Kodak",
        images="../shared/data/kodak",
        weights=(("shipped", ("",) * len(SEEDS)), *runs.items()),
        crop=128,
    )
