"""ForeSplat on the paper's student of Pi3X, 613 M weights: a Gaussian head on the frozen backbone.

python -m train.main foresplat_edge --data.backbone edge.safetensors --data.scenes SCENE ...

Settings and variants are those of `foresplat_pi3x.py`.
"""

from airjax.scene.pi3 import EDGE
from train.configs import foresplat_pi3x
from train.scene.heads import HeadExperiment
from train.scene.taps import Pi3System


def experiment(smoke: bool, variant: str = "multi_anchor", seed: int = 0) -> HeadExperiment:
    """One training of the head; `smoke` is a minute on a CPU, with a tiny backbone of fresh weights."""
    system = Pi3System(foresplat_pi3x.TINY if smoke else EDGE)
    return foresplat_pi3x.of_system("foresplat_edge", system, (32, 32), smoke, variant, seed)
