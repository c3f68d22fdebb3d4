"""The scene predictor of `foresplat.py`, trained on with real scenes beside the procedural ones.

python -m train.main --config train/configs/foresplat_finetune.py

Points of the real scenes are triangulated before the first step.
"""

from airjax.scene.predictor import PredictorConfig
from train.loop import LoopConfig
from train.optim import Optimizer
from train.scene.data import SceneData
from train.scene.experiment import SceneExperiment
from train.scene.losses import Vanilla

SCENES = tuple(f"../shared/data/scenes/{name}" for name in ("redkitchen", "castle_p30", "fountain_p11", "entry_p10"))


def experiment(smoke: bool) -> SceneExperiment:
    """The run; `smoke` is a minute on a CPU."""
    full = SceneExperiment(
        name="foresplat_finetune",
        phase=Vanilla(capacity=(40960, 4096)),
        predictor=PredictorConfig(grid=2),
        optimizer=Optimizer(learning_rate=3e-4, warmup=50),
        loop=LoopConfig(num_steps=1600, log_every=20, checkpoint_every=100, panel_every=500),
        data=SceneData(photographs="../shared/data/photos_train", scenes=SCENES, real=1, seed=1),
        init="runs/foresplat",
    )
    if not smoke:
        return full
    return full.with_(
        name="foresplat_finetune_smoke",
        phase=Vanilla(capacity=(8192, 1024)),
        predictor=PredictorConfig(planes=8, matching=16, widths=(16, 16, 16, 16)),
        loop=LoopConfig(num_steps=4, log_every=2, checkpoint_every=2),
        data={"photographs": None, "scenes": SCENES[2:3], "image_size": (32, 32), "batch_size": 2},
        init=None,
    )
