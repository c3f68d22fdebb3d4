"""AIR's own network, all stages jointly, from the weights of `air_pod.py`.

python -m train.main air_finetune --data.folders PHOTOGRAPHS

The paper's settings: 5e-5, 30 epochs of 10,000 steps, the loss 0.7 L1 + 0.3 (1 - SSIM) after every stage. Choices,
where it prints none: those of `air_pod.py`, and the encoder's tenth here too. To finetune the released weights, give
them to `--init`; they were trained on a stretched grid, which is an option of `airjax.image.presets.air_stages`.
"""

from train.configs import air_pod
from train.image.air import CONTROL, loss_of_every_stage
from train.image.experiment import ImageExperiment
from train.image.losses import Joint

STEPS = 30 * air_pod.EPOCH


def experiment(smoke: bool) -> ImageExperiment:
    """The finetuning; `smoke` is a minute on a CPU and starts from fresh weights."""
    base = air_pod.experiment(smoke).with_(optimizer={"learning_rate": 5e-5})
    phase = Joint(stage_weights=(1.0,) * len(base.stages), loss_fn=loss_of_every_stage, **CONTROL)
    if smoke:
        return base.with_(name="air_finetune_smoke", phase=phase)
    return base.with_(name="air_finetune", phase=phase, loop={"num_steps": STEPS}, init="runs/air_pod")
