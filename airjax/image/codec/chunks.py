"""The container of a .air file: signature, version, chunks with length and checksum, the header.

docs/format.md, sections 1 to 3, describes it byte by byte. For trust and errors see `airjax.image.codec.air_file`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from airjax.errors import AirjaxError, FormatError
from airjax.photographs import MAX_PIXELS

# A byte outside ASCII, a name, CR LF, Ctrl-Z, LF: transfers in 7-bit or text mode change or cut one of them.
SIGNATURE = b"\x89AIR\r\n\x1a\n"
VERSIONS = (1, 2)  # 2 differs in the stages of the compact profile alone
PROFILE_LOSSLESS, PROFILE_COMPACT = 1, 2
PROFILE_NAMES = {PROFILE_LOSSLESS: "lossless float32", PROFILE_COMPACT: "compact"}

MAX_SIDE = 2**20  # pixels
MAX_CHANNELS = 16
MAX_CHUNK = 2**31 - 1  # payload bytes

_PREAMBLE = struct.Struct("<8sH")  # signature, version
_CHUNK_HEAD = struct.Struct("<I4s")  # payload bytes, tag
_CRC = struct.Struct("<I")  # CRC-32 of tag and payload
_HEADER = struct.Struct("<IIBBH")  # width, height, channels, profile, S
CHUNK_OVERHEAD = _CHUNK_HEAD.size + _CRC.size  # bytes of a chunk beside its payload
STAGE_TAGS = {PROFILE_LOSSLESS: "ROWS", PROFILE_COMPACT: "STAG"}


class CutShort(FormatError):
    """The bytes end before the file does, or are damaged from here on; what came before is sound."""


class Chunk(NamedTuple):
    """One chunk: its tag, the offset of its first byte, its payload (a view), whether its CRC fits."""

    tag: str
    offset: int
    payload: memoryview
    crc_ok: bool


class Header(NamedTuple):
    """The AHDR chunk: (h, w) in pixels, channels, profile, number of stages; and the version of its file."""

    image_size: tuple[int, int]
    channels: int
    profile: int
    num_stages: int
    version: int = 1  # of the file


def assemble(header: Header, chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole file with these (tag, payload) after its header; each is copied once. An AirjaxError for bad sizes."""
    height, width = header.image_size
    if problem := size_problem(height, width, header.channels):
        raise AirjaxError(problem)
    head = _HEADER.pack(width, height, header.channels, header.profile, header.num_stages)
    parts = [_PREAMBLE.pack(SIGNATURE, header.version)]
    for tag, payload in ((b"AHDR", head), *chunks, (b"AEND", b"")):
        parts += [_CHUNK_HEAD.pack(len(payload), tag), payload, _CRC.pack(zlib.crc32(payload, zlib.crc32(tag)))]
    return b"".join(parts)


def walk(view: memoryview) -> Iterator[Chunk]:
    """The chunks of a file to its last byte: AHDR first and once, AEND last, every tag known or ancillary.

    CutShort where the file ends too early, after every chunk before that; FormatError for any other departure.
    """
    if len(view) == 0:
        raise FormatError("expected a .air file, got 0 bytes")
    start = bytes(view[: len(SIGNATURE)])
    if not SIGNATURE.startswith(start):
        if start[:4] == SIGNATURE[:4] or start[1:4] == SIGNATURE[1:4]:
            raise FormatError("damaged .air signature: a transfer in text mode changes bytes like this")
        raise FormatError("not a .air file, which airjax encode makes of a photograph: the signature is missing")
    if len(view) < _PREAMBLE.size:
        raise CutShort(f"cut short: {len(view)} bytes end inside the signature and version")
    if (version := version_of(view)) not in VERSIONS:
        raise FormatError(
            f"version: expected {VERSIONS[0]} or {VERSIONS[1]}, got {version}; a newer airjax may read it"
        )

    offset, seen, tag = _PREAMBLE.size, False, ""
    while tag != "AEND":
        chunk = _read(view, offset)
        tag = chunk.tag
        if (tag == "AHDR") == seen:
            raise FormatError(f"chunk {tag} at byte {offset}: expected AHDR as the first chunk and only there")
        if tag[0].isupper() and tag not in ("AHDR", *STAGE_TAGS.values(), "AEND"):
            raise FormatError(f"chunk {tag} at byte {offset}: unknown, and marked as needed to decode the file")
        if tag == "AEND" and len(chunk.payload):
            raise FormatError(f"chunk AEND at byte {offset}: expected no payload, got {len(chunk.payload)} bytes")
        seen = True
        offset += CHUNK_OVERHEAD + len(chunk.payload)
        yield chunk
    if offset != len(view):
        raise FormatError(f"expected the end of the file at byte {offset}, got {len(view) - offset} bytes more")


def version_of(view: memoryview) -> int:
    """The version that a file says it has."""
    return int(_PREAMBLE.unpack_from(view)[1])


def _read(view: memoryview, offset: int) -> Chunk:
    """The chunk at `offset`; its payload is a view, nothing is copied."""
    remaining = len(view) - offset
    if remaining < CHUNK_OVERHEAD:
        raise CutShort(f"cut short: expected a chunk at byte {offset}, got {remaining} bytes")
    length, tag = _CHUNK_HEAD.unpack_from(view, offset)
    if not (tag.isascii() and tag.isalpha()):
        raise FormatError(f"chunk at byte {offset}: expected a tag of four letters, got {tag.hex()}")
    name = tag.decode("ascii")
    if length > min(MAX_CHUNK, remaining - CHUNK_OVERHEAD):
        have = remaining - CHUNK_OVERHEAD
        raise CutShort(f"chunk {name} at byte {offset}: claims {length} bytes, but only {have} are left")
    begin = offset + _CHUNK_HEAD.size
    payload = view[begin : begin + length]
    (crc,) = _CRC.unpack_from(view, begin + length)
    return Chunk(name, offset, payload, crc == zlib.crc32(payload, zlib.crc32(tag)))


def parse_header(chunk: Chunk, version: int) -> Header:
    """The content of AHDR, within the limits of the format, of a file of a known version."""
    if len(chunk.payload) != _HEADER.size:
        raise FormatError(f"chunk AHDR: expected {_HEADER.size} bytes, got {len(chunk.payload)}")
    width, height, channels, profile, num_stages = _HEADER.unpack(chunk.payload)
    if profile not in PROFILE_NAMES:
        raise FormatError(f"profile: expected one of {sorted(PROFILE_NAMES)}, got {profile}")
    if profile == PROFILE_LOSSLESS and version != 1:
        raise FormatError(f"version: expected 1 for {PROFILE_NAMES[profile]}, got {version}")
    if problem := size_problem(height, width, channels):
        raise FormatError(problem)
    return Header((height, width), channels, profile, num_stages, version)


def size_problem(height: int, width: int, channels: int) -> str | None:
    """What is wrong with these sizes; None when nothing is."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        return f"image size: expected sides of 1 to {MAX_SIDE} pixels, got {width}x{height}"
    if width * height > MAX_PIXELS:
        return f"image size: expected at most {MAX_PIXELS} pixels, got {width}x{height}"
    if not 1 <= channels <= MAX_CHANNELS:
        return f"channels: expected 1 to {MAX_CHANNELS}, got {channels}"
    return None
