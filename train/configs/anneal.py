"""The last part of the shipped weights: joint training from `joint.py`, the rate going down to zero.

python -m train.main --config train/configs/anneal.py

About half an hour on 2 CPU cores. The smoke variant starts from fresh weights, so that it needs no other run.
"""

import dataclasses

from train.configs import joint
from train.loop import LoopConfig
from train.phases import Experiment, Optimizer


def experiment(smoke: bool) -> Experiment:
    """`joint.py` from its own weights, for whatever time it was given."""
    base = joint.experiment(smoke)
    optimizer = Optimizer(learning_rate=7e-4)
    if smoke:
        return dataclasses.replace(base, name="anneal_smoke", optimizer=optimizer)
    return dataclasses.replace(
        base,
        name="anneal",
        optimizer=optimizer,
        loop=LoopConfig(num_steps=5_500, seed=1, log_every=50, checkpoint_every=500, panel_every=500),
        data=dataclasses.replace(base.data, seed=1),
        init="runs/joint",
    )
