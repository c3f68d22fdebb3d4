"""POD pretraining of all stages; `finetune.py` goes on from it.

python -m train.main pod --data.folders PHOTOGRAPHS

About 2 hours on 2 CPU cores. A step with all six stages on costs about 2.7 CPU seconds, one of the first stage
alone 0.2; one of `joint.py` costs about 0.5.
"""

from train.configs import joint
from train.image.experiment import ImageExperiment
from train.image.pod import Pod
from train.loop import LoopConfig


def experiment(smoke: bool) -> ImageExperiment:
    """`joint.py` in another phase: weights for `finetune.py` to start from; `smoke` is half a minute on a CPU."""
    base = joint.experiment(smoke)
    if smoke:
        phase = Pod(start_steps=(0, 10), inner_steps=(5, 10))
        return base.with_(name="pod_smoke", phase=phase, loop={"panel_every": 0})
    # Stages start evenly over the first half and a bit, as AIR's do over its epochs; all are on for the rest. Inner
    # steps are a quarter of AIR's 20 (s + 1): one costs as much as all that `joint.py` does with a stage, so 5 (s + 1)
    # is 105 of them a step. The target of the first stage is then 0.005 away at most, which Adam outside does not
    # mind: it follows the sign of the way, not its length.
    inner_steps = tuple(5 * (stage + 1) for stage in range(6))
    phase = Pod(start_steps=(0, 500, 1000, 1500, 2000, 2500), inner_steps=inner_steps)
    return base.with_(name="pod", phase=phase, loop=LoopConfig(num_steps=4_000, log_every=20, checkpoint_every=200))
