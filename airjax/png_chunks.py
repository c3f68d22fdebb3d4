"""The chunks of a PNG file that Pillow does not use: colours named by numbers, and animations that it refuses."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from airjax.color_space import SRGB_POINTS, ColorSpace, Curve, named_space, power_curve, srgb_to_linear

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">I4s")
_OF_ANIMATIONS = (b"acTL", b"fcTL", b"fdAT")
_SRGB_GAMMA = 1 / 2.2  # what files of sRGB say


class PngChunk(NamedTuple):
    """A chunk and where it lies: data[start:end] is all of it."""

    tag: bytes
    payload: memoryview
    start: int
    end: int


def png_chunks(data: bytes) -> list[PngChunk]:
    """The whole chunks of a file, in its order; none of other formats."""
    chunks: list[PngChunk] = []
    start, view = len(SIGNATURE), memoryview(data)
    while data.startswith(SIGNATURE) and start + _HEAD.size <= len(data):
        length, tag = _HEAD.unpack_from(data, start)
        end = start + _HEAD.size + length + 4  # a checksum behind
        if end > len(data):
            break
        chunks.append(PngChunk(tag, view[start + _HEAD.size : end - 4], start, end))
        start = end
    return chunks


def without_animation(data: bytes, chunks: list[PngChunk]) -> tuple[bytes, int]:
    """A file with its default image alone, and how many frames its animation has; 1 without one."""
    frames = [int.from_bytes(chunk.payload[:4]) for chunk in chunks if chunk.tag == b"acTL"]
    if not frames:
        return data, 1
    still = b"".join(data[chunk.start : chunk.end] for chunk in chunks if chunk.tag not in _OF_ANIMATIONS)
    return SIGNATURE + still + data[chunks[-1].end :], frames[0]


def space_of(chunks: list[PngChunk]) -> tuple[ColorSpace | None, str]:
    """The colours that a file names without a profile, None where it does not, and the chunks that do.

    cICP goes before a profile (iCCP), sRGB and that before gAMA and cHRM. A ValueError says what is not known.
    """
    found = {chunk.tag: bytes(chunk.payload) for chunk in reversed(chunks)}  # the first of a tag counts
    if len(coding := found.get(b"cICP", b"")) == 4:
        primaries, transfer, matrix, full_range = coding
        space = named_space(primaries, transfer) if (matrix, full_range) == (0, 1) else None
        if space is None:
            raise ValueError(f"cICP {primaries}/{transfer}/{matrix}/{full_range} is not known")
        return space, "cICP"
    if b"iCCP" in found or b"sRGB" in found:
        return None, ""
    points, named = SRGB_POINTS, []
    curve: Curve = srgb_to_linear
    if len(gamma := found.get(b"gAMA", b"")) == 4:
        value = int.from_bytes(gamma) / 100_000
        if not 0.1 <= value <= 10:
            raise ValueError(f"gAMA of {value:g} is no gamma")
        # Nearer than one can see: most files of sRGB say so.
        curve = curve if abs(value / _SRGB_GAMMA - 1) < 0.05 else power_curve(1 / value)
        named.append("gAMA")
    if len(chroma := found.get(b"cHRM", b"")) == 32:
        white, *others = np.array(struct.unpack(">8I", chroma)).reshape(4, 2) / 100_000
        points = np.stack([*others, white])
        named.append("cHRM")
    return (ColorSpace(points, curve), " and ".join(named)) if named else (None, "")
