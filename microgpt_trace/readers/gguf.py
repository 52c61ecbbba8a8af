"""GGUF v2 and v3, one file or split: header, metadata and tensor index; the tensors stay mapped.

Layout, little-endian: "GGUF", u32 version, u64 tensors, u64 metadata pairs; pairs (string key, u32
type, value); tensors (string name, u32 dims, u64 each, fastest first, u32 type, u64 offset); data at
the next multiple of general.alignment. A string is u64 length and its bytes. Source: the GGUF
specification of the ggml project.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from ..encodings import ENCODINGS, StoredTensor
from ..errors import FileFormatError
from .model_file import map_file

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
MAX_DIMS, MAX_DEPTH = 4, 3


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file, or of the parts of a split one together."""

    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[StoredTensor, ...]


def read_gguf_header(path: Path) -> GgufFile:
    """Read metadata and tensor index of a file, or of all parts where it is split.

    Raises FileFormatError, naming file and place, for what is cut short, foreign or impossible.
    """
    first = _first_part(path)
    whole = _Part(first)
    count = whole.metadata.get("split.count", 1)
    if count == 1:
        return GgufFile(whole.version, whole.metadata, tuple(whole.tensors))
    split = _SPLIT.fullmatch(first.name)
    if split is None or not isinstance(count, int) or int(split[3]) != count or int(split[2]) != 1:
        raise FileFormatError(
            f"{first}: the file says it is part of {count}, but is not named NAME-00001-of-{count:0>5}.gguf"
        )
    tensors = list(whole.tensors)
    for number in range(2, count + 1):
        part = _Part(first.with_name(f"{split[1]}-{number:05}-of-{count:05}.gguf"))
        if part.metadata.get("split.no") != number - 1 or part.metadata.get("split.count") != count:
            raise FileFormatError(f"{part.path}: expected part {number} of {count}, found another file")
        tensors += part.tensors
    names = {tensor.name for tensor in tensors}
    expected = whole.metadata.get("split.tensors.count", len(names))
    if len(names) != len(tensors) or len(names) != expected:
        raise FileFormatError(
            f"{first}: expected {expected} tensors in {count} parts, found {len(names)} names "
            f"of {len(tensors)}"
        )
    return GgufFile(whole.version, whole.metadata, tuple(tensors))


def _first_part(path: Path) -> Path:
    split = _SPLIT.fullmatch(path.name)
    return path.with_name(f"{split[1]}-00001-of-{split[3]}.gguf") if split else path


