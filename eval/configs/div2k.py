"""The shipped weights on the two DIV2K validation images (bicubic x2) at hand, at most 46,000 Gaussians.

python -m eval.main div2k --images FOLDER

AIR spends 46,000 Gaussians an image on all 100 images of that set; two of them are no such mean, only a sample.
"""

from dataclasses import replace

from eval.configs import kodak
from eval.image.quality import ImageEvaluation


def evaluation() -> ImageEvaluation:
    """As `kodak.py`, with another budget."""
    description, image_set = "two DIV2K validation images, bicubic x2 (1020x678)", "div2k_valid_x2"
    return replace(kodak.evaluation(), name="div2k", description=description, image_set=image_set, max_gaussians=46_000)
