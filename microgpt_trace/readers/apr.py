"""Read .apr files of version 2: header, metadata and tensor index. Tensors are views of the mapped file.

A file consists of a header of 64 bytes, metadata as a JSON object, the tensor index, the tensor data, and a
CRC-32 of all these bytes. Every section begins at a multiple of 64 bytes. An index entry consists of the
length of the name (u16), the name, dtype (u8), number of dimensions (u8), each dimension (u64), offset from
the start of the data (u64) and size (u64). Integers are little-endian. Source: the crate apr-format.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays.encodings import ENCODINGS, StoredTensor
from ..arrays.stats import Array
from ..decoder.architectures.llama import NAMES
from ..decoder.decoder import Decoder
from ..decoder.problems import Problems
from ..decoder.setting_names import RopePairs
from ..errors import FileFormatError, InputError, naming
from ..text.brief import brief
from ..text.frozen import frozen
from ..text.json_reading import MANY_VALUES, from_json
from ..vocabulary.metadata import from_apr
from .apr_config import AprSettings, apr_config
from .mapped_file import MappedFile
from .model_file import checked_decoder, our_tensors

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

MAGICS = (b"APR\0", b"APR2")  # some converters write APR2
FOREIGN = {
    b"APR1": "version 1 (APR1)", b"APRN": "version 1 (APRN)",
    b"APRT": "one tensor that apr trace saved (APRT)",
}  # fmt: skip
HEADER = struct.Struct("<4x2BHIQIQQI20x")  # 4x skips the magic, and 20x the reserved bytes
CHECKSUM_AT = 40
LZ4, ZSTD, ENCRYPTED, SIGNED, SHARDED, COLUMN_MAJOR = 0x1, 0x2, 0x4, 0x8, 0x10, 0x800
MAX_NAME, MAX_DIMS = 256, 8
MIN_ENTRY = 20  # bytes of an index entry, not counting its name and dimensions

# An id can mean a type of aprender or a type of ggml, because imported ggml files kept the ids of ggml.
# The size of a tensor shows which type is meant.
DTYPES: dict[int, tuple[str, ...]] = {
    0: ("F32",), 1: ("F16",), 2: ("Q4_0",), 3: ("F64", "Q4_1"), 4: ("I32",), 5: ("I64",),
    6: ("I8", "Q5_0"), 7: ("U8", "Q5_1"), 8: ("AprQ4", "Q8_0"), 9: ("AprQ8", "Q8_1"), 10: ("Q2_K",),
    11: ("Q3_K",), 12: ("Q4_K",), 13: ("Q5_K",), 14: ("Q6_K",), 30: ("BF16",),
    128: ("AprQ4",), 129: ("AprQ8",),
}  # fmt: skip
_UNREAD = {"F64": (1, 8), "I32": (1, 4), "I64": (1, 8), "I8": (1, 1), "U8": (1, 1), "Q8_1": (32, 36)}


class _Header(NamedTuple):
    major: int
    minor: int
    flags: int
    tensor_count: int
    metadata_offset: int
    metadata_size: int
    index_offset: int
    data_offset: int
    checksum: int


class _TensorEntry(NamedTuple):
    name: str
    dtype: int
    shape: tuple[int, ...]
    offset: int
    size: int


@frozen(slots=False)
class AprFile:
    """The metadata of an .apr file, and its tensors under the names in the file. `notes` lists unusual facts
    about the file."""

    metadata: Mapping[str, Any]
    tensors: tuple[StoredTensor, ...]  # in the order of the tensor index
    notes: tuple[str, ...]


def read_apr(
    path: Path, *, rope_pairs: RopePairs | None = None, overrides: Mapping[str, Any] = {},
    problems: Problems | None = None,
) -> Decoder:  # fmt: skip
    """Open the decoder in an .apr file. `overrides` maps names of missing metadata to values.

    Raises FileFormatError if the file is damaged, has another format or contradicts itself. Raises InputError
    if the file lacks a setting that the user must set, or an override contradicts the file.
    """
    file = read_apr_header(path)
    problems = problems or Problems(str(path))
    problems.assumed += file.notes
    settings = AprSettings(path, file.metadata, overrides, problems)
    settings.reading(settings.architecture)  # report this first, then unknown names of tensors
    stored = {t.name: t for t in file.tensors if not t.name.endswith(NAMES.skipped)}  # without inv_freq
    frequencies = stored.pop("rope_freqs.weight", None)
    problems.tensors = tensors = our_tensors(path, stored.values(), NAMES, problems)

    def vocabulary() -> Vocabulary | None:
        return from_apr(file.metadata, path)

    problems.format, problems.metadata, problems.load_vocabulary = ".apr v2", file.metadata, vocabulary
    config = settings.reading(lambda: apr_config(settings, tensors, frequencies, rope_pairs))
    return checked_decoder(path, config, problems)


def read_apr_header(path: Path) -> AprFile:
    """Read the metadata and tensors of an .apr file, without renaming. Raises FileFormatError."""
    mapped = MappedFile.open(path)
    with naming(path, FileFormatError):
        data = mapped.bytes
        header = _header(data)
        metadata = _metadata(data, header)
        _refuse_shards(header, metadata)
        entries, index_stop = _index(data, header)
        extents = [
            (0, HEADER.size, "the header"),
            (header.metadata_offset, header.metadata_offset + header.metadata_size, "the metadata"),
            (header.index_offset, index_stop, "the tensor index"),
        ]
        tensors, notes = [], []
        for entry in entries:
            start = header.data_offset + entry.offset
            extents.append((start, start + entry.size, f"tensor {entry.name!r}"))
            tensor, ambiguity = _tensor(mapped, entry, start)
            tensors.append(tensor)
            notes += ambiguity
        _refuse_overlaps(extents)
        stop = max(stop for _, stop, _ in extents)
        notes = [*_header_notes(header), *_footer_notes(data, stop), *notes]
        if entries != sorted(entries, key=lambda entry: entry.name.encode()):
            notes.append("the tensor index is not sorted by name")
        return AprFile(metadata, tuple(tensors), tuple(notes))


def _header(data: Array) -> _Header:
    magic = data[:4].tobytes()
    if magic not in MAGICS:
        found = FOREIGN.get(magic, f"a file that begins with the bytes {repr(magic)[1:]}")
        raise InputError(f"expected an .apr file of version 2, found {found}")
    if len(data) < HEADER.size:
        raise InputError(f"cut short: expected a header of {HEADER.size} bytes, found {len(data)} bytes")
    header = _Header(*HEADER.unpack_from(data.data))
    if header.major != 2:
        raise InputError(f"expected .apr version 2, found {header.major}.{header.minor}")
    raw = data[: HEADER.size].tobytes()
    _check_checksum("header", header.checksum, raw[:CHECKSUM_AT] + raw[CHECKSUM_AT + 4 :])
    if header.flags & ENCRYPTED:
        raise InputError("the file is encrypted (flag 0x4); export it unencrypted")
    if header.flags & COLUMN_MAJOR:
        raise InputError("the file has column-major matrices (flag 0x800); export them row-major")
    return header


def _check_checksum(part: str, stored: int, content: bytes | memoryview) -> None:
    """Raise InputError if the checksum does not match. A stored 0 means that there is no checksum."""
    computed = zlib.crc32(content)
    if stored not in (0, computed):
        raise InputError(f"the {part} is damaged: expected checksum {stored:#010x}, found {computed:#010x}")


def _header_notes(header: _Header) -> Iterator[str]:
    if header.minor:
        yield f"the file has version 2.{header.minor}; it is read as version 2.0"
    if header.flags & (LZ4 | ZSTD):
        yield "the file is flagged as compressed, but it is not"
    if header.flags & SIGNED:
        yield "the file is signed; the signature was not verified"
    if header.flags >> 12:
        yield f"flags {header.flags & 0xF000:#x} are unknown and were ignored"
    if not header.checksum:
        yield "the header has no checksum"


def _metadata(data: Array, header: _Header) -> dict[str, Any]:
    """Read the metadata. If a key occurs twice, the last value counts."""
    start, size = header.metadata_offset, header.metadata_size
    try:
        if start + size > len(data):
            raise ValueError(f"{size:,} bytes from byte {start:,} do not fit into {len(data):,} bytes")
        metadata = from_json(bytes(data.data[start : start + size]), most=MANY_VALUES)
    except ValueError as error:
        if header.flags & (LZ4 | ZSTD):
            kind = "LZ4" if header.flags & LZ4 else "Zstd"
            raise InputError(f"the file is compressed with {kind}; export it uncompressed") from error
        raise InputError(f"the metadata cannot be read ({error})") from error
    if not isinstance(metadata, dict):
        raise InputError(f"the metadata: expected a JSON object, found {brief(metadata)}")
    return metadata


def _refuse_shards(header: _Header, metadata: Mapping[str, Any]) -> None:
    sharding = metadata.get("sharding")
    count = sharding.get("shard_count") if isinstance(sharding, dict) else None
    if header.flags & SHARDED or count not in (None, 0, 1):
        of = f" of {brief(count)}" if count is not None else ""
        raise InputError(f"the file is one shard{of} of a model; merge the shards into one file")


def _index(data: Array, header: _Header) -> tuple[list[_TensorEntry], int]:
    """Return the index entries in the order of the file, and the byte where the index ends."""
    at, count = header.index_offset, header.tensor_count
    if count * MIN_ENTRY > max(len(data) - at, 0):
        raise InputError(f"the index of {count:,} tensors at byte {at:,} exceeds {len(data):,} bytes")
    entries: dict[str, _TensorEntry] = {}
    for number in range(count):
        entry, at = _entry(data.data, at, f"entry {number} of {count} in the tensor index")
        if entry.name in entries:
            raise InputError(f"tensor {entry.name!r} occurs twice")
        entries[entry.name] = entry
    return list(entries.values()), at


def _entry(data: memoryview, at: int, what: str) -> tuple[_TensorEntry, int]:
    def take(form: str) -> tuple[Any, ...]:
        nonlocal at
        at += struct.calcsize(form)
        if at > len(data):
            raise InputError(f"the file ends within {what}")
        return struct.unpack_from(form, data, at - struct.calcsize(form))

    (length,) = take("<H")
    if not 1 <= length <= MAX_NAME:
        raise InputError(f"{what}: expected a name of 1 to {MAX_NAME} bytes, found {length}")
    try:
        name = str(take(f"<{length}s")[0], "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: the name is not UTF-8 ({error.reason})") from error
    dtype, ndim = take("<2B")
    if not 1 <= ndim <= MAX_DIMS:
        raise InputError(f"tensor {name!r}: expected 1 to {MAX_DIMS} dimensions, found {ndim}")
    shape = take(f"<{ndim}Q")
    if 0 in shape:
        raise InputError(f"tensor {name!r} of shape {list(shape)} has no elements")
    return _TensorEntry(name, dtype, shape, *take("<2Q")), at


def _refuse_overlaps(extents: Iterable[tuple[int, int, str]]) -> None:
    previous, end = "", 0
    for start, stop, what in sorted(extent for extent in extents if extent[0] < extent[1]):
        if start < end:
            raise InputError(f"{previous} and {what} overlap at byte {start:,}")
        previous, end = what, stop


def _footer_notes(data: Array, stop: int) -> list[str]:
    """Check the checksum in the last four bytes. Return a note if the file has no checksum.

    The function reads the whole file, which takes 0.05 s for 400 MB.
    """
    stored = int.from_bytes(data[-4:].tobytes(), "little") if len(data) >= stop + 4 else 0
    if not stored:
        return ["the file has no checksum at its end"]
    _check_checksum("file", stored, data[:-4].data)
    return []


def _tensor(file: MappedFile, entry: _TensorEntry, start: int) -> tuple[StoredTensor, list[str]]:
    """Return the tensor, and a note if its size fits several encodings."""
    stop = start + entry.size
    name, row_size, ambiguity = _storage(entry)
    if stop > len(file.bytes):
        raise InputError(f"cut short: tensor {entry.name!r} ends at byte {stop:,} of {len(file.bytes):,}")
    if name not in ENCODINGS:
        raise InputError(f"tensor {entry.name!r} is stored as {name}, which is not supported; {_supported()}")
    scale = 1.0
    if name == "AprQ8":
        start += 4
        scale = float(file.bytes[start - 4 : start].view("<f4")[0])
        if not math.isfinite(scale):
            raise InputError(f"tensor {entry.name!r}: expected a finite scale, found {scale}")
    tensor = file.tensor(entry.name, ENCODINGS[name], entry.shape, start, stop)
    return replace(tensor, row_size=row_size, scale=scale), ambiguity


def _storage(entry: _TensorEntry) -> tuple[str, int | None, list[str]]:
    """Return the encoding, the padded row length or None, and a note if other encodings fit too."""
    names = DTYPES.get(entry.dtype)
    if names is None:
        raise InputError(f"tensor {entry.name!r} has the unsupported dtype {entry.dtype}; {_supported()}")
    layouts = [layout for name in names for layout in _layouts(name, entry.shape)]
    fitting = [layout for layout in layouts if layout[2] == entry.size]
    if not fitting:
        ways = " or ".join(f"{size:,} ({name})" for name, _, size in layouts)
        raise InputError(
            f"tensor {entry.name!r} of shape {list(entry.shape)}: expected {ways} bytes, found {entry.size:,}"
        )
    words = [name if row_size is None else f"{name} in padded rows" for name, row_size, _ in fitting]
    note = f"tensor {entry.name!r} is read as {words[0]}; its size also fits {' and '.join(words[1:])}"
    return *fitting[0][:2], [note] if len(fitting) > 1 else []


def _layouts(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, int | None, int]]:
    """Yield each way to store a tensor: the encoding, the padded row length or None, and the size in bytes.

    In ggml's types, either each row begins a new block (as the format requires), or a block may contain the
    end of a row and the start of the next row.
    """
    if name == "AprQ8":
        yield name, None, 4 + math.prod(shape)
        return
    encoding = ENCODINGS.get(name)
    block, width = (encoding.block_size, encoding.block_bytes) if encoding else _UNREAD[name]
    row = math.prod(shape[1:])
    if len(shape) > 1 and row % block and name != "AprQ4":
        blocks = -(-row // block)
        yield name, blocks * block, shape[0] * blocks * width
    yield name, None, -(-math.prod(shape) // block) * width


def _supported() -> str:
    names = {name for names in DTYPES.values() for name in names if name in ENCODINGS}
    return f"supported: {', '.join(sorted(names))}"
