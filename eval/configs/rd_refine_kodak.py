"""As rd_kodak, with 50 refinement steps of the Gaussians of every file before they are rounded.

python -m eval.main --config eval/configs/rd_refine_kodak.py      (longer than rd_kodak by 50 steps a file)
"""

from eval.image.rd import RateDistortion


def evaluation() -> RateDistortion:
    """The shipped weights, refined; the other codecs for the comparison that the tables make."""
    description, images = "Kodak-24 (768x512), airjax with 50 refinement steps", "../shared/data/kodak"
    return RateDistortion(name="rd_refine_kodak", description=description, images=images, refine_steps=50)
