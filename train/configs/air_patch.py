"""AIR's own network at another patch size, from the weights of `air_finetune.py`.

python -m train.main air_patch --data.folders PHOTOGRAPHS

Then --variant 5 or 14. As in the paper, the layer that cuts the image into patches starts afresh and all else goes on;
how long and how fast it does not print, so that is a choice: as `air_finetune.py`, a third as long.
"""

from airjax.errors import AirjaxError
from airjax.image.presets import air_stages
from train.configs import air_finetune, air_pod
from train.image.experiment import ImageExperiment

SIZES = ("5", "6", "14")


def experiment(smoke: bool, variant: str = "6") -> ImageExperiment:
    """One patch size; `smoke` is a minute on a CPU and starts from fresh weights."""
    if variant not in SIZES:
        raise AirjaxError(f"--variant: expected one of {', '.join(SIZES)}, got {variant!r}")
    base, name = air_finetune.experiment(smoke), f"air_patch_{variant}"
    stages = air_stages(int(variant), base.stages[0].network)[: len(base.stages)]
    base = base.with_(stages=stages, fresh=("patches",))
    if smoke:
        return base.with_(name=f"{name}_smoke")
    return base.with_(name=name, loop={"num_steps": 10 * air_pod.EPOCH}, init="runs/air_finetune")
