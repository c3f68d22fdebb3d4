"""airjax: photographs to 2D Gaussians in one feed-forward pass.

model = airjax.load()
encoded = model.encode(image)                    # (h, w, 3) in [0, 1] -> Gaussians
rendered = airjax.render(encoded.gaussians, image_size=encoded.image_size).image
data = airjax.to_bytes(airjax.compress(model, image, airjax.CompressOptions(quality=45)))

The names below are imported when they are first used, so that the command line can answer `--help` without JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airjax.errors import AirjaxError
    from airjax.gaussians import Gaussians2D
    from airjax.image.codec.air_file import Encoded
    from airjax.image.codec.air_file import decode as from_bytes
    from airjax.image.codec.air_file import encode as to_bytes
    from airjax.image.codec.compress import CompressOptions, compress
    from airjax.image.codec.payload import Quantised
    from airjax.image.model import Model, load
    from airjax.raster.draw import render

__version__ = "0.1.0"
__all__ = [
    "AirjaxError",
    "CompressOptions",
    "Encoded",
    "Gaussians2D",
    "Model",
    "Quantised",
    "compress",
    "from_bytes",
    "load",
    "render",
    "to_bytes",
]

# Where each name lives, and what it is called there.
_HOMES = {
    "AirjaxError": ("airjax.errors", "AirjaxError"),
    "CompressOptions": ("airjax.image.codec.compress", "CompressOptions"),
    "Encoded": ("airjax.image.codec.air_file", "Encoded"),
    "Gaussians2D": ("airjax.gaussians", "Gaussians2D"),
    "Model": ("airjax.image.model", "Model"),
    "Quantised": ("airjax.image.codec.payload", "Quantised"),
    "compress": ("airjax.image.codec.compress", "compress"),
    "from_bytes": ("airjax.image.codec.air_file", "decode"),
    "load": ("airjax.image.model", "load"),
    "render": ("airjax.raster.draw", "render"),
    "to_bytes": ("airjax.image.codec.air_file", "encode"),
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'airjax' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    globals()[name] = value = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
