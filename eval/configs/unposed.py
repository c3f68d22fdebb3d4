"""The network for photographs without poses: cameras, and views that were kept back.

python -m eval.main unposed --images PHOTOGRAPHS --scenes SCENE ...

A SCENE is a folder of photographs with poses, which are what found ones are compared with.
"""

from eval.scene.unposed import UnposedEvaluation


def evaluation() -> UnposedEvaluation:
    """64 computed scenes of 4 views of 64x64, and the real ones that are given."""
    return UnposedEvaluation(name="unposed", description="photographs without poses, 4 views of 64x64")
