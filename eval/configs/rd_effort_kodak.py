"""As rd_kodak, with an encoder that takes about half a minute a photograph.

python -m eval.main rd_effort_kodak --images FOLDER      (half an hour and more)
"""

from eval.image.rd import RateDistortion


def evaluation() -> RateDistortion:
    """The shipped weights at effort 6, each file made once, against JPEG."""
    return RateDistortion(
        name="rd_effort_kodak",
        description="Kodak-24 (768x512), airjax at effort 6",
        image_set="kodak",
        efforts=(6,),
        airjax_qualities=(5, 15, 30, 50),
        codecs=("airjax", "jpeg-420"),
        repetitions=0,
    )
