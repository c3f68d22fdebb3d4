"""Refinement curves of the shipped weights and of those that each estimator made of them, on crops of Kodak.

python -m train.sweep metagrad --data.folders PHOTOGRAPHS --grid variant=budget,unrolled,es --seeds 0 1 2
python -m eval.main metagrad_kodak --images FOLDER --runs runs/metagrad_sweep

An hour on a 2-core CPU for eleven estimators and three seeds, after two hours of training.
"""

from eval.curves import Curves, Start
from eval.image.subjects import Images
from train.image.meta import ImageMeta


def evaluation() -> Curves:
    """All runs that are found, with the same inner rates for their heads, then with the rates that they learned."""
    by_hand = ImageMeta.start_rates
    return Curves(
        name="metagrad_kodak",
        description="refinement of 128x128 crops of Kodak",
        subjects=Images(image_set="kodak", crop=128),
        starts=(Start("shipped", ("",), by_hand),),
        runs=("runs/metagrad_*",),
        rates=(("", by_hand), ("its rates", None)),
    )
