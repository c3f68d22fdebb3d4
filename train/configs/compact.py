"""Quantisation-aware finetuning of a scalable model, from the weights of `joint.py`.

python -m train.main --config train/configs/compact.py
"""

import dataclasses

from airjax.config import SCALABLE
from train.configs import joint
from train.loop import LoopConfig
from train.phases import Compact, Experiment, Joint, Optimizer


def experiment(smoke: bool) -> Experiment:
    """The shipped weights; `smoke` is a minute on a CPU."""
    base = joint.experiment(smoke)
    full = dataclasses.replace(
        base,
        name="compact",
        phase=Compact(joint=Joint(stage_weights=(0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 1.0), budget=(0.3, 1.1))),
        stages=SCALABLE,
        optimizer=Optimizer(learning_rate=6e-4),
        loop=LoopConfig(num_steps=6_500, seed=2, log_every=50, checkpoint_every=250, panel_every=1000),
        data=dataclasses.replace(base.data, seed=2),
        init="runs/joint",
        init_stages=(0, 0, 1, 2, 3, 4, 5),
    )
    if not smoke:
        return full
    return dataclasses.replace(
        full,
        name="compact_smoke",
        phase=Compact(joint=Joint(stage_weights=(0.2, 1.0))),
        stages=SCALABLE[:2],
        loop=base.loop,
        init=None,
        init_stages=None,
    )
