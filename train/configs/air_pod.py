"""AIR's own network from DINOv3, by POD; `air_finetune.py` goes on from it.

python -m train.main air_pod --data.folders PHOTOGRAPHS --init dinov3.safetensors

A work of days on GPUs of 80 GB. The paper's settings, as far as it prints them: patches of 7 pixels, AdamW at 1e-4 with
a tenth of it for the encoder, 12 epochs of 10,000 steps of 5 images, a stage more after epochs 2, 4 and 6, 20 (s + 1)
inner steps at 1e-3. It does not print, so these are choices: weight decay, the memory of Adam, warm-up, cosine and
clipping; square crops of 512 pixels in place of whole photographs of 160,000 to 640,000; how often a crop is changed.
The smoke variant starts from fresh weights, as the other does without `--init`.
"""

from airjax.image.presets import air_stages
from airjax.nn.air_stage import AirnetConfig
from train.image.air import CONTROL
from train.image.data import PHOTOMETRIC, DataConfig
from train.image.experiment import ImageExperiment
from train.image.pod import Pod
from train.loop import LoopConfig
from train.optim import Optimizer

EPOCH = 10_000
TINY = AirnetConfig(32, 2, (1, 1), (16, 16, 8, 8, 8), features=16)


def experiment(smoke: bool) -> ImageExperiment:
    """The pretraining; `smoke` is two stages of a tiny network, about a minute on a CPU."""
    full = ImageExperiment(
        name="air_pod",
        phase=Pod(start_steps=(0, 2 * EPOCH, 4 * EPOCH, 6 * EPOCH), **CONTROL),
        stages=air_stages(7, AirnetConfig(remat=True)),
        optimizer=Optimizer(learning_rate=1e-4, b2=0.999, weight_decay=0.01, encoder_rate=0.1),
        loop=LoopConfig(num_steps=12 * EPOCH, log_every=100, checkpoint_every=1000, panel_every=EPOCH),
        data=DataConfig(crop_size=512, batch_size=5, augment=PHOTOMETRIC),
    )
    if not smoke:
        return full
    return full.with_(
        name="air_pod_smoke",
        stages=air_stages(7, TINY)[:2],
        phase=Pod(start_steps=(0, 1), inner_steps=(2, 4), **CONTROL),
        loop=LoopConfig(num_steps=8, log_every=2, checkpoint_every=4, panel_every=0),
        data={"crop_size": 28, "batch_size": 2, "made_up": 8},
    )
