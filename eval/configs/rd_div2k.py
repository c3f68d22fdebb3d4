"""Rate and distortion on the two DIV2K validation images (bicubic x2) at hand, which are only a sample of that set.

python -m eval.main rd_div2k --images FOLDER
"""

from eval.image.rd import RateDistortion


def evaluation() -> RateDistortion:
    """As on Kodak (eval/configs/rd_kodak.py)."""
    description = "two DIV2K validation images, bicubic x2 (1020x678)"
    return RateDistortion(name="rd_div2k", description=description, image_set="div2k_valid_x2")
