"""Arrays as .npy, .npz and safetensors files hold them: names, shapes and types first, numbers when asked
for. Nothing is unpickled. And the arrays of a run written as safetensors: names, text, tokens and positions
travel along."""

from __future__ import annotations

import ast
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from weakref import finalize

import numpy as np

from ..arrays.encodings import ENCODINGS
from ..arrays.stats import Array
from ..errors import FileFormatError
from ..files import write_atomically
from ..readers.mapped_file import MappedFile
from ..readers.safetensors import safetensors_header
from ..text.brief import brief
from ..untrusted_files import check_regular, reading

if TYPE_CHECKING:
    from ..tracing.result import Trace

# A .npy array is NPY_MAGIC, major and minor version, the header's length (u16, from version 2 on u32,
# little-endian), then {'descr': type, 'fortran_order': flag, 'shape': lengths} as Python writes it. Source:
# the documentation of numpy.lib.format. NumPy's own reader takes 15 s for a header of 9,000 blanks.
NPY_MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes, as NumPy has it
_LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4}
_LONG = re.compile(r"(?<=[0-9])L(?=[,)])")  # 3L, as Python 2 wrote an integer


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What the header of a .npy array says."""

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


ZIP_MAGIC = b"PK\x03\x04"
MAX_NAME = 512  # characters
_BOMB_BYTES, _BOMB_TIMES = 1 << 26, 200  # activations shrink by a third, not to a hundredth
_NUMBERS = {  # of safetensors, as NumPy has them
    "F32": "<f4", "F64": "<f8", "BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2",
    "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """An array in a file. `kind` is "floating" (which `read` gives as float32 or float64, whatever the
    file has), "whole" (integers and booleans, as they are) or "other", which cannot be read."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as the file calls it
    kind: str
    read: Callable[[], Array]


def npy_array(path: Path, name: str) -> StoredArray:
    """The array of a .npy file. Raises FileFormatError."""
    size = check_regular(path, "a .npy file")

    def rest(_: IO[bytes], header: NpyHeader) -> Array:
        return MappedFile.open(path).view(header.offset, header.size)

    with reading(path):
        return _array(path, name, str(path), size, lambda: path.open("rb"), rest)


def npz_arrays(path: Path) -> tuple[list[StoredArray], list[str]]:
    """The arrays of a .npz archive, which stays open while they are there, and the names of what else is in
    it. Raises FileFormatError."""
    arrays, others = [], []
    seen = set[str]()
    with reading(path), _refusing(str(path), "a .npz archive"):
        archive = zipfile.ZipFile(path)  # its list of members takes longer to read than most of them
        if archive.fp is not None:
            finalize(archive, archive.fp.close)  # where both are in a circle, its file may be collected first
        for member in archive.infolist():
            if member.filename in seen:
                raise FileFormatError(f"{path}: {brief(member.filename)} is there twice")
            seen.add(member.filename)
            if member.filename.endswith(".npy"):
                arrays.append(_member(path, archive, member))
            else:
                others.append(member.filename)
    return arrays, others


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredArray:
    where = f"{path}: {brief(member.filename)}"
    if member.compress_size > path.stat().st_size:
        raise FileFormatError(f"{where}: {member.compress_size:,} bytes, more than the file has")
    if member.file_size > max(_BOMB_BYTES, _BOMB_TIMES * member.compress_size):
        raise FileFormatError(f"{where}: {member.compress_size:,} bytes would become {member.file_size:,}")

    def rest(file: IO[bytes], header: NpyHeader) -> Array:
        data = np.frombuffer(file.read(header.size - header.offset), np.uint8)
        if file.read(1):  # and the checksum is looked at
            raise ValueError("longer than it was")
        return data

    name, opened = member.filename.removesuffix(".npy"), partial(archive.open, member)
    return _array(path, name, where, member.file_size, opened, rest)


