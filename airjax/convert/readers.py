"""Checkpoints of others as files hold them: safetensors, and the zip files of torch. No code of a file is ever run."""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from airjax.convert.pickles import Refused, Tensor, parse
from airjax.errors import AirjaxError
from airjax.files import check_regular, display_name, reason
from airjax.weights_file import DTYPES

_STATES = ("model", "state_dict")  # where a dict of torch.save may have the tensors
_MAX_PICKLE = 2**22  # bytes; of the largest networks it has a tenth
_MAX_HEADER = 2**27  # bytes of a safetensors header; its library allows 100 MB
_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, NotImplementedError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
)
_SAFETENSORS, _TORCH = "safetensors file", "file of torch.save"


class Region(NamedTuple):
    """Bytes of a file."""

    start: int
    length: int
    checksum: int = 0  # CRC-32; 0 for none


class Stored(NamedTuple):
    """Where a tensor lies in a file; offset, from the start of the region, and strides in bytes."""

    region: Region
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]
    swapped: bool = False  # whether the bytes of a value are in the other order


class Checkpoint(Mapping[str, np.ndarray]):
    """The tensors of a file by name, each read from the disk when it is asked for; no two at a time are held here.

    Reading one raises AirjaxError where its checksum is wrong, or the file is no longer what it was.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Stored], plain: Mapping[str, Any]):
        self.path, self._tensors, self._sound = path, tensors, set[Region]()
        self.plain = plain  # what is beside the tensors: text by text of safetensors, numbers, text, lists and dicts
        self.shapes = {name: stored.shape for name, stored in tensors.items()}
        self.dtypes = {name: stored.dtype for name, stored in tensors.items()}
        self.on_read: Callable[[], None] = lambda: None  # called before each reading

    def __getitem__(self, name: str) -> np.ndarray:
        stored = self._tensors[name]
        self.on_read()
        try:
            return self._read(stored)
        except (OSError, ValueError) as error:
            raise _damaged(f"{display_name(self.path)}: {_short(name)}", "tensor", error) from error

    def _read(self, stored: Stored) -> np.ndarray:
        region, dtype = stored.region, stored.dtype
        if 0 in stored.shape:
            return np.empty(stored.shape, dtype)
        data = np.memmap(self.path, np.uint8, "r", offset=region.start, shape=(region.length,))
        if region.checksum and region not in self._sound:
            if zlib.crc32(data.data) != region.checksum:
                raise ValueError("wrong checksum")
            self._sound.add(region)
        kind = np.dtype(f"u{dtype.itemsize}") if stored.swapped else dtype
        array = np.ndarray(stored.shape, kind, data, stored.offset, stored.strides)
        return array.byteswap().view(dtype) if stored.swapped else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The tensors of a .safetensors file, or of a file of torch.save (.pt, .pth) in its zip form of torch 1.6.

    Of a dict in a dict, as {"model": {..}, "epoch": 3}, the tensors are those of "model" or "state_dict". Raises
    AirjaxError for anything else, for a damaged file, and for one that asks for more than tensors, numbers and text.
    """
    check_regular(path)
    path, name = Path(path), display_name(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise AirjaxError(f"{name}: cannot be read ({reason(error)})") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER:
        form, read = _SAFETENSORS, _safetensors
    elif head.startswith(b"PK\3\4"):
        form, read = _TORCH, _torch
    else:
        raise AirjaxError(f"{name}: expected weights (.safetensors, or .pt of torch.save), got {_kind(head)}")
    try:
        tensors, plain = read(path)
    except Refused as error:
        raise AirjaxError(
            f"{name}: asks for {_short(str(error))}, which was not run: expected tensors, numbers and text alone; "
            "take the weights as .safetensors, or save their state dict alone"
        ) from error
    except AirjaxError:
        raise
    except (SafetensorError, *_FAULTS) as error:
        raise _damaged(name, form, error) from error
    if not tensors:
        raise AirjaxError(f"{name}: expected weights, found no tensors in this {form}")
    return Checkpoint(path, tensors, plain)


def _kind(head: bytes) -> str:
    """Of a file that holds no weights, and what to do about it."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer that only names them: fetch the file itself (git lfs pull)"
    if head.lstrip().startswith(b"<"):
        return "a web page: open it in a browser to see what it asks for, and download the file itself"
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        return "an old file of torch.save or another pickle, which cannot be read without running it: save it anew"
    return "another or a damaged file: download it again"


def _damaged(name: str, form: str, error: BaseException) -> AirjaxError:
    return AirjaxError(f"{name}: expected a whole {form}, got a damaged one ({reason(error)}): download it again")


def _short(text: str) -> str:
    return display_name(text[:100])


def _safetensors(path: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    with safe_open(path, framework="numpy") as whole:  # checks all numbers of the header
        metadata = dict(whole.metadata() or {})
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if (dtype := DTYPES.get(entry["dtype"])) is None:
            raise ValueError(f"values of the type {entry['dtype']} in {_short(name)}")
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        strides = (dtype.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))
        tensors[name] = Stored(Region(start + begin, end - begin), dtype, shape, 0, tuple(strides))
    return tensors, metadata


def _torch(path: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
    found = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise AirjaxError(f"{display_name(path)}: expected weights, got a zip archive that torch.save did not write")
    folder = found[0].removesuffix("data.pkl")
    with open(path, "rb") as file:
        order = _small(file, members[f"{folder}byteorder"]) if f"{folder}byteorder" in members else b"little"
        if order not in (b"little", b"big"):
            raise ValueError("an order of bytes that is neither little nor big")
        content = parse(_small(file, members[found[0]]))
        if not isinstance(content, dict):
            raise AirjaxError(f"{display_name(path)}: expected a dict of tensors, found a {type(content).__name__}")
        states = (content[name] for name in _STATES if isinstance(content.get(name), dict))
        state = next((one for one in states if any(isinstance(value, Tensor) for value in one.values())), content)
        tensors = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                place = _region(file, members[f"{folder}data/{value.storage.key}"])
                tensors[str(name)] = _stored(str(name), value, place, order == b"big")
    others = ((str(name), value) for one in (content, state) for name, value in one.items() if value is not state)
    return tensors, {name: value for name, value in others if not isinstance(value, Tensor)}


def _stored(name: str, tensor: Tensor, region: Region, swapped: bool) -> Stored:
    """Raises ValueError for a tensor that does not lie in its storage, or a storage that does not in its file."""
    (_, kind, length), offset, shape, strides = tensor
    size = DTYPES[kind].itemsize
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if length * size > region.length or (0 not in shape and (last >= length or math.prod(shape) > length)):
        raise ValueError(f"{_short(name)} is larger than what is stored of it")
    return Stored(region, DTYPES[kind], shape, offset * size, tuple(size * stride for stride in strides), swapped)


def _region(file: BinaryIO, member: zipfile.ZipInfo) -> Region:
    """Where the content of a member lies; torch stores it as it is."""
    file.seek(member.header_offset)
    head = file.read(30)
    if head[:4] != b"PK\3\4" or member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f"{_short(member.filename)} is not stored as it is")
    start = member.header_offset + len(head) + sum(struct.unpack_from("<2H", head, 26))
    if start + member.file_size > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{_short(member.filename)} ends after the file")
    return Region(start, member.file_size, member.CRC)


def _small(file: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """The content of a member that is no tensor."""
    region = _region(file, member)
    if region.length > _MAX_PICKLE:
        raise ValueError(f"{_short(member.filename)} has {region.length} bytes, at most {_MAX_PICKLE} are read")
    file.seek(region.start)
    data = file.read(region.length)
    if region.checksum and zlib.crc32(data) != region.checksum:
        raise ValueError(f"wrong checksum of {_short(member.filename)}")
    return data
