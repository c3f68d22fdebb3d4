"""Photographs on disk: files to float pixels and back, with a notice for every conversion.

Pixels are (h, w, 3) float32, sRGB-encoded (not linear light), in [0, 1]. Each loss or conversion on the way in (alpha,
bit depth, color profile, orientation, further pages) is one line of `LoadedImage.notices`. A file that cannot be read
or written is an AirjaxError of one line that starts with the file's name.

Pillow's own warnings (odd metadata) are left to the program's filters.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin, UnidentifiedImageError, features

from airjax.arrays import AnyArray, bands_of
from airjax.color_space import ColorSpace
from airjax.errors import AirjaxError
from airjax.files import atomic_write_bytes, display_name, read_bytes, reason
from airjax.png_chunks import PngChunk, png_chunks, space_of, without_animation

# Suffix (small letters) to Pillow's format and its options.
_WRITERS: dict[str, tuple[str, dict]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
}
MAX_PIXELS = 2**28  # width times height, 16,384 squared; a float32 RGB image of this size takes 3.2 GB
WRITTEN_SUFFIXES = tuple(_WRITERS)
_READ_ONLY = {"JPEG": (".jfif", ".jpe"), "GIF": (".gif",), "BMP": (".bmp", ".dib"), "AVIF": (".avif",)}
_FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"]  # names of Pillow
_FORMATS += ["AVIF"] if features.check("avif") else []  # since Pillow 11.3, where it was built with it
# Those that are read, and other pictures, which are not.
IMAGE_SUFFIXES = (*WRITTEN_SUFFIXES, *(suffix for name in _FORMATS for suffix in _READ_ONLY.get(name, ())))
UNREADABLE_SUFFIXES = tuple(
    suffix
    for suffix in (
        *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".exr", ".hdr", ".tga", ".ppm", ".pgm"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw"),
    )
    if suffix not in IMAGE_SUFFIXES
)
READABLE = f"a PNG, JPEG, WebP, TIFF, GIF{', BMP or AVIF' if 'AVIF' in _FORMATS else ' or BMP'} image"
_OPENING = threading.Lock()  # Pillow has one limit for all threads
_MAX_SIDE = {"JPEG": 65500, "WEBP": 16383}  # pixels; limits of these formats

# What Pillow's readers raise on damaged files: OSError and SyntaxError on purpose, the others from inside its
# parsers. The fuzz test in tests/test_photographs.py looks for more.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, RuntimeError),
    *(struct.error, zlib.error, ImageCms.PyCMSError, MemoryError),
)


class LoadedImage(NamedTuple):
    """An image and the conversions that it went through."""

    pixels: np.ndarray  # (h, w, 3) float32 in [0, 1], sRGB; transparent parts are laid over white
    notices: tuple[str, ...]  # one line for each conversion, without the file's name; empty for an 8-bit sRGB image
    alpha: np.ndarray | None = None  # (h, w) float32 in [0, 1], 0 for transparent; None for an opaque image


def read_image(path: str | os.PathLike, *, upright: bool = True) -> LoadedImage:
    """The first frame of an image file of at most MAX_PIXELS, as upright sRGB pixels; formats: IMAGE_SUFFIXES.

    8-bit samples are divided by 255, 16-bit grey ones by 65535 (float32 holds every value apart); 16-bit
    colour is cut to its upper 8 bits by Pillow. Transparent parts are laid over white, in sRGB values as
    browsers do. Colours of an embedded profile, or of PNG's cICP, gAMA and cHRM chunks, are converted to sRGB.
    Samples need a known range: integers of at most 16 bits, or floating grey in [0, 1].
    Without `upright` the EXIF orientation is ignored: rows and columns are those of the file.
    """
    return parse_image(read_bytes(path), name=display_name(path), upright=upright)


def parse_image(data: bytes, *, name: str, upright: bool = True) -> LoadedImage:
    """`read_image` of the content of a file; `name` is the one that errors begin with."""
    try:
        return _load(data, upright)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise AirjaxError(f"{name}: expected at most {MAX_PIXELS} pixels, got many more") from error
    except _Refused as error:
        raise AirjaxError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise AirjaxError(f"{name}: expected {READABLE}, got something else or a damaged header") from error
    except _DAMAGED as error:
        raise AirjaxError(f"{name}: expected {READABLE}, got a damaged one ({reason(error)})") from error


def orientation_of(path: str | os.PathLike) -> int:
    """EXIF orientation of an image that `read_image` reads, 1 to 8; 1 where there is none. Its pixels are not read."""
    with _opened(path) as image:
        return _orientation(image, [])


def _opened(source: str | os.PathLike | io.BytesIO) -> Image.Image:
    """An image whose pixels are not read yet, of up to MAX_PIXELS: Pillow by itself allows fewer."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        try:
            return Image.open(source, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def write_image(path: str | os.PathLike, pixels: AnyArray) -> None:
    """Writes pixels, clipped to [0, 1] and rounded to 8 bits, in the format that the suffix names.

    The suffix is one of WRITTEN_SUFFIXES, in any letters. PNG, WebP and TIFF are lossless; JPEG has quality 95
    without chroma subsampling. The file appears whole or not at all. Pixels and ValueErrors as in `to_8bit`;
    AirjaxError also for a suffix or a size that no format holds.
    """
    suffix = Path(path).suffix.lower()
    atomic_write_bytes(path, image_bytes(pixels, suffix, name=display_name(path)))


def image_bytes(pixels: AnyArray, suffix: str, *, name: str) -> memoryview:
    """The content of a file that `write_image` writes; `name` is the one that errors begin with."""
    if suffix not in _WRITERS:
        raise AirjaxError(f"{name}: expected a name ending in {', '.join(WRITTEN_SUFFIXES)}, got {suffix or 'none'}")
    format_name, options = _WRITERS[suffix]
    image = Image.fromarray(to_8bit(pixels))
    limit = _MAX_SIDE.get(format_name, image.width + image.height)
    if max(image.size) > limit:
        size = f"{image.width}x{image.height}"
        raise AirjaxError(f"{name}: expected at most {limit} pixels a side for {format_name}, got {size}; use .png")
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getbuffer()


def to_8bit(pixels: AnyArray) -> np.ndarray:
    """Pixels as uint8: clipped to [0, 1], times 255, rounded to the nearest (halves to even).

    (h, w, 3) keeps its shape, grey (h, w, 1) becomes (h, w); ValueError for others, and those not floating or finite.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.size == 0:
        raise ValueError(f"pixels: expected (h, w, 3) or (h, w, 1), got {pixels.shape}")
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"pixels: expected floating numbers in [0, 1], got {pixels.dtype}")
    rounded = np.empty_like(pixels, np.uint8)
    for band in bands_of(pixels):
        if not np.isfinite(pixels[band]).all():
            raise ValueError("pixels: expected finite numbers, got NaN or infinity")
        rounded[band] = np.rint(np.clip(pixels[band], 0.0, 1.0) * 255.0)
    return rounded[:, :, 0] if rounded.shape[2] == 1 else rounded


class _Refused(Exception):
    """A readable image that has no meaning as a photograph; the message goes after the file's name."""


def _load(data: bytes, upright: bool) -> LoadedImage:
    notices: list[str] = []
    chunks = png_chunks(data)
    still, frames = without_animation(data, chunks)
    with _opened(io.BytesIO(still)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _Refused(f"expected at most {MAX_PIXELS} pixels, got {image.width}x{image.height}")
        frames = max(frames, getattr(image, "n_frames", 1))
        if frames > 1:
            notices.append(f"first of {frames} frames or pages used")
        bits, tags = _sample_bits(image, data), _tiff_tags(image)
        # Pillow turns such images around at 8 bits, but not at 16.
        white_is_zero = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
        # TIFF: Pillow turns the image upright while it loads the pixels, and drops the tag.
        turned = tags.get(ExifTags.Base.Orientation, 1)
        image.load()
        space, named = _space_of(chunks, notices)
        if space is not None:  # it goes before a profile
            image.info.pop("icc_profile", None)
        if image.mode.startswith(("I", "F")):
            pixels, alpha = _wide_grey(image, bits, white_is_zero, notices)
        else:
            pixels, alpha = _narrow(image, bits, notices)
        orientation = _orientation(image, notices)

    if space is not None:
        pixels = space.to_srgb(pixels)
        notices.append(f"colors converted from {named} to sRGB")
    if alpha is not None and (alpha == 1.0).all():
        notices.append("alpha channel dropped (opaque everywhere)")
        alpha = None
    if alpha is not None:
        notices.append("transparent parts laid over white, alpha channel dropped")
        pixels = pixels * alpha[:, :, None] + (np.float32(1.0) - alpha[:, :, None])
    if max(orientation, turned) > 1:
        turn = orientation if upright else {6: 8, 8: 6}.get(turned, turned)  # the inverse of what Pillow did
        pixels = _turn_upright(pixels, turn)
        alpha = None if alpha is None else np.ascontiguousarray(_turn_upright(alpha, turn))
        done = "applied" if upright else "ignored, pixels read as stored"
        notices.append(f"EXIF orientation {max(orientation, turned)} {done}")
    return LoadedImage(np.ascontiguousarray(pixels), tuple(notices), alpha)


def _space_of(chunks: list[PngChunk], notices: list[str]) -> tuple[ColorSpace | None, str]:
    """Colors to convert that a PNG file names by numbers, and the chunks that do."""
    try:
        space, named = space_of(chunks)
        if space is not None and not space.is_srgb:
            space.to_srgb(np.zeros((1, 1, 3)))  # a ValueError where nothing can be converted
            return space, named
    except ValueError as error:
        notices.append(f"colors read as sRGB ({error})")
    return None, ""


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF file; none of other formats."""
    return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}


def _sample_bits(image: Image.Image, data: bytes) -> int:
    """Bits per sample in the file. Pillow's mode does not tell: it reads 16-bit colour as 8-bit modes."""
    if image.format == "TIFF":
        return max(_tiff_tags(image).get(ExifTags.Base.BitsPerSample, (1,)))
    if image.format == "PNG":
        return data[24]  # after the signature (8), the chunk head (8), width and height (4 each)
    return 8


def _wide_grey(
    image: Image.Image, bits: int, white_is_zero: bool, notices: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """(pixels, alpha or None) of a grey image with more than 8 bits: Pillow's modes I;16, I;16B, I and F."""
    samples = np.asarray(image)
    alpha = None
    if image.mode == "F":
        if not (samples.min() >= 0.0 and samples.max() <= 1.0):  # written so that NaN is refused
            raise _Refused("expected floating samples in [0, 1], got others")
        grey = samples.astype(np.float32)
        notices.append(f"{bits}-bit floating grey read as RGB with three equal channels")
    else:
        if samples.min() < 0 or samples.max() > 0xFFFF:
            raise _Refused("expected integer samples of 8 or 16 bits, got values outside 0 to 65535")
        full = (1 << bits) - 1 if image.mode.startswith("I;16") else 0xFFFF
        grey = samples.astype(np.float32) / np.float32(full)
        notices.append(f"{bits}-bit grey, divided by {full}, read as RGB with three equal channels")
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            alpha = (samples != transparent).astype(np.float32)
    if white_is_zero:
        grey = np.float32(1.0) - grey
    if image.info.get("icc_profile"):
        notices.append("colour profile ignored (it is only applied to 8-bit images)")
    return np.repeat(grey[:, :, None], 3, axis=2), alpha


def _narrow(image: Image.Image, bits: int, notices: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """(pixels, alpha or None) of an image that Pillow holds in 8 bits or fewer a sample."""
    if bits > 8:
        notices.append(f"{bits}-bit colour cut to its upper 8 bits (Pillow reads no more of it)")
        if image.info.pop("transparency", None) is not None:
            notices.append("transparent colour ignored (its 16-bit value cannot be told apart any more)")
    alpha = None
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        image = image.convert("RGBA" if image.mode not in ("L", "1", "LA", "La") else "LA")
        alpha = np.divide(np.asarray(image.getchannel("A")), np.float32(255))
    if image.mode in ("1", "L", "LA"):
        image = image.convert("L")
        notices.append("grey image read as RGB with three equal channels")
    elif image.mode != "CMYK":
        image = image.convert("RGB")
    image = _to_srgb(image, notices)
    return np.divide(np.asarray(image), np.float32(255)), alpha


def _to_srgb(image: Image.Image, notices: list[str]) -> Image.Image:
    """An L, RGB or CMYK image in sRGB, by the embedded profile where there is one that works."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if image.mode == "L" and source.profile.xcolor_space == "RGB ":
                image = image.convert("RGB")
            target, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
            flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
            transform = ImageCms.buildTransform(source, target, image.mode, "RGB", intent, flags)
            if image.mode == "CMYK" or _changes_colors(transform, image.mode):
                converted = transform.apply(image)
                notices.append("colours converted from the embedded profile to sRGB")
                return converted
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
            notices.append(f"colour profile ignored ({reason(error)})")
    if image.mode == "CMYK":
        notices.append("CMYK converted to RGB without a colour profile")
    return image.convert("RGB")


def _changes_colors(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a profile differs from sRGB by more than rounding; its name would not tell, sRGB has many."""
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(6, 36, 3)
    probe_image = Image.fromarray(probe if mode == "RGB" else probe[:, :, 0])
    difference = np.asarray(transform.apply(probe_image)).astype(int) - np.asarray(probe_image.convert("RGB"))
    return bool(np.abs(difference).max() > 2)


def _orientation(image: Image.Image, notices: list[str]) -> int:
    """EXIF (or XMP) orientation, 1 to 8; 1 where there is none or it has been applied."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGED as error:
        notices.append(f"EXIF data ignored ({reason(error)})")
        return 1
    return orientation if orientation in range(1, 9) else 1


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation (EXIF 2.32, tag 0x0112: which side row 0 and column 0 of the file show)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # After the transposition of 5 to 8: the axes along which the stored order runs backwards.
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(pixels, flips.get(orientation, ()))
