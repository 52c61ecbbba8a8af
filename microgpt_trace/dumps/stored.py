"""Arrays as .npy, .npz and safetensors files hold them: names, shapes and types first, numbers when asked
for. Knows no event. Nothing is unpickled."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..brief import brief
from ..encodings import ENCODINGS, StoredTensor
from ..errors import FileFormatError
from ..foreign_files import check_regular, reading
from ..json_text import from_json
from ..readers.model_file import map_file
from ..stats import Array

NPY_MAGIC, ZIP_MAGIC = b"\x93NUMPY", b"PK\x03\x04"
_HEADERS: dict[tuple[int, int], Callable[[Any], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_BOMB_BYTES, _BOMB_TIMES = 1 << 26, 200  # activations shrink by a third, not to a hundredth
_WHOLE = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """An array in a file. `kind` is "floating" (which `read` gives as float32 or float64, whatever the
    file has), "whole" (integers and booleans, as they are) or "other", which cannot be read."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as the file calls it
    kind: str
    read: Callable[[], Array]


def npy_array(path: Path, name: str) -> Stored:
    """The array of a .npy file. Raises FileFormatError."""
    size = check_regular(path, "a .npy file")
    with reading(path), path.open("rb") as file:
        shape, dtype = _header(file, str(path), size)

    def read() -> Array:
        if not math.prod(shape):  # which cannot be mapped
            return _widened(np.empty(shape, dtype))
        with reading(path), _refusing(str(path), "the array that was there"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError("changed meanwhile")
        return _widened(array)

    return Stored(name, shape, str(dtype), _kind(dtype), read)


def npz_arrays(path: Path) -> tuple[list[Stored], list[str]]:
    """The arrays of a .npz archive, and the names of what else is in it. Raises FileFormatError."""
    arrays, others = [], []
    seen = set[str]()
    with reading(path), _refusing(str(path), "a .npz archive"), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename in seen:
                raise FileFormatError(f"{path}: {brief(member.filename)} is there twice")
            seen.add(member.filename)
            if member.filename.endswith(".npy"):
                arrays.append(_member(path, archive, member))
            else:
                others.append(member.filename)
    return arrays, others


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Stored:
    where = f"{path}: {brief(member.filename)}"
    if member.compress_size > path.stat().st_size:
        raise FileFormatError(f"{where}: {member.compress_size:,} bytes, more than the file has")
    if member.file_size > max(_BOMB_BYTES, _BOMB_TIMES * member.compress_size):
        raise FileFormatError(f"{where}: {member.compress_size:,} bytes would become {member.file_size:,}")
    with _refusing(where, "a .npy array"), archive.open(member) as file:
        shape, dtype = _header(file, where, member.file_size)

    def read() -> Array:
        with reading(path), _refusing(where, "the array that its header describes"):
            with zipfile.ZipFile(path) as again, again.open(member.filename) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError("changed meanwhile")
        return _widened(array)

    return Stored(member.filename.removesuffix(".npy"), shape, str(dtype), _kind(dtype), read)


def _header(file: IO[bytes], where: str, size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of a .npy array of `size` bytes in all, its header included."""
    with _refusing(where, "a .npy array"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers as Python 2 wrote them
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    if dtype.hasobject:
        raise FileFormatError(f"{where}: holds Python objects, which are not read")
    if any(length < 0 for length in shape):
        raise FileFormatError(f"{where}: expected a .npy array, found the shape {brief(list(shape))}")
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise FileFormatError(
            f"{where}: {dtype} {brief(list(shape))} takes {expected:,} bytes, found {size:,}"
        )
    return shape, dtype


@contextmanager
def _refusing(where: str, expected: str) -> Iterator[None]:
    """Whatever NumPy and zipfile make of bytes that are wrong (of many kinds), as a FileFormatError."""
    try:
        yield
    except FileFormatError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # the system's, not zipfile's
            raise
        raise FileFormatError(
            f"{where}: expected {expected}, found something else or a part of one"
        ) from error


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return "floating"
    return "whole" if dtype.kind in "iub" else "other"


def _widened(array: Array) -> Array:
    """float16 and the other byte order as float32 and this machine's; a view where that is what it is."""
    dtype = array.dtype.newbyteorder("=")
    return array.astype(np.float32 if dtype == np.float16 else dtype, copy=False)


def safetensors_header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a safetensors file as its header has them, and its metadata.

    Raises FileFormatError where the safetensors package does not open the file.
    """
    from safetensors import SafetensorError, safe_open

    expected = f"{path}: expected a safetensors file"
    check_regular(path)
    with reading(path):
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
            with path.open("rb") as raw:
                header = from_json(raw.read(int.from_bytes(raw.read(8), "little")))
        except SafetensorError as error:
            reason = brief(str(error).splitlines()[0])
            raise FileFormatError(f"{expected}, found {path.stat().st_size:,} bytes ({reason})") from error
        except ValueError as error:
            raise FileFormatError(f"{expected}, found a header that is not JSON") from error
    header.pop("__metadata__", None)
    return header, metadata


def safetensors_arrays(path: Path) -> tuple[list[Stored], dict[str, str]]:
    """The tensors of a safetensors file and its metadata. Raises FileFormatError."""
    header, metadata = safetensors_header(path)
    content = map_file(path)
    data = content[8 + int.from_bytes(content[:8].tobytes(), "little") :]
    return [_tensor(path, name, entry, data) for name, entry in header.items()], metadata


def _tensor(path: Path, name: str, entry: dict[str, Any], data: Array) -> Stored:
    start, stop = entry["data_offsets"]
    shape, dtype, own = tuple(entry["shape"]), entry["dtype"], data[start:stop]
    if dtype in ("F16", "BF16"):
        return Stored(name, shape, dtype, "floating", StoredTensor(name, ENCODINGS[dtype], shape, own).read)
    kind = "floating" if dtype in ("F32", "F64") else "whole" if dtype in _WHOLE else "other"

    def read() -> Array:
        if kind == "other":
            raise FileFormatError(f"{path}: {brief(name)} has type {dtype}, which is not read")
        return own.view({"F32": "<f4", "F64": "<f8"}.get(dtype) or _WHOLE[dtype]).reshape(shape)

    return Stored(name, shape, dtype, kind, read)
