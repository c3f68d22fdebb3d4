"""Rate and distortion on 32 DIV2K crops of 512x512.

python -m eval.main rd_div2k_512 --images FOLDER

They are those of an earlier coordinate-network benchmark; which split of DIV2K each comes from is not known.
"""

from eval.image.rd import RateDistortion


def evaluation() -> RateDistortion:
    """As on Kodak (eval/configs/rd_kodak.py)."""
    return RateDistortion(name="rd_div2k_512", description="32 DIV2K crops (512x512)", image_set="div2k_512")
