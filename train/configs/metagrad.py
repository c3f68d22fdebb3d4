"""MetaGrad in 2D: finetuning of the shipped weights for what refinement makes of them, with any estimator.

python -m train.main --config train/configs/metagrad.py

Then --variant unrolled, --seed 1, and so on. Variants are the names of `VARIANTS`: alone they train the last layer of
every stage, "full_..." all weights, and those of `RATES_VARIANTS` as "rates_..." the inner learning rates alone.
"""

import dataclasses

from airjax.image.model import DEFAULT_WEIGHTS
from airjax.image.presets import SCALABLE
from airjax.inner import estimators
from train.image.data import PHOTOMETRIC, DataConfig
from train.image.experiment import Experiment, Optimizer
from train.loop import LoopConfig
from train.meta import Meta

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

# What knows how the rates should change. For evolution strategies the start stays where it is.
RATES_VARIANTS = {
    "meta_sgd": {"anchors": (20, 50, 100)},
    "unrolled": {"anchors": (STEPS,)},
    "es": {"anchors": (20, 50, 100), "sigma": 1e-3},
    "pes": {"anchors": (20, 50, 100), "sigma": 1e-3},
}

LEARNING_RATES = {"head": 1e-4, "all": 5e-5, "rates": 4e-4}
GROUPS = {"": ("head", VARIANTS), "full_": ("all", VARIANTS), "rates_": ("rates", RATES_VARIANTS)}

# The same with very few inner steps, for smoke runs.
SMALL = {
    "zero_step": {},
    "first_order": {"num_steps": 3},
    "multi_anchor": {"min_steps": 2, "max_steps": 4, "stride": 2},
    "budget": {"anchors": (0, 3)},
    "meta_sgd": {"anchors": (0, 3)},
    "reptile": {"num_steps": 3},
    "unrolled": {"anchors": (3,)},
    "truncated": {"num_steps": 3, "window": 1},
    "implicit": {"num_steps": 3, "iterations": 2},
    "es": {"anchors": (3,)},
    "pes": {"anchors": (1, 3)},
}


def experiment(smoke: bool, variant: str = "budget", seed: int = 0) -> Experiment:
    """One finetuning; `smoke` is a minute on a CPU."""
    name = variant.removeprefix("full_").removeprefix("rates_")
    trained, options = GROUPS[variant.removesuffix(name)]
    full = Experiment(
        name=f"metagrad_{variant}_{seed}",
        phase=Meta(
            estimator=estimators.estimator(name, **options[name]),
            trained=trained,
            learn_rates=trained == "rates" or name == "meta_sgd",
        ),
        stages=SCALABLE,
        optimizer=Optimizer(learning_rate=LEARNING_RATES[trained], warmup=10),
        loop=LoopConfig(num_steps=60, seed=seed, log_every=10, checkpoint_every=20),
        data=DataConfig(
            folders=("../shared/data/photos_train",), crop_size=128, batch_size=4, augment=PHOTOMETRIC, seed=seed
        ),
        init=str(DEFAULT_WEIGHTS),
    )
    if not smoke:
        return full
    return dataclasses.replace(
        full,
        name=f"{full.name}_smoke",
        stages=SCALABLE[:2],
        phase=dataclasses.replace(full.phase, estimator=estimators.estimator(name, **SMALL[name])),
        loop=LoopConfig(num_steps=4, seed=seed, log_every=2, checkpoint_every=2),
        data=dataclasses.replace(full.data, crop_size=32, batch_size=2),
        init=None,
    )
