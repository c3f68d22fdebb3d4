"""The paper's student of Pi3X, 613 M weights, its Gaussian head too, trained by what Pi3X sees of photographs.

python -m train.main edge --data.backbone pi3x.safetensors --init pi3x.safetensors --data.scenes SCENE ...

--encoder FILE takes an encoder of DINOv2's ViT-B for a start. A SCENE is a folder of 16 photographs
or more; no poses are needed. All files are those of `airjax convert`. As the paper says: decoder and heads start as the
teacher's, and everything is trained. Not printed, and chosen here: which 24 of its 36 blocks, which layers are
compared, the losses and their weights, and the schedule.
"""

from airjax.nn import pi3
from airjax.nn.gaussian_head import GaussianHeadConfig
from airjax.scene.pi3 import EDGE, PI3X, SplatConfig
from airjax.scene.unposed import Pi3System
from train.configs.foresplat_pi3x import TINY
from train.loop import LoopConfig
from train.optim import Optimizer
from train.scene.distillation import Distillation, DistillationExperiment
from train.scene.taps import TapData


def experiment(smoke: bool, seed: int = 0) -> DistillationExperiment:
    """The run; `smoke` is a minute on a CPU, with tiny networks of fresh weights."""
    full = DistillationExperiment(
        name=f"edge_{seed}",
        phase=Distillation(),
        student=Pi3System(EDGE),
        optimizer=Optimizer(learning_rate=1e-4, warmup=2000, weight_decay=0.05, encoder_rate=0.1),
        loop=LoopConfig(100_000, seed=seed, checkpoint_every=500, panel_every=5000),
        data=TapData(Pi3System(PI3X), seed=seed),
    )
    if not smoke:
        return full
    student = SplatConfig(pi3.small(16, 2, blocks=1), GaussianHeadConfig(8, 8, 8, degree=1))
    return full.with_(
        name=f"{full.name}_smoke",
        student=Pi3System(student),
        loop=LoopConfig(num_steps=4, seed=seed, log_every=2, checkpoint_every=2),
        data={"system": Pi3System(TINY), "made_up": 2, "image_size": (32, 32), "views": 4},
    )
