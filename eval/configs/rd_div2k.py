"""Rate and distortion on the two DIV2K validation images (bicubic x2) at hand, which are only a sample of that set.

python -m eval.main --config eval/configs/rd_div2k.py
"""

from eval.image.rd import RateDistortion


def evaluation() -> RateDistortion:
    """As on Kodak (eval/configs/rd_kodak.py)."""
    description, images = "two DIV2K validation images, bicubic x2 (1020x678)", "../shared/data/div2k_valid_x2"
    return RateDistortion(name="rd_div2k", description=description, images=images)
