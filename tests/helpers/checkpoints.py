"""Files as torch.save and safetensors write them, made without either, and small checkpoints under official names."""

from __future__ import annotations

import json
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import parity

from airjax.nn.rope import axial_periods

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "bool": "BoolStorage",
}
KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "bool": "BOOL"}
BFLOAT16 = np.dtype(jnp.bfloat16)


class Name(NamedTuple):
    """A class or function that a pickle asks for."""

    module: str
    name: str


class Called(NamedTuple):
    """A function that a pickle asks to be called."""

    function: Name
    arguments: tuple


class Kept(NamedTuple):
    """An object of a pickle that lies elsewhere."""

    ident: tuple


def pickled(value) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + _instructions(value) + b"."


def _instructions(value) -> bytes:
    match value:
        case Name(module, name):
            return b"c" + f"{module}\n{name}\n".encode()
        case Called(function, arguments):
            return _instructions(function) + _instructions(tuple(arguments)) + b"R"
        case Kept(ident):
            return _instructions(ident) + b"Q"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if abs(value) >= 2**31:
            return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
        case int():
            return b"J" + struct.pack("<i", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(_instructions, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_instructions, value)) + b"e"
        case dict():
            start = _instructions(Called(Name("collections", "OrderedDict"), ())) if _ordered(value) else b"}"
            return start + b"(" + b"".join(_instructions(one) for pair in value.items() for one in pair) + b"u"
    raise TypeError(f"not for a pickle: {value!r}")


def _ordered(value: dict) -> bool:
    return isinstance(value, OrderedDict)


def tensor(key: str, array: np.ndarray, *, shape=None, strides=None, offset=0, length=None, storage=None) -> Called:
    """What torch.save writes of a tensor whose storage, in the file `data/key`, holds the values of an array."""
    shape = array.shape if shape is None else shape
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    name = Name("torch", STORAGES[array.dtype.name] if storage is None else storage)
    kept = Kept(("storage", name, key, "cpu", array.size if length is None else length))
    return Called(Name("torch._utils", "_rebuild_tensor_v2"), (kept, offset, shape, strides, False, OrderedDict()))


def write_zip(path: Path, pickle: bytes, storages: dict[str, bytes], *, order=b"little", packed=False) -> Path:
    """The zip file around a pickle."""
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickle)
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return path


def write_torch(path: Path, tensors: dict[str, np.ndarray], *, around=None, **options) -> Path:
    """A checkpoint as torch.save writes it; `around` puts the dict of its tensors into another value."""
    state = OrderedDict((name, tensor(str(i), array)) for i, (name, array) in enumerate(tensors.items()))
    content = state if around is None else around(state)
    data = {str(i): np.ascontiguousarray(array).tobytes() for i, array in enumerate(tensors.values())}
    return write_zip(path, pickled(content), data, **options)


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], metadata=None) -> Path:
    """A safetensors file."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": KINDS[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def dino_v3() -> dict[str, np.ndarray]:
    """A small DINOv3 as Meta's files hold it."""
    tensors, _ = parity.load("dino_v3")
    return tensors | {"rope_embed.periods": axial_periods(64).astype(BFLOAT16)}


def dino_v2() -> dict[str, np.ndarray]:
    """A small DINOv2 with registers as Meta's files hold it."""
    return parity.load("dino_v2")[0]
