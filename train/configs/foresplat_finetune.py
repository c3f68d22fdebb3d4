"""The scene predictor of `foresplat.py`, trained on with real scenes beside the procedural ones.

python -m train.main foresplat_finetune --data.folders PHOTOGRAPHS --data.scenes SCENE ...

A SCENE is a folder of posed photographs, as `airjax reconstruct` reads it; its points are triangulated before the first
step.
"""

from train.configs import foresplat
from train.optim import Optimizer
from train.scene.experiment import SceneExperiment


def experiment(smoke: bool) -> SceneExperiment:
    """The run; `smoke` is a minute on a CPU."""
    data = {"real": 1, "rooms": 0, "seed": 1}
    base = foresplat.experiment(smoke).with_(optimizer=Optimizer(learning_rate=3e-4, warmup=50), data=data)
    if smoke:
        return base.with_(name="foresplat_finetune_smoke")
    return base.with_(name="foresplat_finetune", loop={"num_steps": 1600}, init="runs/foresplat")
