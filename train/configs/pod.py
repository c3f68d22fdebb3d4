"""POD pretraining of all stages; `finetune.py` goes on from it.

python -m train.main --config train/configs/pod.py

About 2 hours on 2 CPU cores. A step with all six stages on costs about 2.7 CPU seconds, one of the first stage
alone 0.2; one of `joint.py` costs about 0.5.
"""

from airjax.image.presets import COMPACT
from train.image.data import PHOTOMETRIC, DataConfig
from train.image.experiment import ImageExperiment
from train.image.pod import Pod
from train.loop import LoopConfig
from train.optim import Optimizer


def experiment(smoke: bool) -> ImageExperiment:
    """Weights for `finetune.py` to start from; `smoke` is half a minute on a CPU."""
    full = ImageExperiment(
        name="pod",
        phase=Pod(
            # Evenly over the first half and a bit, as AIR does over its epochs; all stages for the rest.
            start_steps=(0, 500, 1000, 1500, 2000, 2500),
            # A quarter of AIR's 20 (s + 1). An inner step costs as much as all that `joint.py` does with a stage,
            # so 5 (s + 1) is 105 of them a step; the target of the first stage is then 0.005 away at most, which
            # Adam outside does not mind: it follows the sign of the way, not its length.
            inner_steps=tuple(5 * (stage + 1) for stage in range(6)),
        ),
        stages=COMPACT,
        optimizer=Optimizer(learning_rate=1.5e-3),
        loop=LoopConfig(num_steps=4_000, log_every=20, checkpoint_every=200),
        data=DataConfig(folders=("../shared/data/photos_train",), crop_size=128, batch_size=4, augment=PHOTOMETRIC),
    )
    if not smoke:
        return full
    return full.with_(
        name="pod_smoke",
        stages=COMPACT[:2],
        phase=Pod(start_steps=(0, 10), inner_steps=(5, 10)),
        loop=LoopConfig(num_steps=20, log_every=5, checkpoint_every=10),
        data={"crop_size": 32, "batch_size": 2},
    )
