"""Times of the alpha renderer on this machine.

python -m eval.main foresplat_bench      (a minute; leave the machine alone)
"""

from eval.scene.bench import SceneBenchmark


def evaluation() -> SceneBenchmark:
    """Two views of 64 and of 128 pixels, one Gaussian per 2 x 2 pixels; and one per pixel."""
    return SceneBenchmark(name="foresplat_bench", description="alpha renderer with loss, one view")
