"""POD against joint training at equal time: 360 s of joint training, and 180 s of POD followed by 180 s of finetuning.

python -m train.main pod_vs_joint --data.folders PHOTOGRAPHS --variant joint

Then --variant pod and --variant finetune, which starts from the weights of pod: the same model, data, seeds and clock.
What is compared is psnr2 in the logs, and the three weights on photographs.

The clock counts compilation: run each of the three with `--loop.max-seconds 1 --out` some other folder first, which
fills the compilation cache. The numbers of steps are such that, with each side on a core of its own (`taskset -c 0`,
`taskset -c 1`; 0.06 s a step of joint here, 0.045, 0.125 and 0.25 s of POD with 1, 2 and 3 stages on), the time ends
near the end of the cosine in all three runs; on another machine scale the three by one factor, or the times are not
equal.
"""

from airjax.errors import AirjaxError
from airjax.image.presets import COMPACT
from train.configs import joint
from train.image.experiment import ImageExperiment
from train.image.losses import Joint
from train.image.pod import Pod
from train.loop import LoopConfig
from train.optim import Optimizer

VARIANTS = ("joint", "pod", "finetune")


def experiment(smoke: bool, variant: str = "joint") -> ImageExperiment:
    """Half the stages and a quarter of the pixels of `joint.py`; `smoke` is half a minute on a CPU, from nothing."""
    if variant not in VARIANTS:
        raise AirjaxError(f"--variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
    base, name = joint.experiment(smoke), f"pod_vs_joint_{variant}"
    if smoke:
        base = base.with_(name=f"{name}_smoke", loop={"panel_every": 0, "max_seconds": 60})
    else:
        base = base.with_(
            name=name,
            phase=Joint(stage_weights=(0.2, 0.2, 1.0)),
            stages=COMPACT[:3],
            loop=LoopConfig(num_steps=6_200, log_every=20, checkpoint_every=500, max_seconds=360),
            data={"crop_size": 64},
        )
    if variant == "pod":
        if smoke:
            return base.with_(phase=Pod(start_steps=(0, 10), inner_steps=(5, 10)))
        # AIR's schedule: a stage every sixth of the run. Inner steps as in `pod.py`.
        loop = {"num_steps": 1_000, "checkpoint_every": 200, "max_seconds": 180}
        return base.with_(phase=Pod(start_steps=(0, 165, 330), inner_steps=(5, 10, 15)), loop=loop)
    if variant == "finetune":
        base = base.with_(optimizer=Optimizer(learning_rate=7.5e-4))  # half the rate, as `finetune.py`
        return (
            base if smoke else base.with_(loop={"num_steps": 3_000, "max_seconds": 180}, init="runs/pod_vs_joint_pod")
        )
    return base
