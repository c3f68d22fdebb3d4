"""POD against joint training at equal time, the other side, second half: 180 s of joint finetuning.

python -m train.main pod_vs_joint_finetune --data.folders PHOTOGRAPHS

0.05 hours, after `pod_vs_joint_pod.py`. `pod_vs_joint_joint.py` says what is compared. The smoke variant starts from
fresh weights, so that it needs no other run.
"""

from train.configs import pod_vs_joint_joint
from train.image.experiment import ImageExperiment
from train.optim import Optimizer


def experiment(smoke: bool) -> ImageExperiment:
    """`pod_vs_joint_joint.py` for half the time, from other weights, at half the rate (as `finetune.py`)."""
    base = pod_vs_joint_joint.experiment(smoke).with_(optimizer=Optimizer(learning_rate=7.5e-4))
    if smoke:
        return base.with_(name="pod_vs_joint_finetune_smoke")
    loop = {"num_steps": 3_000, "max_seconds": 180}
    return base.with_(name="pod_vs_joint_finetune", loop=loop, init="runs/pod_vs_joint_pod")
