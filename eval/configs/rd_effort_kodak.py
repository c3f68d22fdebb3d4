"""As rd_kodak, with an encoder that takes about half a minute a photograph.

python -m eval.main rd_effort_kodak --images FOLDER      (24 photographs at seven qualities: hours)
"""

from eval.image.rd import RateDistortion


def evaluation() -> RateDistortion:
    """The shipped weights at effort 7; the other codecs for the comparison that the tables make."""
    description = "Kodak-24 (768x512), airjax at effort 7"
    return RateDistortion(name="rd_effort_kodak", description=description, image_set="kodak", effort=7)
