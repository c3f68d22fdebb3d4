"""MetaGrad in 3D: finetuning of the scene predictor for what refinement makes of its Gaussians, with any estimator.

python -m train.main foresplat_metagrad --data.folders PHOTOGRAPHS

Then --variant multi_anchor, --seed 1, and so on. A variant is the name of an estimator, which trains the last two
layers; "rates_..." of `VARIANTS.rates` trains the inner learning rates alone. zero_step is vanilla training for as many
iterations.
"""

from dataclasses import replace

from train.configs import foresplat
from train.loop import LoopConfig
from train.meta import Variants
from train.optim import Optimizer
from train.scene.experiment import SceneExperiment
from train.scene.losses import SceneMeta

VARIANTS = Variants(
    head={
        "first_order": {"num_steps": 60},
        # The paper's 50 to 500 steps at stride 40, on a CPU's scale.
        "multi_anchor": {"min_steps": 20, "max_steps": 100, "stride": 20},
        "budget": {"anchors": (0, 30, 90), "weights": (1.0, 1.0, 2.0)},
        "meta_sgd": {"anchors": (0, 30, 90), "weights": (1.0, 1.0, 2.0)},
        "truncated": {"num_steps": 40, "window": 4},
        "unrolled": {"anchors": (16,)},
    },
    rates={"meta_sgd": {"anchors": (30, 90)}, "es": {"anchors": (30, 90), "sigma": 1e-3}},
    learning_rates={"head": 2e-4, "rates": 4e-4},
    horizon=30,
)


def experiment(smoke: bool, variant: str = "multi_anchor", seed: int = 0) -> SceneExperiment:
    """One finetuning; `smoke` is a minute on a CPU."""
    phase, name = VARIANTS.phase(SceneMeta, variant), f"foresplat_metagrad_{variant}_{seed}"
    optimizer = Optimizer(learning_rate=VARIANTS.learning_rates[phase.trained], warmup=20)
    base = foresplat.experiment(smoke).with_(optimizer=optimizer, data={"context": 2, "targets": 2, "seed": 100 + seed})
    if smoke:
        phase = replace(phase, estimator=phase.estimator.at(2), capacity=(8192, 1024))
        return base.with_(name=f"{name}_smoke", phase=phase, loop={"seed": seed})
    loop = LoopConfig(num_steps=200, seed=seed, log_every=10, checkpoint_every=20)
    return base.with_(name=name, phase=phase, loop=loop, init="runs/foresplat/weights.safetensors")
