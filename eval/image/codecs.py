"""Image codecs with one knob: airjax's compact profile, and the formats that Pillow writes.

All of them work on bytes in memory, complete files with their headers. Pillow's codecs take and give 8-bit pixels and
airjax float ones, the native type of each, so that no time includes a conversion.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, __version__, features

from airjax.image.codec import air_file
from airjax.image.codec.compress import CompressOptions, compress
from airjax.image.model import Model
from airjax.photographs import to_8bit
from eval.image.measures import decode_pixels


@dataclass(frozen=True)
class Codec:
    """One codec at several settings."""

    name: str  # in file names and tables
    label: str  # in plots
    description: str  # what it is, with its options and version
    knob: str  # meaning of `settings`
    settings: tuple[float, ...]  # one per operating point, from the smallest files to the largest
    prepare: Callable[[np.ndarray], Any]  # (h, w, 3) float32 in [0, 1] to the input of `encode`; not part of its time
    encode: Callable[[Any, float], bytes]  # (prepared, setting) to bytes
    decode: Callable[[bytes], Any]  # bytes to the input of `finish`
    finish: Callable[[Any], np.ndarray]  # decoded to (h, w, 3) float32 pixels; not part of the time of `decode`


def airjax_name(effort: int) -> str:
    """The name of our codec at an effort."""
    return f"airjax-effort-{effort}"


def airjax_codec(model: Model, qualities: Sequence[float], *, effort: int) -> Codec:
    """The compact profile with our weights; decoding draws the Gaussians at the size of the photograph."""

    def encode(image: np.ndarray, quality: float) -> bytes:
        return air_file.encode(compress(model, image, CompressOptions(quality, effort=effort)))

    description = f"airjax, compact profile, weights {model.name}, effort {effort}"
    plain = np.asarray
    name, label = airjax_name(effort), f"airjax, effort {effort}"
    return Codec(name, label, description, "quality", tuple(qualities), plain, encode, decode_pixels, finish=plain)


@dataclass(frozen=True)
class Pillow:
    """One kind of file that Pillow writes."""

    label: str  # for people
    format: str  # Pillow's name
    feature: str  # Pillow's name of the library behind it, for `PIL.features`
    ladder: str  # name of the field of `eval.image.rd.RateDistortion` with the settings
    options: Callable[[float], dict[str, Any]]  # a setting to the options of `Image.save`
    note: str  # the options in words
    knob: str = "quality"  # meaning of a setting


def _jpeg(label: str, subsampling: int, *, optimize: bool = True) -> Pillow:
    def options(quality: float) -> dict[str, Any]:
        return {"quality": quality, "subsampling": subsampling, "optimize": optimize}

    note = "optimized Huffman tables, baseline" if optimize else "baseline, as Pillow writes it unless told otherwise"
    return Pillow(label, "JPEG", "jpg", "jpeg_qualities", options, note)


_AVIF_DEFAULTS = "Pillow's defaults: 4:2:0, speed 6, all cores"
PILLOW: dict[str, Pillow] = {
    "jpeg-420": _jpeg("JPEG 4:2:0", 2),
    # What Pillow writes unless it is asked to optimize: the same pixels in larger files.
    "jpeg-420-default": _jpeg("JPEG 4:2:0, default tables", 2, optimize=False),
    "jpeg-444": _jpeg("JPEG 4:4:4", 0),
    "webp": Pillow(
        "WebP", "WEBP", "webp", "webp_qualities", lambda quality: {"quality": quality, "method": 6}, "lossy, method 6"
    ),
    # mct: Pillow's default codes R, G and B apart, which costs 2 to 4 dB. Equal ratios: with Pillow's other knob, equal
    # PSNR ("dB"), rough images take most of the bits, and the mean over images is 1 to 3 dB worse at equal mean rate.
    "jpeg2000": Pillow(
        "JPEG 2000",
        "JPEG2000",
        "jpg_2000",
        "jpeg2000_ratios",
        lambda ratio: {"irreversible": True, "mct": 1, "quality_mode": "rates", "quality_layers": [ratio]},
        "irreversible 9/7 wavelet and color transform, one layer, the same compression ratio for all images",
        "ratio",
    ),
    "avif": Pillow("AVIF", "AVIF", "avif", "avif_qualities", lambda quality: {"quality": quality}, _AVIF_DEFAULTS),
}


def is_available(name: str) -> bool:
    """Whether this Pillow was built with the library behind PILLOW[name]."""
    return bool(features.check(PILLOW[name].feature))


def pillow_codec(name: str, settings: Sequence[float]) -> Codec:
    """One of PILLOW, which has to be available."""
    kind = PILLOW[name]

    def encode(picture: Image.Image, setting: float) -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, kind.format, **kind.options(setting))
        return buffer.getvalue()

    return Codec(
        name,
        kind.label,
        f"{kind.label}, {kind.note}; Pillow {__version__} with {_library(kind.feature)}",
        kind.knob,
        tuple(settings),
        lambda image: Image.fromarray(to_8bit(image)),
        encode,
        _decode_8bit,
        lambda pixels: np.divide(pixels, np.float32(255)),
    )


def _library(feature: str) -> str:
    """Name and version of the library behind a feature of Pillow."""
    # "jpg" gives the version of the interface, which is that of 1998.
    turbo = feature == "jpg" and features.check("libjpeg_turbo")
    name = {"jpg": "libjpeg", "webp": "libwebp", "jpg_2000": "OpenJPEG", "avif": "libavif"}[feature]
    version = features.version("libjpeg_turbo" if turbo else feature)
    return f"{name}-turbo {version}" if turbo else f"{name} {version}"


def _decode_8bit(data: bytes) -> np.ndarray:
    """(h, w, 3) uint8."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))
