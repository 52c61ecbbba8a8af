"""Read the tensors of .pt files, which torch.save writes, without torch and without running the file.

A .pt file is a zip archive: NAME/data.pkl is a pickle (see torch_pickle.py), and NAME/data/KEY are
numbers. Opening a file reads only the pickle. Numbers are read when they are needed.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays.encodings import FLOATS
from ..arrays.stats import Array
from ..errors import FileFormatError, InputError, naming
from ..text.brief import brief
from ..untrusted_files import beginning, check_name, check_regular, reading
from .stored_arrays import ZIP_MAGIC, StoredArray, as_file_error, check_expansion, decoded, open_archive
from .torch_pickle import TensorView, read_pickle

OLD_MAGIC = bytes.fromhex("80028a0a6cfc9c46")  # the first bytes of files that torch wrote before version 1.6
SUFFIXES = (".pt", ".pth")
_PICKLE = "/data.pkl"
_MAX_PICKLE = 1 << 24  # bytes; a tensor takes about 150
_MAX_VALUES = 1 << 16  # largest number of values in nested dicts and lists, each time that they occur
_MAX_DEPTH = 64
_MAX_AXES = 32
_TYPES = {  # type in torch -> type in NumPy; the shorter floats are in FLOATS
    "float64": "<f8", "float32": "<f4", "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "<i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "<u1", "untyped": "<u1", "bool": "?",
}  # fmt: skip


class _Archive(NamedTuple):
    """An open .pt file. `root` is the path of its files in the archive, such as "archive"."""

    path: Path
    zip: zipfile.ZipFile
    root: str

    def member(self, name: str) -> zipfile.ZipInfo:
        try:
            return self.zip.getinfo(f"{self.root}/{name}")
        except KeyError as error:
            missing = f"{self.path}: expected {brief(name)} in the archive, found none"
            raise FileFormatError(missing) from error


def is_torch_file(path: Path) -> bool:
    """Return True if the content of a file is a .pt file of any version."""
    head = beginning(path, len(OLD_MAGIC))
    if head == OLD_MAGIC or not head.startswith(ZIP_MAGIC):
        return head == OLD_MAGIC
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(_PICKLE) for name in archive.namelist())
    except Exception:  # zipfile raises many kinds of errors for damaged bytes
        return False


def torch_arrays(path: Path, name: str) -> tuple[list[StoredArray], list[str]]:
    """Return the tensors of a .pt file, and the names of all other values. Raises FileFormatError.

    The keys of nested dicts and lists are the name of a tensor: {"layers": [{"x": tensor}]} has "layers.0.x".
    A tensor that is the only value of the file has the name `name`.
    """
    check_regular(path, "a .pt file")
    if beginning(path, len(OLD_MAGIC)) == OLD_MAGIC:
        found = "found an older one; load it with torch.load, and save it again with torch.save"
        raise FileFormatError(f"{path}: expected a .pt file of torch 1.6 or newer, {found}")
    with reading(path), as_file_error(str(path), "a .pt file of torch.save"):
        archive = open_archive(path)
        roots = [own.removesuffix(_PICKLE) for own in archive.namelist() if own.endswith(_PICKLE)]
        if len(roots) != 1:
            raise FileFormatError(f"{path}: expected one data.pkl in the archive, found {len(roots)}")
        file = _Archive(path, archive, roots[0])
        known = f"{file.root}/byteorder" in archive.namelist()  # not in files of torch 2.0
        if known and (order := archive.read(file.member("byteorder"))[:10]) != b"little":
            raise FileFormatError(f"{path}: byteorder: expected little, found {brief(order)}")
        if (size := file.member("data.pkl").file_size) > _MAX_PICKLE:
            raise FileFormatError(f"{path}: data.pkl: expected at most {_MAX_PICKLE:,} bytes, found {size:,}")
        with naming(f"{path}: data.pkl", FileFormatError):
            value = read_pickle(archive.read(file.member("data.pkl")))
        return _named(file, value, name)


def _named(file: _Archive, value: Any, name: str) -> tuple[list[StoredArray], list[str]]:
    """Return the tensors in nested dicts and lists, and the names of other values. Lists may contain
    themselves."""
    if type(value) is dict and value.keys() == {"value", "meta"}:  # a file of SGLang's dumper
        value = value["value"]
    arrays, others, left = dict[str, StoredArray](), list[str](), _MAX_VALUES
    pending = [("", 0, value)]
    while pending:
        own, depth, value = pending.pop()
        if type(value) in (dict, list, tuple):
            left -= len(value)
            if left < 0 or depth == _MAX_DEPTH:
                most = f"{_MAX_VALUES:,} values, nested at most {_MAX_DEPTH} deep"
                raise FileFormatError(f"{file.path}: expected at most {most}, found more")
            items = value.items() if type(value) is dict else enumerate(value)
            inner = [(f"{own}.{key}" if depth else str(key), depth + 1, one) for key, one in items]
            for longer, *_ in inner:
                check_name(file.path, longer)
            pending += inner[::-1]
        elif not isinstance(value, TensorView):
            others.append(own or name)
        elif own in arrays:
            raise FileFormatError(f"{file.path}: {brief(own)} occurs twice")
        else:
            arrays[own] = _array(file, own or name, value)
    return [*arrays.values()], others


def _array(file: _Archive, name: str, view: TensorView) -> StoredArray:
    where = f"{file.path}: {brief(name)}"
    check_name(file.path, name)
    stored_as, short = _stored_as(view.dtype), view.dtype in FLOATS
    kind = "floating" if short or stored_as[1:2] == "f" else "whole" if stored_as else "other"

    def read() -> Array:
        if kind == "other":
            raise FileFormatError(f"{where} has type {view.dtype}, which is not supported")
        with reading(file.path), as_file_error(where, "a storage of numbers"):
            size = np.dtype(stored_as).itemsize
            data = file.zip.read(file.member(f"data/{view.storage.key}"))
            flat = np.frombuffer(data, stored_as, len(data) // size)[view.offset :]
            strides = [stride * size for stride in view.strides]
            array = np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False)
            return decoded(array, view.dtype) if short else array

    if kind != "other":
        with naming(where, FileFormatError):
            _check_bounds(file, view, np.dtype(stored_as).itemsize, where)
    return StoredArray(name, view.shape, view.dtype, kind, read)


def _stored_as(dtype: str) -> str:
    """Return the NumPy type of the stored numbers, or "" for a type that cannot be read."""
    return f"<u{FLOATS[dtype].block_bytes}" if dtype in FLOATS else _TYPES.get(dtype, "")


def _check_bounds(file: _Archive, view: TensorView, size: int, where: str) -> None:
    """Raise InputError or FileFormatError unless all elements of a tensor are in the storage."""
    stored, held = view.storage, file.member(f"data/{view.storage.key}").file_size
    whole = stored.size * np.dtype(_stored_as(stored.dtype)).itemsize
    if whole != held:
        raise InputError(f"expected {whole:,} bytes in the storage {brief(stored.key)}, found {held:,}")
    if len(view.shape) != len(view.strides) or len(view.shape) > _MAX_AXES:
        shape = f"{brief(list(view.shape))} with {len(view.strides)} strides"
        raise InputError(f"expected a shape of at most {_MAX_AXES} axes and a stride for each, found {shape}")
    count = math.prod(view.shape)
    last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    if count and (last + 1) * size > held:
        raise InputError(f"expected elements of the storage up to {held // size - 1:,}, found {last:,}")
    check_expansion(where, held, count * size)
