"""Read arrays of .npy, .npz and safetensors files, and write the arrays of a run as safetensors.

Opening a file loads names, shapes and types. Numbers are loaded only when needed. Nothing is unpickled. A
file that we write also contains the text, the tokens and the positions of the run.
"""

from __future__ import annotations

import ast
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from weakref import finalize

import numpy as np

from ..arrays.encodings import FLOATS
from ..arrays.stats import Array
from ..errors import FileFormatError
from ..files import write_atomically
from ..readers.mapped_file import MappedFile
from ..readers.safetensors import safetensors_header
from ..text.brief import brief
from ..text.frozen import frozen
from ..text.json_reading import MANY_VALUES, from_json
from ..untrusted_files import check_name, check_regular, reading

if TYPE_CHECKING:
    from ..tracing.result import ParameterRow, Trace

# A .npy file has NPY_MAGIC, the major and minor version, the length of the header (little-endian, u16 in
# version 1, u32 from version 2 on), the header {'descr': type, 'fortran_order': flag, 'shape': lengths} as a
# Python literal, and the data. Source: the documentation of numpy.lib.format. We do not use NumPy's reader,
# because it takes 15 s for a header of 9,000 blanks.
NPY_MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes; NumPy has the same limit
_LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4}
# ml_dtypes writes bfloat16 as V2, float8_e5m2 as f1, and all other types of one byte as V1.
_ASSUMED = {"V2": "bfloat16", "f1": "float8_e5m2", "V1": "float8_e4m3fn"}
_LONG = re.compile(r"(?<=[0-9])L(?=[,)])")  # Python 2 wrote the integer 3 as 3L


class NpyHeader(NamedTuple):
    """The header of a .npy array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_columns: bool
    offset: int  # index of the first byte of the data in the file
    short: str = ""  # the type of short floats, which NumPy does not know

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> NpyHeader:
    """Read only the header of a .npy file.

    Raises ValueError or any error of `ast` and NumPy (SyntaxError, TypeError ...) if the header is damaged.
    """
    head = file.read(len(NPY_MAGIC) + 2)
    width = _LENGTH_BYTES.get(head[-2:])
    if not head.startswith(NPY_MAGIC) or width is None:
        raise ValueError("not a .npy array of version 1 or 2")
    length = int.from_bytes(file.read(width), "little")
    text = file.read(min(length, MAX_HEADER))
    if len(text) != length:
        raise ValueError(f"a header of {length} bytes")
    header = ast.literal_eval(_LONG.sub("", str(text, "latin1")).strip())
    shape, by_columns = header["shape"], header["fortran_order"]
    if header.keys() != {"descr", "fortran_order", "shape"} or type(by_columns) is not bool:
        raise ValueError("other keys")
    if type(shape) is not tuple or not all(type(length) is int and 0 <= length < 1 << 63 for length in shape):
        raise ValueError("no shape")
    short = _ASSUMED.get(str(header["descr"])[1:], "")
    if short:
        header["descr"] = f"V{FLOATS[short].block_bytes}"
    dtype = np.lib.format.descr_to_dtype(header["descr"])
    return NpyHeader(shape, dtype, by_columns, len(head) + width + length, short)


ZIP_MAGIC = b"PK\x03\x04"
_BOMB_BYTES, _BOMB_TIMES = 1 << 26, 200  # activations compress to about 2/3, never to 1/100
_FLOATS = {encoding.name: encoding for encoding in FLOATS.values()}
_NUMPY_TYPES = {  # type in safetensors -> type in NumPy
    "F32": "<f4", "F64": "<f8", "BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2",
    "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
}  # fmt: skip


@frozen(eq=False)
class StoredArray:
    """An array in a file.

    `kind` is "floating" (`read` returns float32 or float64), "whole" (integers or booleans), or "other"
    (unreadable). `assumed` is True if the file does not name the type of short floats.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str  # the name of the type in the file
    kind: str
    read: Callable[[], Array]
    assumed: bool = False


def decoded(bits: Array, dtype: str) -> Array:
    """Return short floats of any shape and order of axes as float32. `dtype` is a key of FLOATS."""
    blocks = np.ascontiguousarray(bits).reshape(-1, 1).view(np.uint8)
    return FLOATS[dtype].decode(blocks).reshape(bits.shape)


