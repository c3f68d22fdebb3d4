"""Refinement of whole Kodak photographs: PSNR of the floats after so many steps, 10,000 Gaussians each.

python -m eval.main --config eval/configs/refine_kodak.py      (some ten minutes on a 2-core CPU)
"""

from eval.refinement import Refinement, Start
from train.meta import START_RATES


def evaluation() -> Refinement:
    """The shipped weights with rates chosen by hand and with the learned ones, no colour solve."""
    return Refinement(
        name="refine_kodak",
        description="refinement of Kodak-24 (768x512) at 10,000 Gaussians",
        images="../shared/data/kodak",
        starts=(Start("rates by hand", ("",), START_RATES), Start("shipped", ("",))),
        steps=(0, 5, 10, 20, 50, 100),
        compared=(20, 50, 100),
        max_gaussians=10_000,
    )
