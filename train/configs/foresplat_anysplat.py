"""ForeSplat on AnySplat: its own Gaussian head is trained on, for what refinement makes of its Gaussians.

python -m train.main foresplat_anysplat --data.backbone anysplat.safetensors --init anysplat.safetensors \
    --data.scenes SCENE ...

Settings and variants are those of `foresplat_pi3x.py`; here nothing has to be pretrained.
"""

from airjax.nn.vggt import VggtConfig
from airjax.scene.anysplat import AnySplatConfig
from train.configs import foresplat_pi3x
from train.scene.heads import HeadExperiment
from train.scene.taps import AnySplatSystem

NARROW = {"depth_features": 16, "gaussian_features": 16, "gaussian_hidden": 16, "encoder_blocks": 1, "camera_blocks": 1}
TINY = AnySplatConfig(VggtConfig(32, 2, (1, 1, 1, 1), 2, camera_heads=2, channels=(16,) * 4, **NARROW))


def experiment(smoke: bool, variant: str = "multi_anchor", seed: int = 0) -> HeadExperiment:
    """One training of the head; `smoke` is a minute on a CPU, with a tiny backbone of fresh weights."""
    system = AnySplatSystem(TINY if smoke else AnySplatConfig())
    return foresplat_pi3x.of_system("foresplat_anysplat", system, (28, 42), smoke, variant, seed)
