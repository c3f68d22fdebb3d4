"""Times and memory on this machine: encode, decode, gradients, colour solve, cold start, a 4096 x 4096 image.

python -m eval.main bench      (some minutes; leave the machine alone)
"""

from eval.image.bench import Benchmark
from eval.image.sets import PHOTOGRAPH


def evaluation() -> Benchmark:
    """28,000 Gaussians on a 768 x 512 photograph: every patch asks for one until the budget is spent."""
    return Benchmark(
        name="bench",
        description="times on a 768x512 photograph with 28,000 predicted Gaussians",
        images=PHOTOGRAPH,
    )
