"""Finetuning with the colour solve inside the loss, from the weights of `joint.py`.

python -m train.main solve --data.folders PHOTOGRAPHS

About 1 hour on 2 CPU cores; not part of the shipped weights. The smoke variant starts from fresh weights.
"""

from train.configs import joint
from train.image.experiment import ImageExperiment
from train.loop import LoopConfig
from train.optim import Optimizer


def experiment(smoke: bool) -> ImageExperiment:
    """`joint.py` with three conjugate-gradient steps and a lower rate."""
    base = joint.experiment(smoke).with_(phase={"solve_steps": 3}, optimizer=Optimizer(learning_rate=3e-4))
    if smoke:
        return base.with_(name="solve_smoke")
    loop = LoopConfig(num_steps=5_000, seed=1, log_every=50, checkpoint_every=500, panel_every=500)
    return base.with_(name="solve", loop=loop, data={"seed": 1}, init="runs/joint")