def npy_array(path: Path, name: str) -> StoredArray:
    """Open the array of a .npy file. Raises FileFormatError."""
    size = check_regular(path, "a .npy file")

    def read_all() -> Array:
        return MappedFile.open(path).view(0, size)

    with reading(path):
        return _array(path, name, str(path), size, lambda: path.open("rb"), read_all)


def npz_arrays(path: Path) -> tuple[list[StoredArray], list[str]]:
    """Return the arrays of a .npz archive, and the names of all other files. Raises FileFormatError.

    The archive stays open as long as the arrays exist.
    """
    arrays, others = [], []
    with reading(path), as_file_error(str(path), "a .npz archive"):
        archive = open_archive(path)
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                arrays.append(_member(path, archive, member))
            else:
                others.append(member.filename)
    return arrays, others


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open a zip archive. Raises FileFormatError if a name occurs twice, or if a member unpacks to much more
    than activations do, and errors of zipfile if the archive is damaged."""
    archive = zipfile.ZipFile(path)  # stays open, because opening an archive is slow
    if archive.fp is not None:
        finalize(archive, archive.fp.close)  # otherwise Python could close the file before the archive
    seen = set[str]()
    for member in archive.infolist():
        where, stored = f"{path}: {brief(member.filename)}", member.compress_size
        if member.filename in seen:
            raise FileFormatError(f"{where} occurs twice")
        if stored > path.stat().st_size:
            raise FileFormatError(f"{where}: expected at most the size of the file, found {stored:,} bytes")
        check_expansion(where, stored, member.file_size)
        seen.add(member.filename)
    return archive


def check_expansion(where: str, stored: int, size: int) -> None:
    """Raise FileFormatError if `stored` bytes of a file would become far too many bytes of memory."""
    if size > max(_BOMB_BYTES, _BOMB_TIMES * stored):
        raise FileFormatError(f"{where}: expected activations, found {stored:,} bytes unpacked to {size:,}")


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredArray:
    def read_all() -> Array:
        return np.frombuffer(archive.read(member), np.uint8)  # zipfile compares the checksum

    name, where = member.filename.removesuffix(".npy"), f"{path}: {brief(member.filename)}"
    return _array(path, name, where, member.file_size, partial(archive.open, member), read_all)


def _array(
    path: Path, name: str, where: str, size: int, open_file: Callable[[], IO[bytes]],
    read_all: Callable[[], Array],
) -> StoredArray:  # fmt: skip
    """Return a .npy array of `size` bytes. `read_all` reads the header and the data."""
    with as_file_error(where, "a .npy array"), open_file() as file:
        header = read_header(file)
    if header.dtype.hasobject:
        raise FileFormatError(f"{where}: expected numbers, found Python objects, which are not allowed")
    if size != header.size:
        array = f"{header.dtype} {brief(list(header.shape))}"
        raise FileFormatError(f"{where}: expected {header.size:,} bytes for {array}, found {size:,}")

    def read_stored() -> Array:
        with reading(path), as_file_error(where, "the array that its header describes"):
            content = read_all()
            if read_header(BytesIO(content[: header.offset].tobytes())) != header:
                raise ValueError("the header changed")
            values = content[header.offset :].view(header.dtype)
            return values.reshape(header.shape, order="F" if header.by_columns else "C")

    def read() -> Array:
        array = read_stored()
        dtype = array.dtype.newbyteorder("=")  # this machine's byte order
        return array.astype(np.float32 if dtype == np.float16 else dtype, copy=False)

    check_name(path, name)
    shape, short = header.shape, header.short
    if short:
        return StoredArray(name, shape, short, "floating", lambda: decoded(read_stored(), short), True)
    return StoredArray(name, shape, str(header.dtype), _kind(header.dtype), read)


@contextmanager
def as_file_error(where: str, expected: str) -> Iterator[None]:
    """Convert errors that NumPy or zipfile raises for damaged bytes to FileFormatError."""
    try:
        yield
    except Exception as error:
        of_system = isinstance(error, OSError) and error.strerror  # zipfile's own errors have no strerror
        if of_system or isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{where}: expected {expected}, found other or damaged bytes") from error


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return "floating"
    return "whole" if dtype.kind in "iub" else "other"


def safetensors_arrays(path: Path) -> tuple[list[StoredArray], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file. Raises FileFormatError if the file is not a
    safetensors file, or a name is too long."""
    header, metadata = safetensors_header(path)
    for name in header:
        check_name(path, name)
    file = MappedFile.open(path)
    return [_tensor(file, name, entry) for name, entry in header.items()], metadata


