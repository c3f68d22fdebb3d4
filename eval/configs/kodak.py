"""The shipped weights on the 24 Kodak photographs, at most 28,000 Gaussians (AIR's budget there).

python -m eval.main kodak --images FOLDER      (some minutes on a 2-core CPU)
"""

from eval.image.quality import ImageEvaluation


def evaluation() -> ImageEvaluation:
    """Networks only, and with 10 colour-solve steps; no step on the geometry in either."""
    return ImageEvaluation(
        name="kodak",
        description="Kodak-24 (768x512)",
        image_set="kodak",
        max_gaussians=28_000,
        solve_steps=(0, 10),
    )
