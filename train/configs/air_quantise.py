"""AIR's own network with its quantiser, from the weights of `air_finetune.py`.

python -m train.main air_quantise --data.folders PHOTOGRAPHS

The paper's loss: that of `air_finetune.py` on what rounded Gaussians show, and 0.01 times the mean error of a number.
Choices: all the rest is as in `air_finetune.py`, a third as long. For the compact files of airjax, which have a
quantiser of their own, nothing of this is needed.
"""

from train.configs import air_finetune, air_pod
from train.image.air import AirQuantised
from train.image.experiment import ImageExperiment


def experiment(smoke: bool) -> ImageExperiment:
    """The finetuning; `smoke` is a minute on a CPU and starts from fresh weights."""
    base = air_finetune.experiment(smoke)
    base = base.with_(phase=AirQuantised(joint=base.phase), quantiser=True)
    if smoke:
        return base.with_(name="air_quantise_smoke")
    return base.with_(name="air_quantise", loop={"num_steps": 10 * air_pod.EPOCH}, init="runs/air_finetune")
