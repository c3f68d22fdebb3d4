"""Rate and distortion on the 24 Kodak photographs: the compact profile beside JPEG, WebP, JPEG 2000 and AVIF.

python -m eval.main rd_kodak --images FOLDER      (some 20 minutes on a busy 2-core CPU)
"""

from eval.image.rd import RateDistortion


def evaluation() -> RateDistortion:
    """The shipped weights at seven qualities, the others from about 0.1 to 2 bits per pixel."""
    return RateDistortion(name="rd_kodak", description="Kodak-24 (768x512)", image_set="kodak")
