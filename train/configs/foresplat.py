"""The scene predictor from fresh weights, on procedural scenes: two views of 64 x 64 pixels.

python -m train.main foresplat --data.folders PHOTOGRAPHS

1.45 seconds a step on one core (5,793 s for 4,000). The weights of the last step are those that ship.
"""

from airjax.scene.predictor import PredictorConfig
from train.loop import LoopConfig
from train.optim import Optimizer
from train.scene.data import SceneData
from train.scene.experiment import SceneExperiment
from train.scene.losses import Vanilla


def experiment(smoke: bool) -> SceneExperiment:
    """The run; `smoke` is a minute on a CPU."""
    full = SceneExperiment(
        name="foresplat",
        phase=Vanilla(),
        predictor=PredictorConfig(),
        optimizer=Optimizer(learning_rate=7e-4, warmup=100),
        loop=LoopConfig(num_steps=4000, log_every=20, checkpoint_every=100, panel_every=250),
        data=SceneData(),
    )
    if not smoke:
        return full
    return full.with_(
        name="foresplat_smoke",
        phase=Vanilla(capacity=(8192, 1024)),
        predictor=PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16)),
        loop=LoopConfig(num_steps=4, log_every=2, checkpoint_every=2),
        data=SceneData(made_up=20, image_size=(32, 32), batch_size=2),
    )
