"""Refinement of whole Kodak photographs: PSNR of the floats after so many steps, 10,000 Gaussians each.

python -m eval.main refine_kodak --images FOLDER      (some ten minutes on a 2-core CPU)
"""

from eval.curves import Curves, Start
from eval.image.subjects import Images
from train.image.meta import ImageMeta


def evaluation() -> Curves:
    """The shipped weights with rates chosen by hand and with the learned ones, no color solve."""
    return Curves(
        name="refine_kodak",
        description="refinement of Kodak-24 (768x512) at 10,000 Gaussians",
        subjects=Images(image_set="kodak", max_gaussians=10_000),
        starts=(Start("rates by hand", ("",), ImageMeta.start_rates), Start("shipped", ("",))),
        steps=(0, 5, 10, 20, 50, 100),
        compared=(20, 50, 100),
    )
