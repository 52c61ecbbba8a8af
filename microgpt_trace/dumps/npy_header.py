"""The header of a .npy array. NumPy's own reader takes 15 s for one of 9,000 blanks that is no Python.

Layout: b"\\x93NUMPY", major and minor version, the header's length (u16, from version 2 on u32,
little-endian), then {'descr': type, 'fortran_order': flag, 'shape': lengths} as Python writes it. Source:
the documentation of numpy.lib.format.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from ..arrays.stats import Array

NPY_MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes, as NumPy has it
_LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4}
_LONG = re.compile(r"(?<=[0-9])L(?=[,)])")  # 3L, as Python 2 wrote an integer


@dataclass(frozen=True, slots=True)
class NpyHeader:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_columns: bool
    offset: int  # of the data, from the start of the file

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def array(self, data: Array) -> Array:
        """The array in these bytes, which are those behind the header; not a copy."""
        return data.view(self.dtype).reshape(self.shape, order="F" if self.by_columns else "C")


def read_header(file: IO[bytes]) -> NpyHeader:
    """The header at the start of a file, which is read up to the data. Raises ValueError or what `ast` and
    NumPy raise (SyntaxError, TypeError, MemoryError ...) for bytes that are none."""
    head = file.read(len(NPY_MAGIC) + 2)
    width = _LENGTH_BYTES.get(head[-2:])
    if not head.startswith(NPY_MAGIC) or width is None:
        raise ValueError("no .npy array of version 1 or 2")
    length = int.from_bytes(file.read(width), "little")
    text = file.read(min(length, MAX_HEADER))
    if len(text) != length:
        raise ValueError(f"a header of {length} bytes")
    said = ast.literal_eval(_LONG.sub("", str(text, "latin1")).strip())
    shape, by_columns = said["shape"], said["fortran_order"]
    if said.keys() != {"descr", "fortran_order", "shape"} or type(by_columns) is not bool:
        raise ValueError("other keys")
    if type(shape) is not tuple or not all(type(length) is int and 0 <= length < 1 << 63 for length in shape):
        raise ValueError("no shape")
    dtype = np.lib.format.descr_to_dtype(said["descr"])
    return NpyHeader(shape, dtype, by_columns, len(head) + width + length)
