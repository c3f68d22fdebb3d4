"""Is it right, and is it fast, on the GPU or TPU at hand? Minutes, from what is in the repository.

python -m eval.main accelerator                            (--precision highest: float32 products in the networks)
"""

from eval.accelerator import Accelerator


def evaluation() -> Accelerator:
    """A 768 x 512 photograph with 28,000 Gaussians, a scene of 32,768 in two views, and both predictors."""
    return Accelerator(name="accelerator", description="against the values of this machine's CPU")
