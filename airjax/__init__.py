"""airjax: photographs to 2D Gaussians in one feed-forward pass.

model = airjax.load()
encoded = model.encode(image)                    # (h, w, 3) in [0, 1] -> Gaussians
rendered = airjax.render(encoded.gaussians, image_size=encoded.image_size).image
"""

from airjax.errors import AirjaxError
from airjax.gaussians import Gaussians2D
from airjax.image.bitstream import Encoded
from airjax.image.encoder import Model, load
from airjax.render.plan import render

__all__ = ["AirjaxError", "Encoded", "Gaussians2D", "Model", "load", "render"]
