"""Safetensors files: u64 length of the header, the header as JSON {name: {dtype, shape, data_offsets}}, then
the data, to which the offsets refer.

Source: the format description of the safetensors project. Its package reads a file's tensors into memory;
here they stay mapped.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..arrays.encodings import ENCODINGS, StoredTensor
from ..errors import FileFormatError
from ..text.brief import brief
from ..untrusted_files import json_object
from .mapped_file import MappedFile

_DTYPES = ("F32", "F16", "BF16")
_MAX_DIMS, MAX_HEADER = 8, 100_000_000  # bytes, as the safetensors package has it


def read_safetensors(path: Path) -> list[StoredTensor]:
    """The tensors of a file, in the order of their data, which they fill from its start to its end."""
    file = MappedFile.open(path)
    content = file.bytes
    size = int.from_bytes(content[:8].tobytes(), "little")
    if size > min(len(content) - 8, MAX_HEADER):
        found = f"of {size:,} bytes" if size <= len(content) - 8 else "past its end"
        raise FileFormatError(f"{path}: expected a safetensors file, found a header {found}")
    header = json_object(path, content[8 : 8 + size].tobytes(), "the header of a safetensors file")
    header.pop("__metadata__", None)
    begin, length = 8 + size, len(content) - 8 - size
    extents = sorted((*_extent(path, name, entry), name) for name, entry in header.items())
    tensors, last = [], 0
    for start, stop, name in extents:
        if start != last or stop < start:
            raise FileFormatError(
                f"{path}: tensor {brief(name)} lies at {start:,} to {stop:,}; expected a start at {last:,}"
            )
        if stop > length:
            raise FileFormatError(
                f"{path}: tensor {brief(name)} ends at {stop:,} of {length:,} bytes: the file is cut short"
            )
        tensors.append(_tensor(file, name, header[name], begin + start, begin + stop))
        last = stop
    if last != length:
        raise FileFormatError(f"{path}: {length - last:,} bytes at the end belong to no tensor")
    return tensors


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _extent(path: Path, name: str, entry: Any) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_size, offsets)):
        return offsets[0], offsets[1]
    raise FileFormatError(f"{path}: tensor {brief(name)}: expected two data_offsets, found {brief(offsets)}")


def _tensor(file: MappedFile, name: str, entry: dict[str, Any], start: int, stop: int) -> StoredTensor:
    size = stop - start
    path, dtype, shape = file.path, entry.get("dtype"), entry.get("shape")
    if dtype not in _DTYPES:
        raise FileFormatError(
            f"{path}: tensor {brief(name)} has type {brief(dtype)}, which is not supported; these are: "
            f"{', '.join(_DTYPES)}"
        )
    encoding = ENCODINGS[dtype]
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_DIMS
        or not all(map(_is_size, shape))
        or math.prod(shape) * encoding.block_bytes != size
    ):
        raise FileFormatError(
            f"{path}: tensor {brief(name)}: {dtype} of shape {brief(shape)} does not take {size:,} bytes"
        )
    return file.tensor(name, encoding, tuple(shape), start, stop)
