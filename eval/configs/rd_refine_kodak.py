"""As rd_kodak, with 50 refinement steps of the Gaussians of every file before they are rounded.

python -m eval.main rd_refine_kodak --images FOLDER      (longer than rd_kodak by 50 steps a file)
"""

from eval.image.rd import RateDistortion


def evaluation() -> RateDistortion:
    """The shipped weights, refined; the other codecs for the comparison that the tables make."""
    description = "Kodak-24 (768x512), airjax with 50 refinement steps"
    return RateDistortion(name="rd_refine_kodak", description=description, image_set="kodak", refine_steps=50)
