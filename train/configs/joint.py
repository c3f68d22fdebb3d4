"""Joint training of all stages from the start.

python -m train.main joint --data.folders PHOTOGRAPHS

About 1.5 hours on 2 CPU cores with XLA_FLAGS=--xla_force_host_platform_device_count=2, which gives each core half of
the batch (a third faster than one device with two threads).
"""

from airjax.image.presets import COMPACT
from train.image.data import PHOTOMETRIC, DataConfig
from train.image.experiment import ImageExperiment
from train.image.losses import Joint
from train.loop import LoopConfig
from train.optim import Optimizer


def experiment(smoke: bool) -> ImageExperiment:
    """The shipped weights; `smoke` is a minute on a CPU."""
    full = ImageExperiment(
        name="joint",
        phase=Joint(stage_weights=(0.2, 0.2, 0.2, 0.2, 0.2, 1.0)),
        stages=COMPACT,
        optimizer=Optimizer(learning_rate=1.5e-3),
        loop=LoopConfig(num_steps=16_000, log_every=50, checkpoint_every=500, panel_every=1000),
        data=DataConfig(crop_size=128, batch_size=4, augment=PHOTOMETRIC),
    )
    if not smoke:
        return full
    return full.with_(
        name="joint_smoke",
        stages=COMPACT[:2],
        phase=Joint(stage_weights=(0.2, 1.0)),
        loop=LoopConfig(num_steps=20, log_every=5, checkpoint_every=10, panel_every=10),
        data={"crop_size": 32, "batch_size": 2, "made_up": 8},
    )
