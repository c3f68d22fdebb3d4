"""The small network for views without poses, from fresh weights, on procedural scenes of all kinds.

python -m train.main unposed --data.folders PHOTOGRAPHS

The shipped one: 1.6 seconds of two cores a step, 80 minutes in all. `--extend STEP` goes on.
"""

from airjax.nn import pi3
from airjax.nn.gaussian_head import GaussianHeadConfig
from airjax.scene.pi3 import SplatConfig
from train.loop import LoopConfig
from train.optim import Optimizer
from train.scene.data import SceneData
from train.scene.unposed import Geometry, UnposedExperiment

HEAD = GaussianHeadConfig(features=24, image=24, hidden=24, degree=1)


def experiment(smoke: bool) -> UnposedExperiment:
    """The run; `smoke` is a minute on a CPU."""
    full = UnposedExperiment(
        name="unposed",
        phase=Geometry(),
        config=SplatConfig(pi3.small(matching=48), HEAD, pixels=True, detail=4),
        optimizer=Optimizer(learning_rate=8e-4, warmup=300, b2=0.95),
        loop=LoopConfig(num_steps=3000, log_every=50, checkpoint_every=200, panel_every=1000, keep=1),
        data=SceneData(context=4, targets=0, batch_size=8, rooms=3),
    )
    if not smoke:
        return full
    return full.with_(
        name="unposed_smoke",
        config=SplatConfig(pi3.small(32, 2, blocks=1, matching=16), HEAD, pixels=True, detail=4),
        loop=LoopConfig(num_steps=4, log_every=2, checkpoint_every=2),
        data={"made_up": 20, "image_size": (32, 32), "batch_size": 2, "rooms": 1, "context": 3},
    )
