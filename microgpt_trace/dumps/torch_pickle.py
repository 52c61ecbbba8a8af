"""Read the pickle in a .pt file as data, without running it.

A pickle is a program: its opcodes build values on a stack, and may call any function of Python. This module
knows only the opcodes and names that torch.save writes for tensors in dicts, lists and tuples. It refuses all
others by name, and imports nothing that a file names. Sources: Lib/pickletools.py and torch/_utils.py.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import InputError
from ..text.brief import brief

MAX_STEPS = 1 << 19  # opcodes: a tensor in a dict takes 35
_STORAGES = {  # torch.FloatStorage -> float32
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexFloat": "complex64", "ComplexDouble": "complex128",
}  # fmt: skip
_DTYPE = re.compile(r"torch\.((b?float|complex|u?int)[0-9]{1,3}(_[a-z0-9]{1,10}){0,2}|bool|bfloat16)")


class Name(str):
    """A name of Python in a pickle, such as "torch.FloatStorage". The name is only compared."""

    __slots__ = ()


class Storage(NamedTuple):
    """`size` numbers of a type (or bytes, of the type "untyped") in the file data/KEY of the archive."""

    dtype: str
    key: str
    size: int


class TensorView(NamedTuple):
    """A tensor: the elements offset + sum(index * stride) of a storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickle(content: bytes) -> Any:
    """Return the value of a pickle that torch.save wrote, with a `TensorView` for each tensor.

    The result consists of exact dicts (with str or int keys), lists, tuples, str, int, float, bool, None,
    `TensorView`, `Storage` and `Name`. A list may contain itself. Raises InputError, which names what is in
    the way, and other errors (IndexError, ValueError ...) if the pickle is damaged.

    >>> read_pickle(bytes.fromhex("8002 5d 2847 3ff8000000000000 4b07 65 2e"))
    [1.5, 7]
    """
    return _Interpreter(content).result()


