"""MetaGrad in 2D: finetuning of the shipped weights for what refinement makes of them, with any estimator.

python -m train.main metagrad --data.folders PHOTOGRAPHS

Then --variant unrolled, --seed 1, and so on. A variant is the name of an estimator: alone it trains the last layer of
every stage, "full_..." all weights, and those of `VARIANTS.rates` as "rates_..." the inner learning rates alone.
"""

from dataclasses import replace

from airjax.image.model import DEFAULT_WEIGHTS
from airjax.image.presets import SCALABLE
from train.configs import joint
from train.image.experiment import ImageExperiment
from train.image.meta import ImageMeta
from train.loop import LoopConfig
from train.meta import Variants
from train.optim import Optimizer

STEPS = 20  # inner steps of the study

VARIANTS = Variants(
    head={
        "multi_anchor": {"min_steps": 8, "max_steps": 64, "stride": 8},
        "budget": {"anchors": (0, 10, 20), "weights": (1.0, 1.0, 2.0)},
        "meta_sgd": {"anchors": (0, 10, 20), "weights": (1.0, 1.0, 2.0)},
        "truncated": {"num_steps": STEPS, "window": 8},
        "implicit": {"num_steps": STEPS, "iterations": 5},
        "es": {"anchors": (STEPS,), "pairs": 1},
        "pes": {"anchors": (STEPS // 2, STEPS), "pairs": 1},
    },
    # What knows how the rates should change. For evolution strategies the start stays where it is.
    rates={
        "meta_sgd": {"anchors": (20, 50, 100)},
        "unrolled": {"anchors": (STEPS,)},
        "es": {"anchors": (20, 50, 100), "sigma": 1e-3},
        "pes": {"anchors": (20, 50, 100), "sigma": 1e-3},
    },
    learning_rates={"head": 1e-4, "all": 5e-5, "rates": 4e-4},
    horizon=STEPS,
)


def experiment(smoke: bool, variant: str = "budget", seed: int = 0) -> ImageExperiment:
    """One finetuning; `smoke` is a minute on a CPU."""
    phase, name = VARIANTS.phase(ImageMeta, variant), f"metagrad_{variant}_{seed}"
    optimizer = Optimizer(learning_rate=VARIANTS.learning_rates[phase.trained], warmup=10)
    base = joint.experiment(smoke).with_(optimizer=optimizer, data={"seed": seed})
    if smoke:
        phase = replace(phase, estimator=phase.estimator.at(3))
        loop = LoopConfig(num_steps=4, seed=seed, log_every=2, checkpoint_every=2)
        return base.with_(name=f"{name}_smoke", phase=phase, stages=SCALABLE[:2], loop=loop)
    loop = LoopConfig(num_steps=60, seed=seed, log_every=10, checkpoint_every=20)
    return base.with_(name=name, phase=phase, stages=SCALABLE, loop=loop, init=str(DEFAULT_WEIGHTS))
