"""Joint finetuning of the weights of `pod.py`.

python -m train.main finetune --data.folders PHOTOGRAPHS

About 1 hour on 2 CPU cores, after `pod.py`. The smoke variant starts from fresh weights, so that it needs no other
run; add `--init runs/pod_smoke` to start from that of `pod.py`.
"""

from train.configs import joint
from train.image.experiment import ImageExperiment
from train.optim import Optimizer


def experiment(smoke: bool) -> ImageExperiment:
    """`joint.py` from other weights, shorter, at half its rate (as AIR: 1e-4, then 5e-5)."""
    base = joint.experiment(smoke).with_(optimizer=Optimizer(learning_rate=7.5e-4))
    if smoke:
        return base.with_(name="finetune_smoke")
    return base.with_(name="finetune", loop={"num_steps": 8_000, "panel_every": 0}, init="runs/pod")
