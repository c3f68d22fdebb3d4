"""ForeSplat on Pi3X: a Gaussian head on the frozen backbone, trained for what refinement makes of its Gaussians.

python -m train.main foresplat_pi3x --data.backbone pi3x.safetensors --data.scenes SCENE ...
python -m train.main foresplat_pi3x --variant zero_step --data.backbone pi3x.safetensors --data.scenes SCENE ...

A SCENE is a folder of 16 photographs or more; no poses are needed. zero_step is vanilla training for as many
iterations. Fresh heads are trained by --variant pretraining first; the others start from its weights with --init.
As printed in the paper: 16 views, every 4th of them judged; 50 to 500 inner steps, an anchor at every 40th; 2,000
iterations; lambda is --phase.estimator.mix, 0 for its headline rows. Not printed, and chosen here: the learning rates,
that all given views count in an inner step, that the judged ones make the outer loss, and the estimators beside
multi_anchor. Of the printed pretraining, LPIPS is left out, and the loss is minus the PSNR.
"""

from dataclasses import replace

from airjax.inner.estimators import ZeroStep
from airjax.nn import pi3
from airjax.nn.gaussian_head import GaussianHeadConfig
from airjax.scene.pi3 import PI3X, SplatConfig
from train.loop import LoopConfig
from train.meta import Variants
from train.optim import Optimizer
from train.scene.heads import HeadExperiment, HeadMeta
from train.scene.taps import Pi3System, TapData

VARIANTS = Variants(
    head={
        "multi_anchor": {"min_steps": 50, "max_steps": 500, "stride": 40},
        "budget": {"anchors": (0, 100, 500), "weights": (1.0, 1.0, 2.0)},
        "meta_sgd": {"anchors": (0, 100, 500), "weights": (1.0, 1.0, 2.0)},
    },
    rates={"meta_sgd": {"anchors": (100, 500)}},
    learning_rates={"head": 1e-4, "rates": 4e-4},
    horizon=500,
)
PRETRAINING = "pretraining"
TINY = SplatConfig(pi3.small(32, 2, blocks=1), GaussianHeadConfig(16, 16, 16, degree=1))


def experiment(smoke: bool, variant: str = "multi_anchor", seed: int = 0) -> HeadExperiment:
    """One training of the head; `smoke` is a minute on a CPU, with a tiny backbone of fresh weights."""
    return of_system("foresplat_pi3x", Pi3System(TINY if smoke else PI3X), (32, 32), smoke, variant, seed)


def of_system(name, system, tiny_size: tuple[int, int], smoke: bool, variant: str, seed: int) -> HeadExperiment:
    """The same for a backbone; `tiny_size` is that of the images of a smoke run."""
    pretraining = variant == PRETRAINING
    phase = HeadMeta(ZeroStep()) if pretraining else VARIANTS.phase(HeadMeta, variant)
    rate = VARIANTS.learning_rates[phase.trained]
    full = HeadExperiment(
        name=f"{name}_{variant}_{seed}",
        phase=phase,
        optimizer=Optimizer(learning_rate=rate, warmup=2000 if pretraining else 20),
        loop=LoopConfig(30_000 if pretraining else 2000, seed=seed, checkpoint_every=100, panel_every=500),
        data=TapData(system, views=9, every=9, seed=seed) if pretraining else TapData(system, seed=seed),
    )
    if not smoke:
        return full
    return full.with_(
        name=f"{full.name}_smoke",
        phase=replace(phase, estimator=phase.estimator.at(2)),
        loop=LoopConfig(num_steps=4, seed=seed, log_every=2, checkpoint_every=2),
        data={"made_up": 2, "image_size": tiny_size, "views": 4},
    )