class _Part:
    """One file of a model, read from the front."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise FileFormatError(f"{path}: no such file")
        self.bytes = map_file(path)
        self.buffer = self.bytes.data  # struct and slices work on it without a copy
        self.at = 0
        if bytes(self.buffer[:4]) != MAGIC:
            raise FileFormatError(f"{path}: expected a GGUF file, found {bytes(self.buffer[:4])!r}")
        self.at = 4
        self.version = self._number(_U32, "the version")
        if self.version not in (2, 3):
            swapped = int.from_bytes(self.version.to_bytes(4, "little"), "big")
            hint = " (big-endian files are not supported)" if swapped in (2, 3) else ""
            raise FileFormatError(f"{path}: expected GGUF version 2 or 3, found {self.version}{hint}")
        tensor_count, pair_count = (self._number(_U64, "the counts") for _ in range(2))
        self._fits(tensor_count, 24, "tensors")
        self._fits(pair_count, 13, "metadata pairs")
        self.metadata = self._pairs(pair_count)
        self.tensors = self._tensors(tensor_count)

    def _fail(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.path}: {what}, at byte {self.at:,} of {len(self.bytes):,}")

    def _number(self, form: Struct, what: str) -> Any:
        if self.at + form.size > len(self.bytes):
            raise self._fail(f"the file ends within {what}")
        (value,) = form.unpack_from(self.buffer, self.at)
        self.at += form.size
        return value

    def _fits(self, count: int, least: int, what: str) -> None:
        """Nothing is made that the rest of the file cannot fill."""
        if count * least > len(self.bytes) - self.at:
            raise self._fail(f"{count:,} {what} do not fit into the file")

    def _string(self, what: str) -> str:
        length = self._number(_U64, what)
        if length > len(self.bytes) - self.at:
            raise self._fail(f"{what} of {length:,} bytes does not fit into the file")
        self.at += length
        return str(self.buffer[self.at - length : self.at], "utf-8", "surrogateescape")

    def _pairs(self, count: int) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        for _ in range(count):
            key = self._string("a metadata key")
            pairs[key] = self._value(self._number(_U32, f"{key!r}"), key)
        return pairs

    def _value(self, kind: int, key: str, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind], f"the value of {key!r}")
        if kind == _STRING:
            return self._string(f"the value of {key!r}")
        if kind != _ARRAY or depth == MAX_DEPTH:
            raise self._fail(f"{key!r} has a value of unknown type {kind}")
        kind, count = self._number(_U32, f"{key!r}"), self._number(_U64, f"{key!r}")
        if kind in _SCALARS:
            self._fits(count, _SCALARS[kind].size, f"values of {key!r}")
            stop = self.at + count * _SCALARS[kind].size
            numbers = np.frombuffer(self.buffer[self.at : stop], _SCALARS[kind].format)
            self.at = stop
            return numbers
        self._fits(count, 8, f"values of {key!r}")
        return self._strings(count, key) if kind == _STRING else [
            self._value(kind, key, depth + 1) for _ in range(count)
        ]  # fmt: skip

    def _strings(self, count: int, key: str) -> list[str]:
        """As `_string` count times, decoded together: a vocabulary has 150,000 of them (10 ms, not 40).

        Each length makes way for one byte 0xFF, which stands nowhere in UTF-8, and parts the text.
        """
        start, at, size, unpack = self.at, self.at, len(self.bytes), _U64.unpack_from
        lengths_at = []
        for _ in range(count):
            lengths_at.append(at)
            if at + 8 > size:
                raise self._fail(f"the file ends within {key!r}")
            at += 8 + unpack(self.buffer, at)[0]
        if at > size:
            raise self._fail(f"a string of {key!r} does not fit into the file")
        self.at = at
        region, places = self.bytes[start:at].copy(), np.array(lengths_at, dtype=np.int64) - start
        kept = np.ones(len(region), dtype=bool)
        kept[(places[:, None] + np.arange(1, 8)).ravel()] = False
        region[places] = 0xFF
        strings = region[kept].tobytes().decode("utf-8", "surrogateescape").split("\udcff")[1:]
        if len(strings) == count:
            return strings
        raise self._fail(f"a string of {key!r} is not UTF-8")

    def _tensors(self, count: int) -> list[StoredTensor]:
        index = [self._entry() for _ in range(count)]
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._fail(f"general.alignment: expected a power of two, found {alignment!r}")
        start = -(-self.at // alignment) * alignment
        last_stop, last_name = 0, ""
        tensors: dict[str, StoredTensor] = {}
        for name, dims, kind, offset in sorted(index, key=lambda entry: entry[3]):
            tensor, stop = self._tensor(name, dims, kind, start, offset)
            if offset < last_stop:
                raise FileFormatError(f"{self.path}: tensors {last_name!r} and {name!r} overlap")
            if name in tensors:
                raise FileFormatError(f"{self.path}: tensor {name!r} is there twice")
            if tensor.data.size:
                last_stop, last_name = stop, name
            tensors[name] = tensor
        return [tensors[entry[0]] for entry in index]

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string("a tensor's name")
        n_dims = self._number(_U32, f"tensor {name!r}")
        if not 1 <= n_dims <= MAX_DIMS:
            raise self._fail(f"tensor {name!r}: expected 1 to {MAX_DIMS} dimensions, found {n_dims}")
        dims = tuple(self._number(_U64, f"tensor {name!r}") for _ in range(n_dims))
        return name, dims, self._number(_U32, f"tensor {name!r}"), self._number(_U64, f"tensor {name!r}")

    def _tensor(
        self, name: str, dims: tuple[int, ...], kind: int, start: int, offset: int
    ) -> tuple[StoredTensor, int]:
        """The tensor and where it stops, counted from the start of the data."""
        known = TYPES.get(kind, f"number {kind}")
        encoding = ENCODINGS.get(known)
        if encoding is None:
            works = ", ".join(name for name in TYPES.values() if name in ENCODINGS)
            raise FileFormatError(
                f"{self.path}: tensor {name!r} has type {known}, which is not supported; these are: {works}"
            )
        if dims[0] % encoding.block_size:
            raise FileFormatError(
                f"{self.path}: tensor {name!r}: rows of {dims[0]} do not divide into blocks of "
                f"{encoding.block_size} ({known})"
            )
        size = math.prod(dims) // encoding.block_size * encoding.block_bytes
        if offset + size > len(self.bytes) - start:
            raise FileFormatError(
                f"{self.path}: tensor {name!r} of {size:,} bytes at {start + offset:,} ends past the end of "
                f"the file ({len(self.bytes):,} bytes): it is cut short"
            )
        data = self.bytes[start + offset : start + offset + size]
        return StoredTensor(name, encoding, dims[::-1], data), offset + size
