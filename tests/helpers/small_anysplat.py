"""The AnySplat of the golden files (`tests/golden/parity/make.py`)."""

from airjax.nn.vggt import VggtConfig
from airjax.scene.anysplat import AnySplatConfig

_RELEASED = AnySplatConfig().network
_NETWORK = VggtConfig(
    width=64,
    heads=2,
    counts=(1, 1, 1, 1),
    encoder_heads=2,
    encoder_blocks=2,
    camera_heads=2,
    camera_blocks=2,
    channels=(16, 32, 64, 64),
    depth_features=32,
    mean=_RELEASED.mean,
    std=_RELEASED.std,
)
SMALL = AnySplatConfig(_NETWORK, voxel=0.05)
