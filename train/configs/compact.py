"""Quantisation-aware finetuning of the scalable model, from the weights of `joint.py`.

python -m train.main compact --data.folders PHOTOGRAPHS

About 1.4 hours on 2 CPU cores with XLA_FLAGS=--xla_force_host_platform_device_count=2. The seven stages begin as the
six of `joint.py`, the first of them twice: once on the image at half its size, for the base of 16 x 16 patches.
"""

from airjax.image.presets import SCALABLE
from train.configs import joint
from train.image.experiment import ImageExperiment
from train.image.losses import Compact, Joint
from train.loop import LoopConfig
from train.optim import Optimizer


def experiment(smoke: bool) -> ImageExperiment:
    """The shipped weights; `smoke` is a minute on a CPU and starts from fresh weights."""
    base = joint.experiment(smoke).with_(optimizer=Optimizer(learning_rate=6e-4), data={"seed": 2})
    if smoke:
        phase = Compact(joint=Joint(stage_weights=(0.2, 1.0)))
        return base.with_(name="compact_smoke", phase=phase, stages=SCALABLE[:2])
    return base.with_(
        name="compact",
        phase=Compact(joint=Joint(stage_weights=(0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 1.0), budget=(0.3, 1.1))),
        stages=SCALABLE,
        loop=LoopConfig(num_steps=13_000, seed=2, log_every=50, checkpoint_every=250, panel_every=1000),
        init="runs/joint",
        init_stages=(0, 0, 1, 2, 3, 4, 5),
    )
