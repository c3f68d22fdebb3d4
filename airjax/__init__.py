"""airjax: photographs to 2D Gaussians in one feed-forward pass.

model = airjax.load()
encoded = model.encode(image)                    # (h, w, 3) in [0, 1] -> Gaussians
rendered = airjax.render(encoded.gaussians, image_size=encoded.image_size).image
data = airjax.to_bytes(airjax.compress(model, image, quality=45))

The names below are imported when they are first used, so that the command line can answer `--help` without JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airjax.errors import AirjaxError
    from airjax.gaussians import Gaussians2D
    from airjax.image.bitstream import Encoded
    from airjax.image.bitstream import decode as from_bytes
    from airjax.image.bitstream import encode as to_bytes
    from airjax.image.coded import Quantised
    from airjax.image.compress import compress
    from airjax.image.encoder import Model, load
    from airjax.render.plan import render

__version__ = "0.1.0"
__all__ = [
    "AirjaxError",
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
    "Encoded": ("airjax.image.bitstream", "Encoded"),
    "Gaussians2D": ("airjax.gaussians", "Gaussians2D"),
    "Model": ("airjax.image.encoder", "Model"),
    "Quantised": ("airjax.image.coded", "Quantised"),
    "compress": ("airjax.image.compress", "compress"),
    "from_bytes": ("airjax.image.bitstream", "decode"),
    "load": ("airjax.image.encoder", "load"),
    "render": ("airjax.render.plan", "render"),
    "to_bytes": ("airjax.image.bitstream", "encode"),
}
# `airjax.render` is the function. The folder of that name binds itself here when it is first imported, and only
# then: imported now and unbound, it leaves the name to __getattr__.
import_module("airjax.render")
del globals()["render"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'airjax' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    globals()[name] = value = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
