"""POD pretraining.

python -m train.main --config train/configs/pod.py
"""

import dataclasses

from airjax.config import COMPACT
from train.data import PHOTOMETRIC, DataConfig
from train.loop import LoopConfig
from train.phases import Experiment, Optimizer, Pod


def experiment(smoke: bool) -> Experiment:
    """Weights for `finetune.py` to start from; `smoke` is a minute on a CPU."""
    full = Experiment(
        name="pod",
        phase=Pod(start_steps=(0, 1000, 2000, 3000, 4000, 5000), inner_steps=tuple(5 * (s + 1) for s in range(6))),
        stages=COMPACT,
        optimizer=Optimizer(learning_rate=1.5e-3),
        loop=LoopConfig(num_steps=8_000, log_every=50, checkpoint_every=500),
        data=DataConfig(
            folders=("../shared/data/photos_train",), crop_size=128, batch_size=4, augment=PHOTOMETRIC
        ),
    )
    if not smoke:
        return full
    return dataclasses.replace(
        full,
        name="pod_smoke",
        stages=COMPACT[:2],
        phase=Pod(start_steps=(0, 10), inner_steps=(3, 6)),
        loop=LoopConfig(num_steps=20, log_every=5, checkpoint_every=10),
        data=dataclasses.replace(full.data, crop_size=32, batch_size=2),
    )
