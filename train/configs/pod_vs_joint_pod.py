"""POD against joint training at equal time, the other side, first half: 180 s of POD.

python -m train.main pod_vs_joint_pod --data.folders PHOTOGRAPHS

0.05 hours; then `pod_vs_joint_finetune.py`. `pod_vs_joint_joint.py` says what is compared.
"""

from train.configs import pod_vs_joint_joint
from train.image.experiment import ImageExperiment
from train.image.pod import Pod


def experiment(smoke: bool) -> ImageExperiment:
    """`pod_vs_joint_joint.py` in another phase; 0.045, 0.125 and 0.25 s a step with 1, 2 and 3 stages on."""
    base = pod_vs_joint_joint.experiment(smoke)
    if smoke:
        return base.with_(name="pod_vs_joint_pod_smoke", phase=Pod(start_steps=(0, 10), inner_steps=(5, 10)))
    # AIR's schedule: a stage every sixth of the run. Inner steps as in `pod.py`.
    phase = Pod(start_steps=(0, 165, 330), inner_steps=(5, 10, 15))
    loop = {"num_steps": 1_000, "checkpoint_every": 200, "max_seconds": 180}
    return base.with_(name="pod_vs_joint_pod", phase=phase, loop=loop)
