"""Time of one refinement step at 14,000 Gaussians on this machine.

python -m eval.main bench_refine      (a minute; leave the machine alone)
"""

from eval.image.bench import Benchmark
from eval.image.sets import PHOTOGRAPH


def evaluation() -> Benchmark:
    """A 768 x 512 photograph with the budget of the refinement study."""
    return Benchmark(
        name="bench_refine",
        description="times on a 768x512 photograph with 14,000 predicted Gaussians",
        images=PHOTOGRAPH,
        max_gaussians=14_000,
        parts=("gradient", "refine", "machine"),
    )