def _tensor(file: MappedFile, name: str, entry: dict[str, Any]) -> StoredArray:
    (start, stop), shape, dtype = entry["data_offsets"], tuple(entry["shape"]), entry["dtype"]
    if dtype in _FLOATS:
        short = file.tensor(name, _FLOATS[dtype], shape, start, stop)
        return StoredArray(name, shape, dtype, "floating", short.read)
    numpy_type = _NUMPY_TYPES.get(dtype)

    def read() -> Array:
        if numpy_type is None:
            raise FileFormatError(f"{file.path}: {brief(name)} has type {dtype}, which is not supported")
        return file.view(start, stop).view(numpy_type).reshape(shape)

    return StoredArray(name, shape, dtype, _kind(np.dtype(numpy_type)) if numpy_type else "other", read)


# --- Writing ------------------------------------------------------------------------------------------

ARRAYS_FORMAT = "microgpt.arrays/1"
PIECE = 1 << 24  # bytes to copy at a time


def write_arrays(
    path: Path, arrays: Mapping[str, Array], *, text: str, tokens: Sequence[int], positions: Sequence[int],
    model: Any, notes: Sequence[str] = (), overwrite: bool = False,
    extended: Callable[[bytes], bytes | Iterable[Any]] = bytes,
) -> None:  # fmt: skip
    """Write named arrays to a safetensors file. Raises RunError if the system cannot write the file.

    `positions` lists the position of each row of logits and probs. Commands that read the file print `notes`.
    `extended` adds to the content of the file.
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
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # scalars stay 0-d
    write_atomically(path, extended(to_bytes(contiguous, metadata)), overwrite)


def _extended(rows: Sequence[ParameterRow], gradients: IO[bytes], content: bytes) -> Iterator[Any]:
    """Yield the pieces of a safetensors file with the arrays of the file `content`, and then the gradients of
    parameters, as `backward/NAME`."""
    length = int.from_bytes(content[:8], "little")
    header, data = from_json(content[8 : 8 + length], most=MANY_VALUES), memoryview(content)[8 + length :]
    stop = len(data)
    for row in rows:
        start, stop = stop, stop + 4 * math.prod(row.shape)
        header[f"backward/{row.name}"] = {"dtype": "F32", "shape": row.shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data are aligned to 8 bytes
    yield from (len(text).to_bytes(8, "little"), text, data)
    gradients.seek(0)
    yield from iter(lambda: gradients.read(PIECE), b"")


def save_arrays(
    trace: Trace, path: Path, overwrite: bool = False, gradients: IO[bytes] | None = None
) -> None:
    """Write the arrays of a trace. For an event NAME, the keys are NAME (activation), `backward/NAME`
    (gradient) and `update/NAME` (update). `gradients` has the gradients of the
    trace's parameters as float32, one after another; a decoder's trace does not keep these gradients."""
    arrays = {}
    for event in trace:
        name = event.name if event.phase == "forward" else f"{event.phase}/{event.name}"
        arrays[name] = trace.arrays[event.phase, event.name]
    positions = [prediction.position for prediction in trace.predictions]
    changes = trace.intervened.interventions if trace.intervened else ()
    notes = [f"the run had an intervention: {change.target} {change.text}" for change in changes]
    write_arrays(
        path, arrays, text=trace.input.text, tokens=trace.input.tokens, positions=positions,
        model=trace.model, notes=notes, overwrite=overwrite,
        extended=partial(_extended, trace.parameters, gradients) if gradients is not None else bytes,
    )  # fmt: skip
