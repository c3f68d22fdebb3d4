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
    *(SafetensorError, zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
)


class Stored(NamedTuple):
    """Where a tensor lies in a file: in bytes from `start` on, which are read at once."""

    start: int
    length: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    offset: int = 0  # of the first value, bytes
    checksum: int = 0  # CRC-32 of all bytes; 0 for none


class Checkpoint(Mapping[str, Any]):
    """The tensors of a file by name, each read from the disk when it is asked for, and not kept.

    Reading one raises AirjaxError where its checksum is wrong, or the file is no longer what it was.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Stored], plain: Mapping[str, Any]):
        self.path, self._tensors, self._sound = path, tensors, set[int]()
        self.plain = plain  # what is beside the tensors: text by text of safetensors, numbers, text, lists and dicts
        self.shapes = {name: stored.shape for name, stored in tensors.items()}
        self.dtypes = {name: stored.dtype for name, stored in tensors.items()}
        self.on_read: Callable[[], None] = lambda: None  # called before each reading

    def __getitem__(self, name: str) -> np.ndarray:
        start, length, dtype, shape, strides, offset, checksum = self._tensors[name]
        self.on_read()
        try:
            if 0 in shape:
                return np.empty(shape, dtype)
            data = np.memmap(self.path, np.uint8, "r", offset=start, shape=(length,))
            if checksum and start not in self._sound and zlib.crc32(data.data) != checksum:
                raise ValueError("wrong checksum")
            self._sound.add(start)
            return np.ndarray(shape, dtype, data, offset, strides)
        except (OSError, ValueError) as error:
            raise _damaged(f"{display_name(self.path)}: {_short(name)}", "tensor", error) from error

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
    form = "file of weights"
    try:
        with open(path, "rb") as file:
            head = file.read(512)
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER:
            form, read = "safetensors file", _safetensors
        elif head.startswith(b"PK\3\4"):
            form, read = "file of torch.save", _torch
        else:
            raise AirjaxError(f"{name}: expected weights (.safetensors, or .pt of torch.save), got {_kind(head)}")
        tensors, plain = read(path)
    except Refused as error:
        raise AirjaxError(
            f"{name}: asks for {_short(str(error))}, which was not run: expected tensors, numbers and text alone; "
            "take the weights as .safetensors, or save their state dict alone"
        ) from error
    except AirjaxError:
        raise
    except _FAULTS as error:
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
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if (dtype := DTYPES.get(entry["dtype"])) is None:
            raise ValueError(f"values of the type {entry['dtype']} in {_short(name)}")
        (begin, end), shape = entry["data_offsets"], tuple(entry["shape"])
        strides = tuple(dtype.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))
        tensors[name] = Stored(start + begin, end - begin, dtype, shape, strides)
    return tensors, metadata


def _torch(path: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
    found = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise AirjaxError(f"{display_name(path)}: expected weights, got a zip archive that torch.save did not write")
    folder = found[0].removesuffix("data.pkl")
    with open(path, "rb") as file:
        if (order := members.get(f"{folder}byteorder")) is not None and _content(file, order) != b"little":
            raise ValueError("its numbers are not little-endian")
        content = parse(_content(file, members[found[0]]))
        if not isinstance(content, dict):
            raise AirjaxError(f"{display_name(path)}: expected a dict of tensors, found {type(content).__name__}")
        states = (content[name] for name in _STATES if isinstance(content.get(name), dict))
        state = next((one for one in states if any(isinstance(value, Tensor) for value in one.values())), content)
        tensors = {
            str(name): _stored(file, members[f"{folder}data/{value.storage.key}"], value)
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
    others = ((str(name), value) for one in (content, state) for name, value in one.items() if value is not state)
    return tensors, {name: value for name, value in others if not isinstance(value, Tensor)}


def _stored(file: BinaryIO, member: zipfile.ZipInfo, tensor: Tensor) -> Stored:
    """A tensor whose storage is a member; ValueError where one does not lie in the other."""
    (_, kind, length), offset, shape, strides = tensor
    dtype, start = DTYPES[kind], _start(file, member)
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    fits = 0 in shape or (last < length and math.prod(shape) <= length)
    if not fits or length * dtype.itemsize > member.file_size:
        raise ValueError("a tensor is larger than what is stored of it")
    steps, place = tuple(dtype.itemsize * stride for stride in strides), dtype.itemsize * offset
    return Stored(start, member.file_size, dtype, shape, steps, place, member.CRC)


def _start(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where the content of a member starts; ValueError for one that is not stored as it is, or not whole."""
    file.seek(member.header_offset)
    head = file.read(30)
    start = member.header_offset + len(head) + sum(struct.unpack_from("<2H", head, 26))
    as_it_is = head[:4] == b"PK\3\4" and member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1
    if not as_it_is or start + member.file_size > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{_short(member.filename)} is not stored whole and as it is")
    return start


def _content(file: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """Of a member that is no tensor."""
    start = _start(file, member)
    if member.file_size > _MAX_PICKLE:
        raise ValueError(f"{_short(member.filename)} has more than {_MAX_PICKLE} bytes")
    file.seek(start)
    data = file.read(member.file_size)
    if member.CRC and zlib.crc32(data) != member.CRC:
        raise ValueError(f"wrong checksum of {_short(member.filename)}")
    return data
