"""Read the header of a GGUF file of version 2 or 3, or of all parts of a split file.

A file consists of "GGUF", the version (u32), the number of tensors (u64), the number of metadata pairs (u64),
the pairs, the tensor index, and data from the next multiple of general.alignment. A pair is a key, a type
(u32) and a value. An index entry is a name, the number of dimensions (u32), each dimension (u64, the length
of a row first), a type (u32) and an offset (u64). A string is its length in bytes (u64) and the bytes.
Integers are little-endian. Source: the GGUF specification of the ggml project.
"""

from __future__ import annotations

import math
import re
import struct
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from ..arrays.encodings import ENCODINGS, StoredTensor
from ..arrays.stats import Array
from ..decoder.settings import COUNT, Settings
from ..errors import FileFormatError, naming
from ..text.brief import brief
from .mapped_file import MappedFile

MAGIC = b"GGUF"
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K",
    11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS",
    18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16",
    26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
_SCALARS = {
    0: Struct("<B"), 1: Struct("<b"), 2: Struct("<H"), 3: Struct("<h"), 4: Struct("<I"), 5: Struct("<i"),
    6: Struct("<f"), 7: Struct("<?"), 10: Struct("<Q"), 11: Struct("<q"), 12: Struct("<d"),
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_U32, _U64 = Struct("<I"), Struct("<Q")
_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
MAX_DIMS, MAX_NAME, MAX_TEXT = 4, 256, 1 << 26
_MAX_ITEM = 1 << 16  # the largest size of a string in an array, in bytes


def read_gguf_header(path: Path) -> GgufFile:
    """Read the metadata and the tensor index of a file. Of a split file, return the first part with the
    tensors of all parts.

    Raises FileFormatError if a file is damaged or cut short, or is not a GGUF file.
    """
    split = _SPLIT.fullmatch(path.name)
    first = path.with_name(f"{split[1]}-00001-of-{split[3]}.gguf") if split else path
    head = GgufFile(first)
    count, _ = head.number()
    parts = [head] if count == 1 else _parts(first, head, count)
    tensors: dict[str, StoredTensor] = {}
    for part in parts:
        for tensor in part.tensors:
            if tensor.name in tensors:
                raise FileFormatError(f"{part.path}: tensor {tensor.name!r} is also in another part")
            tensors[tensor.name] = tensor
    with naming(first, FileFormatError):
        expected = head.settings.get("split.tensors.count", COUNT)
    if expected not in (None, len(tensors)):
        raise FileFormatError(f"{first}: expected {expected:,} tensors in all parts, found {len(tensors):,}")
    head.tensors = tuple(tensors.values())
    return head


def _parts(first: Path, head: GgufFile, count: int) -> list[GgufFile]:
    split = _SPLIT.fullmatch(first.name)
    if split is None or int(split[3]) != count:
        raise FileFormatError(f"{first}: a file of {count} parts must be named NAME-00001-of-{count:05}.gguf")
    parts = []
    for number in range(1, count + 1):
        path = first.with_name(f"{split[1]}-{number:05}-of-{count:05}.gguf")
        part = head if number == 1 else GgufFile(path)
        if part.number() != (count, number):
            of, found = part.number()
            raise FileFormatError(f"{path}: expected part {number} of {count}, found part {found} of {of}")
        parts.append(part)
    return parts


class Strings(Sequence[str]):
    """A list of strings in a file. The strings are decoded at the first access, because Python strings need
    six times the memory of the bytes in the file, and a hostile file may contain any number of strings.
    `starts` lists the positions of the strings. At a position, the file contains the length of a string and
    then its bytes. The last string ends at `stop`. Bytes that are not UTF-8 become lone surrogates.
    """

    dtype = str

    def __init__(self, file: MappedFile, starts: Array, stop: int) -> None:
        self._file, self._starts, self._stop = file, starts, stop

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        return self._decoded[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded)

    def __repr__(self) -> str:
        return brief(self._decoded)

    def tolist(self) -> list[str]:
        """Return all the strings."""
        return self._decoded

    @cached_property
    def _decoded(self) -> list[str]:
        self._file.check()
        content, starts = self._file.bytes[: self._stop].tobytes(), self._starts.tolist()
        return [
            content[start + 8 : stop].decode("utf-8", "surrogateescape")
            for start, stop in zip(starts, [*starts, self._stop][1:], strict=True)
        ]


class GgufFile:
    """A file, or one part of a split file, which is read from its beginning. `at` is the position of the next
    byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = MappedFile.open(path)
        self.bytes = self.file.bytes
        self.buffer = self.bytes.data  # slicing this memoryview copies no bytes
        if bytes(self.buffer[:4]) != MAGIC:
            found = f"a file that begins with the bytes {repr(bytes(self.buffer[:4]))[1:]}"
            raise FileFormatError(f"{path}: expected a GGUF file, found {found}")
        self.at = 4
        self.version = self._read_number(_U32, "the version")
        if self.version not in (2, 3):
            swapped = int.from_bytes(self.version.to_bytes(4, "little"), "big")
            hint = " (big-endian files are not supported)" if swapped in (2, 3) else ""
            raise FileFormatError(f"{path}: expected GGUF version 2 or 3, found {self.version}{hint}")
        tensor_count, pair_count = (self._read_number(_U64, "the counts") for _ in range(2))
        self._fits(tensor_count, 24, "tensors")
        self._fits(pair_count, 13, "metadata pairs")
        self.metadata = self._pairs(pair_count)
        self.settings = Settings(self.metadata)
        self.tensors = tuple(self._tensors(tensor_count))

    def number(self) -> tuple[int, int]:
        """Return how many parts the model has and the number of this part, counted from 1."""
        with naming(self.path, FileFormatError):
            count = self.settings.get("split.count", COUNT) or 1  # tools that merge parts write 0
            number = self.settings.get("split.no", COUNT) or 0
            return count, number + 1 if count > 1 else 1

    def _fail(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.path}: {what}, at byte {self.at:,} of {len(self.bytes):,}")

    def _read_number(self, form: Struct, what: str) -> Any:
        if self.at + form.size > len(self.bytes):
            raise self._fail(f"the file ends within {what}")
        (value,) = form.unpack_from(self.buffer, self.at)
        self.at += form.size
        return value

    def _fits(self, count: int, least: int, what: str) -> None:
        """Raise FileFormatError if the rest of the file has fewer than `count * least` bytes."""
        if count * least > len(self.bytes) - self.at:
            raise self._fail(f"{count:,} {what} do not fit into the file")

    def _string(self, what: str, most: int | None = None) -> str:
        length = self._read_number(_U64, what)
        if length > len(self.bytes) - self.at:
            raise self._fail(f"{what} of {length:,} bytes does not fit into the file")
        if most is not None and length > most:
            raise self._fail(f"{what} of {length:,} bytes is too long (at most {most:,})")
        self.at += length
        return str(self.buffer[self.at - length : self.at], "utf-8", "surrogateescape")

    def _pairs(self, count: int) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        for _ in range(count):
            key = self._string("a metadata key", MAX_NAME)
            if key in pairs:
                raise self._fail(f"the metadata contain {key!r} twice")
            pairs[key] = self._value(self._read_number(_U32, f"{key!r}"), key)
        return pairs

    def _value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self._read_number(_SCALARS[kind], f"the value of {key!r}")
        if kind == _STRING:
            return self._string(f"the value of {key!r}", MAX_TEXT)
        if kind != _ARRAY:
            raise self._fail(f"{key!r} has a value of unknown type {kind}")
        kind, count = self._read_number(_U32, f"{key!r}"), self._read_number(_U64, f"{key!r}")
        if kind == _STRING:
            self._fits(count, 8, f"values of {key!r}")
            return self._strings(count, key)
        if kind not in _SCALARS:  # also refuses arrays of arrays, which no engine reads
            raise self._fail(f"{key!r} is an array of unknown type {kind}")
        self._fits(count, _SCALARS[kind].size, f"values of {key!r}")
        start, self.at = self.at, self.at + count * _SCALARS[kind].size
        return np.frombuffer(self.buffer[start : self.at], _SCALARS[kind].format)

    def _strings(self, count: int, key: str) -> Strings:
        """Find the start of each string. The starts need as much memory as the lengths in the file."""
        starts, at, buffer, unpack = array("q", [0]) * count, self.at, self.buffer, _U64.unpack_from
        try:
            for i in range(count):
                (length,) = unpack(buffer, at)
                if length > _MAX_ITEM:
                    raise self._fail(f"a string of {key!r} has {length:,} bytes (at most {_MAX_ITEM:,})")
                starts[i] = at
                at += 8 + length
        except struct.error as error:
            raise self._fail(f"the file ends within {key!r}") from error
        if at > len(self.bytes):
            raise self._fail(f"a string of {key!r} does not fit into the file")
        self.at = at
        return Strings(self.file, np.frombuffer(starts, np.int64), at)

    def _tensors(self, count: int) -> list[StoredTensor]:
        index = [self._entry() for _ in range(count)]
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._fail(f"general.alignment: expected a power of two, found {brief(alignment)}")
        start = -(-self.at // alignment) * alignment
        last_stop, last_name = 0, ""
        tensors: dict[str, StoredTensor] = {}
        for name, dims, kind, offset in sorted(index, key=lambda entry: entry[3]):
            tensor, stop = self._tensor(name, dims, kind, start, offset)
            if offset < last_stop:
                raise FileFormatError(f"{self.path}: tensors {last_name!r} and {name!r} overlap")
            if name in tensors:
                raise FileFormatError(f"{self.path}: tensor {name!r} occurs twice")
            if tensor.stored.size:
                last_stop, last_name = stop, name
            tensors[name] = tensor
        return [tensors[entry[0]] for entry in index]

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string("a tensor's name", MAX_NAME)
        what = f"tensor {name!r}"
        n_dims = self._read_number(_U32, what)
        if not 1 <= n_dims <= MAX_DIMS:
            raise self._fail(f"{what}: expected 1 to {MAX_DIMS} dimensions, found {n_dims}")
        dims = tuple(self._read_number(_U64, what) for _ in range(n_dims))
        return name, dims, self._read_number(_U32, what), self._read_number(_U64, what)

    def _tensor(
        self, name: str, dims: tuple[int, ...], kind: int, start: int, offset: int
    ) -> tuple[StoredTensor, int]:
        """Return the tensor and the byte where it ends, counted from the start of the data."""
        label = TYPES.get(kind, f"number {kind}")
        encoding = ENCODINGS.get(label)
        if encoding is None:
            works = f"supported: {', '.join(name for name in TYPES.values() if name in ENCODINGS)}"
            raise FileFormatError(f"{self.path}: tensor {name!r} has the unsupported type {label}; {works}")
        if dims[0] % encoding.block_size:
            raise FileFormatError(
                f"{self.path}: tensor {name!r}: rows of {dims[0]} elements do not divide into blocks of "
                f"{encoding.block_size} ({label})"
            )
        size = math.prod(dims) // encoding.block_size * encoding.block_bytes
        if offset + size > len(self.bytes) - start:
            raise FileFormatError(
                f"{self.path}: the file is cut short: tensor {name!r} of {size:,} bytes at byte "
                f"{start + offset:,} ends past the end of the file ({len(self.bytes):,} bytes)"
            )
        start += offset
        return self.file.tensor(name, encoding, dims[::-1], start, start + size), offset + size
