"""The shipped weights on the two DIV2K validation images (bicubic x2) at hand, at most 46,000 Gaussians.

python -m eval.main --config eval/configs/div2k.py

AIR spends 46,000 Gaussians an image on all 100 images of that set; two of them are no such mean, only a sample.
"""

from eval.image.quality import ImageEvaluation


def evaluation() -> ImageEvaluation:
    """Networks only, and with 10 colour-solve steps."""
    return ImageEvaluation(
        name="div2k",
        description="two DIV2K validation images, bicubic x2 (1020x678)",
        images="../shared/data/div2k_valid_x2",
        max_gaussians=46_000,
        solve_steps=(0, 10),
    )
