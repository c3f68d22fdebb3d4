"""The scene predictor from fresh weights, on procedural scenes of all kinds: three views of 64 x 64 pixels.

python -m train.main foresplat --data.folders PHOTOGRAPHS

About half a second of one core a step. Then `--extend STEP` goes on.
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
        loop=LoopConfig(num_steps=4000, log_every=20, checkpoint_every=100, panel_every=500),
        data=SceneData(),
    )
    if not smoke:
        return full
    return full.with_(
        name="foresplat_smoke",
        phase=Vanilla(capacity=(8192, 1024)),
        predictor=PredictorConfig(planes=(8, 4), matching=16, coarse=(16, 16), fine=(16, 16)),
        loop=LoopConfig(num_steps=4, log_every=2, checkpoint_every=2),
        data=SceneData(made_up=20, image_size=(32, 32), rooms=2),
    )
