"""What rounding costs on the 24 Kodak photographs, at several qualities.

python -m eval.main rounding_kodak --images FOLDER      (ten minutes on a 2-core CPU)
"""

from eval.image.rounding import Rounding


def evaluation() -> Rounding:
    """The decoded file against the same rows with nothing rounded."""
    return Rounding(name="rounding_kodak", description="Kodak-24 (768x512)", image_set="kodak")
