"""POD against joint training at equal time, the one side: 360 s of joint training from the start.

python -m train.main pod_vs_joint_joint --data.folders PHOTOGRAPHS

0.1 hours. The other side is 180 s of `pod_vs_joint_pod.py` and then 180 s of `pod_vs_joint_finetune.py`: the same
model, data, seeds and clock. What is compared is psnr2 in the logs, and the three weights on photographs.

The clock counts compilation: run each of the three with `--max-seconds 1 --out` some other folder first, which fills
the compilation cache. The numbers of steps are such that, with each side on a core of its own (`taskset -c 0`,
`taskset -c 1`; 0.06 s a step here), the time ends near the end of the cosine in all three runs; on another machine
scale the three by one factor, or the times are not equal.
"""

from airjax.image.presets import COMPACT
from train.configs import joint
from train.image.experiment import ImageExperiment
from train.image.losses import Joint
from train.loop import LoopConfig


def experiment(smoke: bool) -> ImageExperiment:
    """Half the stages and a quarter of the pixels of `joint.py`; `smoke` is half a minute on a CPU."""
    base = joint.experiment(smoke)
    if smoke:
        return base.with_(name="pod_vs_joint_joint_smoke", loop={"panel_every": 0, "max_seconds": 60})
    return base.with_(
        name="pod_vs_joint_joint",
        phase=Joint(stage_weights=(0.2, 0.2, 1.0)),
        stages=COMPACT[:3],
        loop=LoopConfig(num_steps=6_200, log_every=20, checkpoint_every=500, max_seconds=360),
        data={"crop_size": 64},
    )
