"""What a pickle of torch holds, where that is tensors, numbers and text alone.

Python's own reader of pickles runs what a file asks for. This one runs nothing: it follows the few instructions that a
dict of tensors is made of, creates dicts, lists and tuples, and refuses everything else.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

STORAGES = {  # names of torch, and the type of one value as safetensors calls it
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.BoolStorage": "BOOL",
}
_DICT, _TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_KNOWN = {_DICT, _TENSOR, _PARAMETER, *STORAGES}
_VALUES = {  # instructions that bring a number or a text
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
}
_NEW: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_NEW |= {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
_MAX_NUMBER = 2**63
_MAX_KEY = 2**31
_MAX_AXES = 32


class Refused(ValueError):
    """A pickle asks for more than tensors, numbers and text; the message is what it asks for."""


class Storage(NamedTuple):
    """Values in a row, in a file of their own."""

    key: str  # of that file
    kind: str  # of one value, see `STORAGES`
    length: int  # in values


class Tensor(NamedTuple):
    """Where the values of a tensor lie in a storage; offset and strides in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """Of a class or function, which is not looked up."""

    name: str


def parse(data: bytes) -> Any:
    """The value of a pickle: tensors as `Tensor`, dicts with text or whole numbers as keys, lists, tuples, constants.

    Raises Refused for what is not of these; for a damaged one ValueError, or the IndexError, KeyError, AttributeError
    or TypeError of an instruction that finds nothing to work on.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    for opcode, value, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case name if name in _NEW:
                stack.append(_NEW[name]())
            case name if name in _VALUES:
                stack.append(value)
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                start = marks.pop() if name == "TUPLE" else len(stack) - int(name[-1])
                stack[start:] = [tuple(stack[start:])]
            case "APPEND" | "APPENDS" as name:
                start = marks.pop() if name == "APPENDS" else len(stack) - 1
                items, stack[start:] = stack[start:], []
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS" as name:
                start = marks.pop() if name == "SETITEMS" else len(stack) - 2
                items, stack[start:] = stack[start:], []
                _set(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if value is None else int(value)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[int(value or 0)])
            case "GLOBAL":
                stack.append(_name(str(value).replace(" ", ".")))
            case "STACK_GLOBAL":
                stack[-2:] = [_name(".".join(stack[-2:]))]
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_made(stack.pop(), arguments))
            case "BUILD":  # what else a dict of torch knows of its modules
                stack.pop()
            case name:
                raise Refused(f"{name} {value}" if isinstance(value, str) else name)
    return stack.pop()


def _set(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("pairs without a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not (isinstance(key, str) or (type(key) is int and abs(key) < _MAX_KEY)):
            raise ValueError("a key that is neither text nor a small number")
        target[key] = value


def _name(name: str) -> _Name:
    if name not in _KNOWN:
        raise Refused(name)
    return _Name(name)


def _storage(ident: Any) -> Storage:
    match ident:
        case ("storage", _Name(name), str(key), _, int(length)) if name in STORAGES and 0 <= length < _MAX_NUMBER:
            return Storage(key, STORAGES[name], length)
    raise ValueError("values that are no storage of torch")


def _made(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case _Name(name), () if name == _DICT:
            return {}
        case _Name(name), (Storage() as storage, offset, tuple(shape), tuple(strides), *_) if name == _TENSOR:
            numbers = all(type(n) is int and 0 <= n < _MAX_NUMBER for n in (offset, *shape, *strides))
            if numbers and len(shape) == len(strides) <= _MAX_AXES:
                return Tensor(storage, offset, shape, strides)
        case _Name(name), (Tensor() as tensor, *_) if name == _PARAMETER:
            return tensor
    raise ValueError("a tensor or dict of other parts")