class _Interpreter:
    """The state of a pickle that is read. A MARK puts the stack aside and starts a new stack."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        for _ in range(MAX_STEPS):
            code = chr(self.content[self.at])
            self.at += 1
            if code == ".":
                return self.stack.pop()
            if code not in _STEPS:
                from pickletools import opcodes  # a table of names

                opcode = next((own.name for own in opcodes if own.code == code), repr(code))
                raise InputError(f"expected tensors, found the opcode {opcode} of pickle")
            _STEPS[code](self)
        raise InputError(f"expected at most {MAX_STEPS:,} opcodes of pickle, found more")

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        self.at += count
        if self.at > len(self.content):
            raise EOFError
        return self.content[self.at - count : self.at]

    def number(self, width: int, signed: bool = False) -> int:
        """Return the next bytes as a little-endian integer."""
        return int.from_bytes(self.take(width), "little", signed=signed)

    def text(self, width: int) -> str:
        """Return the next text. The length of the text comes first, in `width` bytes."""
        return str(self.take(self.number(width)), "utf-8")

    def line(self) -> str:
        end = self.content.index(b"\n", self.at)
        return str(self.take(end + 1 - self.at)[:-1], "utf-8")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def items(self) -> list[Any]:
        """Return the values since the last mark."""
        values, self.stack = self.stack, self.outer.pop()
        return values

    def last(self, count: int) -> tuple[Any, ...]:
        return tuple(self.stack.pop() for _ in range(count))[::-1]

    def name(self, module: str, own: str) -> None:
        """Push a name. Raises InputError for a name that is not a part of a tensor."""
        name = f"{module}.{own}"
        if name not in _CALLS and name not in _STORAGE_TYPES and not _DTYPE.fullmatch(name):
            raise InputError(f"expected tensors, found {brief(name)}, which is not a part of a tensor")
        self.push(Name(name))

    def call(self) -> None:
        """Replace a name and its arguments by a value that this module makes."""
        name, arguments = self.last(2)
        if type(name) is not Name or name not in _CALLS or type(arguments) is not tuple:
            raise InputError(f"expected tensors, found a call of {brief(name)}")
        self.push(_CALLS[name](*arguments))

    def set_items(self, values: list[Any]) -> None:
        """Set the items of a dict from keys and values in turn."""
        target = _of(dict, self.stack[-1])
        for key in values[::2]:
            if type(key) not in (str, int):
                raise InputError(f"expected names or numbers as keys of a dict, found {brief(key)}")
        target.update(zip(values[::2], values[1::2], strict=True))

    def set_state(self) -> None:
        """Leave out an attribute of an OrderedDict, such as the `_metadata` of a state_dict."""
        _of(dict, self.stack.pop())
        _of(dict, self.stack[-1])


def _of(kind: type, value: Any) -> Any:
    """Return a value of exactly this type. Raises InputError for other values."""
    if type(value) is not kind:
        raise InputError(f"expected a {kind.__name__} at this place of the pickle, found {brief(value)}")
    return value


def _storage(identity: Any) -> Storage:
    kind, storage_type, key, _, count = _of(tuple, identity)
    if kind != "storage" or _of(Name, storage_type) not in _STORAGE_TYPES:
        raise InputError(f"expected a storage of numbers, found {brief(identity)}")
    return Storage(_STORAGE_TYPES[storage_type], _of(str, key), _of(int, count))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> TensorView:
    """Make a tensor. `more` is requires_grad, hooks, the type, and a state such as conj."""
    dtype, changed = (*more, None, None)[2:4]
    for number in (offset, *_of(tuple, shape), *_of(tuple, strides)):
        if _of(int, number) < 0 or number >= 1 << 63:
            raise InputError(f"expected offsets, lengths and strides of 0 or more, found {number}")
    if changed:
        raise InputError(f"expected a plain tensor, found a tensor with {brief(changed)}")
    stored = _of(Storage, storage)
    own = _of(Name, dtype).removeprefix("torch.") if dtype else stored.dtype
    return TensorView(stored, own, offset, shape, strides)


_STORAGE_TYPES = {f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()}
_STORAGE_TYPES["torch.storage.UntypedStorage"] = "untyped"
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": lambda *own: _tensor(*own[:6], None, *own[6:]),
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: _of(TensorView, data),
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: _of(TensorView, data),
    "collections.OrderedDict": lambda: {},
    "torch.Size": lambda lengths: _of(tuple, lengths),
    "torch.device": lambda *_: None,
}
_STEPS: dict[str, Callable[[_Interpreter], object]] = {
    "\x80": lambda p: p.take(1),  # PROTO
    "\x95": lambda p: p.take(8),  # FRAME
    "(": lambda p: p.mark(),  # MARK
    "N": lambda p: p.push(None),  # NONE
    "\x88": lambda p: p.push(True),  # NEWTRUE
    "\x89": lambda p: p.push(False),  # NEWFALSE
    ")": lambda p: p.push(()),  # EMPTY_TUPLE
    "]": lambda p: p.push([]),  # EMPTY_LIST
    "}": lambda p: p.push({}),  # EMPTY_DICT
    "K": lambda p: p.push(p.number(1)),  # BININT1
    "M": lambda p: p.push(p.number(2)),  # BININT2
    "J": lambda p: p.push(p.number(4, signed=True)),  # BININT
    "\x8a": lambda p: p.push(p.number(p.number(1), signed=True)),  # LONG1
    "G": lambda p: p.push(struct.unpack(">d", p.take(8))[0]),  # BINFLOAT
    "X": lambda p: p.push(p.text(4)),  # BINUNICODE
    "\x8c": lambda p: p.push(p.text(1)),  # SHORT_BINUNICODE
    "\x8d": lambda p: p.push(p.text(8)),  # BINUNICODE8
    "c": lambda p: p.name(p.line(), p.line()),  # GLOBAL
    "\x93": lambda p: p.name(*(_of(str, text) for text in p.last(2))),  # STACK_GLOBAL
    "Q": lambda p: p.push(_storage(p.stack.pop())),  # BINPERSID
    "q": lambda p: p.memo.__setitem__(p.number(1), p.stack[-1]),  # BINPUT
    "r": lambda p: p.memo.__setitem__(p.number(4), p.stack[-1]),  # LONG_BINPUT
    "\x94": lambda p: p.memo.__setitem__(len(p.memo), p.stack[-1]),  # MEMOIZE
    "h": lambda p: p.push(p.memo[p.number(1)]),  # BINGET
    "j": lambda p: p.push(p.memo[p.number(4)]),  # LONG_BINGET
    "t": lambda p: p.push(tuple(p.items())),  # TUPLE
    "\x85": lambda p: p.push(p.last(1)),  # TUPLE1
    "\x86": lambda p: p.push(p.last(2)),  # TUPLE2
    "\x87": lambda p: p.push(p.last(3)),  # TUPLE3
    "a": lambda p: _of(list, p.stack[-2]).append(p.stack.pop()),  # APPEND
    "e": lambda p: (values := p.items(), _of(list, p.stack[-1]).extend(values)),  # APPENDS
    "s": lambda p: p.set_items([*p.last(2)]),  # SETITEM
    "u": lambda p: p.set_items(p.items()),  # SETITEMS
    "R": lambda p: p.call(),  # REDUCE
    "b": lambda p: p.set_state(),  # BUILD
}
