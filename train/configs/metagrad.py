"""MetaGrad in 2D: finetuning of the shipped weights for what refinement makes of them, with any estimator.

python -m train.main --config train/configs/metagrad.py --variant unrolled --seed 0

Variants are the names of `VARIANTS`; "full_..." trains all weights, the others the last layer of every stage.
"""


from airjax import metagrad
from airjax.config import SCALABLE
from airjax.image.encoder import DEFAULT_WEIGHTS
from train.data import PHOTOMETRIC, DataConfig
from train.loop import LoopConfig
from train.meta import Meta
from train.phases import Experiment, Optimizer

STEPS = 20  # inner steps of the study

VARIANTS = {
    "zero_step": {},
    "first_order": {"num_steps": STEPS},
    "multi_anchor": {"min_steps": 8, "max_steps": 64, "stride": 8},
    "budget": {"anchors": (0, 10, 20), "weights": (1.0, 1.0, 2.0)},
    "meta_sgd": {"anchors": (0, 10, 20), "weights": (1.0, 1.0, 2.0)},
    "reptile": {"num_steps": STEPS},
    "unrolled": {"anchors": (STEPS,)},
    "truncated": {"num_steps": STEPS, "window": 8},
    "implicit": {"num_steps": STEPS, "iterations": 5},
    "es": {"anchors": (STEPS,), "pairs": 1},
    "pes": {"anchors": (STEPS // 2, STEPS), "pairs": 1},
}


def experiment(smoke: bool, variant: str = "budget", seed: int = 0) -> Experiment:
    """One finetuning; `smoke` is a minute on a CPU."""
    name = variant.removeprefix("full_")
    full = Experiment(
        name=f"metagrad_{variant}_{seed}",
        phase=Meta(
            estimator=metagrad.estimator(name, **VARIANTS[name]),
            trained="head" if name == variant else "all",
            learn_rates=name == "meta_sgd",
        ),
        stages=SCALABLE,
        optimizer=Optimizer(learning_rate=5e-4, warmup=20),
        loop=LoopConfig(num_steps=200, seed=seed, log_every=10, checkpoint_every=50),
        data=DataConfig(
            folders=("../shared/data/photos_train",), crop_size=128, batch_size=4, augment=PHOTOMETRIC, seed=seed
        ),
        init=str(DEFAULT_WEIGHTS),
    )
    return full