def _array(
    path: Path, name: str, where: str, size: int, opened: Callable[[], IO[bytes]],
    rest: Callable[[IO[bytes], NpyHeader], Array],
) -> StoredArray:  # fmt: skip
    """The .npy array of `size` bytes in what is `opened`; `rest` gives the bytes behind the header."""
    with _refusing(where, "a .npy array"), opened() as file:
        header = read_header(file)
    if header.dtype.hasobject:
        raise FileFormatError(f"{where}: holds Python objects, which are not read")
    if size != header.size:
        raise FileFormatError(
            f"{where}: {header.dtype} {brief(list(header.shape))} takes {header.size:,} bytes, found {size:,}"
        )

    def read() -> Array:
        with reading(path), _refusing(where, "the array that its header describes"), opened() as file:
            if read_header(file) != header:
                raise ValueError("changed meanwhile")
            return _widened(header.array(rest(file, header)))

    check_name(path, name)
    return StoredArray(name, header.shape, str(header.dtype), _kind(header.dtype), read)


def check_name(where: Path | str, name: str) -> None:
    """Raises FileFormatError for a name that no tensor has: what names are held to takes longer than they
    are long."""
    if len(name) > MAX_NAME:
        raise FileFormatError(
            f"{where}: {brief(name)}: a name of {len(name):,} characters; at most {MAX_NAME} are expected"
        )


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


def named_header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a safetensors file as its header has them, and its metadata.

    Raises FileFormatError where the file is none, or a name is too long.
    """
    header, metadata = safetensors_header(path)
    for name in header:
        check_name(path, name)
    return header, metadata


def safetensors_arrays(path: Path) -> tuple[list[StoredArray], dict[str, str]]:
    """The tensors of a safetensors file and its metadata. Raises FileFormatError."""
    header, metadata = named_header(path)
    file = MappedFile.open(path)
    return [_tensor(file, name, entry) for name, entry in header.items()], metadata


def _tensor(file: MappedFile, name: str, entry: dict[str, Any]) -> StoredArray:
    (start, stop), shape, dtype = entry["data_offsets"], tuple(entry["shape"]), entry["dtype"]
    if dtype in ("F16", "BF16"):
        half = file.tensor(name, ENCODINGS[dtype], shape, start, stop)
        return StoredArray(name, shape, dtype, "floating", half.read)
    numbers = _NUMBERS.get(dtype)

    def read() -> Array:
        if numbers is None:
            raise FileFormatError(f"{file.path}: {brief(name)} has type {dtype}, which is not read")
        return file.view(start, stop).view(numbers).reshape(shape)

    return StoredArray(name, shape, dtype, _kind(np.dtype(numbers)) if numbers else "other", read)


# --- Written ------------------------------------------------------------------------------------------

ARRAYS_FORMAT = "microgpt.arrays/1"


def write_arrays(
    path: Path, arrays: Mapping[str, Array], *, text: str, tokens: Sequence[int], positions: Sequence[int],
    model: Any, notes: Sequence[str] = (), overwrite: bool = False,
) -> None:  # fmt: skip
    """Write arrays under their names. `positions` are those of the rows of logits and probs, `notes` are
    told by whoever reads the file.

    Raises RunError where the disk does not let us.
    """
    from safetensors.numpy import save as to_bytes

    metadata = {
        "format": ARRAYS_FORMAT,
        "text": text,
        "tokens": json.dumps([int(token) for token in tokens]),
        "positions": json.dumps([int(position) for position in positions]),
        "model": json.dumps(model),
        "notes": json.dumps(list(notes)),
    }
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # 0-d stays 0-d
    write_atomically(path, to_bytes(whole, metadata), overwrite)


def save_arrays(trace: Trace, path: Path, overwrite: bool = False) -> None:
    """Write the arrays of a trace's events: activations under their names, gradients and updates
    under `backward/name` and `update/name`."""
    arrays = {
        event.name if event.phase == "forward" else f"{event.phase}/{event.name}": trace.arrays[
            event.phase, event.name
        ]
        for event in trace
    }
    positions = [prediction.position for prediction in trace.predictions]
    changes = trace.intervened.interventions if trace.intervened else ()
    notes = [f"of a run with an intervention: {change.target} {change.text}" for change in changes]
    write_arrays(
        path, arrays, text=trace.input.text, tokens=trace.input.tokens, positions=positions,
        model=trace.model, notes=notes, overwrite=overwrite,
    )  # fmt: skip
