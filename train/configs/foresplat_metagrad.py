"""MetaGrad in 3D: finetuning of the scene predictor for what refinement makes of its Gaussians, with any estimator.

python -m train.main --config train/configs/foresplat_metagrad.py

Then --variant multi_anchor, --seed 1, and so on. Variants are the names of `VARIANTS`: they train the last two layers;
"rates_..." of `RATES_VARIANTS` the inner learning rates alone. zero_step is vanilla training for as many iterations.
"""

import dataclasses

from airjax.inner import estimators
from airjax.scene.predictor import PredictorConfig
from train.image.experiment import Optimizer
from train.loop import LoopConfig
from train.scene.experiment import SceneData, SceneExperiment
from train.scene.meta import SceneMeta

VARIANTS = {
    "zero_step": {},
    "first_order": {"num_steps": 60},
    # The paper's 50 to 500 steps at stride 40, on a CPU's scale.
    "multi_anchor": {"min_steps": 20, "max_steps": 100, "stride": 20},
    "budget": {"anchors": (0, 30, 90), "weights": (1.0, 1.0, 2.0)},
    "meta_sgd": {"anchors": (0, 30, 90), "weights": (1.0, 1.0, 2.0)},
    "truncated": {"num_steps": 40, "window": 4},
    "unrolled": {"anchors": (16,)},
}
RATES_VARIANTS = {
    "meta_sgd": {"anchors": (30, 90)},
    "es": {"anchors": (30, 90), "sigma": 1e-3},
}
LEARNING_RATES = {"head": 2e-4, "rates": 4e-4}
GROUPS = {"": ("head", VARIANTS), "rates_": ("rates", RATES_VARIANTS)}

# The same with very few inner steps, for smoke runs.
SMALL = {
    "zero_step": {},
    "first_order": {"num_steps": 2},
    "multi_anchor": {"min_steps": 2, "max_steps": 4, "stride": 2},
    "budget": {"anchors": (0, 2)},
    "meta_sgd": {"anchors": (0, 2)},
    "truncated": {"num_steps": 2, "window": 1},
    "unrolled": {"anchors": (2,)},
    "es": {"anchors": (2,)},
}


def experiment(smoke: bool, variant: str = "multi_anchor", seed: int = 0) -> SceneExperiment:
    """One finetuning; `smoke` is a minute on a CPU."""
    name = variant.removeprefix("rates_")
    trained, options = GROUPS[variant.removesuffix(name)]
    full = SceneExperiment(
        name=f"foresplat_metagrad_{variant}_{seed}",
        phase=SceneMeta(
            estimator=estimators.estimator(name, **options[name]),
            trained=trained,
            learn_rates=trained == "rates" or name == "meta_sgd",
        ),
        predictor=PredictorConfig(grid=2),
        optimizer=Optimizer(learning_rate=LEARNING_RATES[trained], warmup=20),
        loop=LoopConfig(num_steps=200, seed=seed, log_every=10, checkpoint_every=20),
        data=SceneData(photographs="../shared/data/photos_train", batch_size=2, seed=100 + seed),
        init="runs/foresplat/weights.safetensors",
    )
    if not smoke:
        return full
    return dataclasses.replace(
        full,
        name=f"{full.name}_smoke",
        phase=dataclasses.replace(
            full.phase, estimator=estimators.estimator(name, **SMALL[name]), capacity=(8192, 1024)
        ),
        predictor=PredictorConfig(planes=8, matching=16, widths=(16, 16, 16, 16)),
        loop=LoopConfig(num_steps=4, seed=seed, log_every=2, checkpoint_every=2),
        data=dataclasses.replace(full.data, photographs=None, image_size=(32, 32)),
        init=None,
    )
