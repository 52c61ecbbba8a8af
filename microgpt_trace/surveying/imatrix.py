"""Importance matrices, in llama.cpp's format: the mean squares of each weight's inputs. llama-imatrix writes
files in this format, and llama-quantize reads the files.

The file is GGUF with general.type "imatrix" and no architecture. For each weight NAME in GGUF, the file has
two F32 tensors: NAME.in_sum2 [n_mat, in], the sums of the squared inputs over all rows, and NAME.counts
[n_mat, 1], the numbers of rows. n_mat is the number of experts, or 1. Source: tools/imatrix/imatrix.cpp of
llama.cpp.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from ..arrays.encodings import StoredTensor
from ..arrays.stats import Array
from ..decoder.settings import COUNT, Settings
from ..errors import FileFormatError, InputError, RunError, naming
from ..files import write_atomically
from ..models.language_model import LanguageModel
from ..plans.plan import layer_of
from ..readers.gguf import MAGIC, Strings, read_gguf_header
from ..text.brief import brief
from ..text.frozen import frozen
from ..text.wording import counted
from ..untrusted_files import beginning
from .options import SurveyOptions
from .shard import order_for
from .state import Survey, weights_of

SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNK_COUNT, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
MAX_DATASETS, MAX_COUNT = 1 << 10, 1 << 53
_U32, _U64 = Struct("<I"), Struct("<Q")
_OF_U32, _OF_STRING, _OF_ARRAY, _OF_F32 = (_U32.pack(kind) for kind in (4, 8, 9, 0))
_ALIGNMENT = 32


@frozen(eq=False)
class SquaredInputs:
    """The squared inputs of one weight. For each input channel, the array `sums` has the sum of the squares
    over rows, [n_mat, in] float64. `counts` has the numbers of rows, [n_mat] int64."""

    sums: Array
    counts: Array


@frozen(eq=False)
class Imatrix:
    """An importance matrix. `entries` has the squared inputs of each weight by GGUF name, and `datasets` has
    the sources of the texts. The texts had `chunk_count` chunks of `chunk_size` tokens."""

    entries: Mapping[str, SquaredInputs]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int


# --- Writing ----------------------------------------------------------------------------------


def write_imatrix(path: Path, imatrix: Imatrix, overwrite: bool = False) -> None:
    """Write the file. Raises RunError if a sum is not finite in float32 or the file cannot be written."""
    try:
        content = imatrix_bytes(imatrix)
    except RunError as error:
        raise RunError(f"{path}: {error}; nothing was written") from error
    write_atomically(path, content, overwrite)


def imatrix_bytes(imatrix: Imatrix) -> bytes:
    """Return the bytes of the file. Weights are sorted by name, and the sums of a weight precede the counts.
    Raises RunError if a sum is not finite in float32, which llama.cpp would refuse."""
    datasets = [_string(name) for name in imatrix.datasets]
    pairs = [
        _string("general.type") + _OF_STRING + _string("imatrix"),
        _string(DATASETS) + _OF_ARRAY + _OF_STRING + _U64.pack(len(datasets)) + b"".join(datasets),
        _string(CHUNK_COUNT) + _OF_U32 + _U32.pack(imatrix.chunk_count),
        _string(CHUNK_SIZE) + _OF_U32 + _U32.pack(imatrix.chunk_size),
    ]
    index, data = [], bytearray()
    for name, values in _float32(imatrix.entries):
        dims = values.shape[::-1] if len(values) > 1 else values.shape[1:]  # ggml drops a last dimension of 1
        shape = _U32.pack(len(dims)) + b"".join(map(_U64.pack, dims))
        index.append(_string(name) + shape + _OF_F32 + _U64.pack(len(data)))
        data += values.tobytes()
        data += bytes(-len(data) % _ALIGNMENT)
    counts = _U64.pack(len(index)) + _U64.pack(len(pairs))
    head = b"".join((MAGIC, _U32.pack(3), counts, *pairs, *index))
    return head + bytes(-len(head) % _ALIGNMENT) + data


def _string(text: str) -> bytes:
    content = text.encode("utf-8", "surrogateescape")
    return _U64.pack(len(content)) + content


def _float32(entries: Mapping[str, SquaredInputs]) -> Iterator[tuple[str, Array]]:
    """Yield the name and the values [rows, width] of each tensor."""
    for name, inputs in sorted(entries.items()):
        with np.errstate(over="ignore"):
            sums = inputs.sums.astype("<f4")
        if not np.isfinite(sums).all():
            channel = int(np.argmin(np.isfinite(sums)) % sums.shape[1])
            total = f"add up to {inputs.sums[:, channel].max():.6g}, which is not finite in float32"
            raise RunError(f"{name}: the squares of input channel {channel} {total}")
        yield name + SUMS, sums
        yield name + COUNTS, inputs.counts.astype("<f4")[:, None]


# --- Reading ----------------------------------------------------------------------------------


def is_imatrix(path: Path) -> bool:
    """Return True if a file's general.type is "imatrix". Return False for a pipe without opening it."""
    if beginning(path, len(MAGIC)) != MAGIC:
        return False
    with suppress(OSError, ValueError, FileFormatError):
        return str(read_gguf_header(path).metadata.get("general.type")) == "imatrix"
    return False


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix that this program or llama.cpp wrote. An expert that read no rows has count
    0. Raises FileFormatError if the file is not a valid importance matrix."""
    header = read_gguf_header(path)
    with naming(path, FileFormatError):
        metadata = Settings(header.metadata)
        kind = header.metadata.get("general.type")
        if str(kind) != "imatrix":  # str, because == compares an array element by element
            raise InputError(f"expected an importance matrix (general.type 'imatrix'), found {brief(kind)}")
        datasets = _datasets(header.metadata.get(DATASETS))
        chunks, size = metadata.require(CHUNK_COUNT, COUNT), metadata.require(CHUNK_SIZE, COUNT)
        return Imatrix(_entries(header.tensors), datasets, chunks, size)


def _datasets(value: Any) -> tuple[str, ...]:
    if value is None:
        raise InputError(f"'{DATASETS}' is missing")
    if not isinstance(value, Strings):
        raise InputError(f"{DATASETS}: expected a list of texts, found {brief(value)}")
    if len(value) > MAX_DATASETS:
        raise InputError(f"{DATASETS}: expected at most {MAX_DATASETS:,} texts, found {len(value):,}")
    return tuple(value)


def _entries(tensors: tuple[StoredTensor, ...]) -> dict[str, SquaredInputs]:
    """Return the squared inputs of each weight. Other tensors, such as sums of inputs, are ignored."""
    stored = {tensor.name: tensor for tensor in tensors if tensor.name.endswith((SUMS, COUNTS))}
    if not stored:
        raise InputError(f"expected tensors whose names end in {SUMS} and {COUNTS}, found none")
    entries: dict[str, SquaredInputs] = {}
    for name in dict.fromkeys(tensor.rpartition(".")[0] for tensor in stored):
        for tensor in (name + SUMS, name + COUNTS):
            if tensor not in stored:
                raise InputError(f"tensor {tensor!r} is missing")
        counts, sums = _numbers(stored[name + COUNTS]), _numbers(stored[name + SUMS])
        if counts.max() >= MAX_COUNT or sums.size % counts.size:
            raise InputError(f"weight {name!r}: {sums.size:,} sums do not match the counts {brief(counts)}")
        entries[name] = SquaredInputs(sums.reshape(counts.size, -1), np.rint(counts).astype(np.int64))
    return entries


def _numbers(tensor: StoredTensor) -> Array:
    """Return the elements of a tensor of sums or counts as float64."""
    if tensor.encoding.name != "F32":
        raise InputError(f"tensor {tensor.name!r}: expected F32, found {tensor.encoding.name}")
    with np.errstate(invalid="ignore"):  # casting a signalling NaN would warn
        values = tensor.read().astype(np.float64).ravel()
    if not values.size:
        raise InputError(f"tensor {tensor.name!r} is empty")
    wrong = values[~(np.isfinite(values) & (values >= 0))]
    if wrong.size:
        raise InputError(f"tensor {tensor.name!r}: expected numbers of at least 0, found {wrong[0]:g}")
    return values


# --- The importance matrix of a survey, and reports -------------------------------------------


def imatrix_of(survey: Survey, with_output: bool = False) -> Imatrix:
    """Return the importance matrix of a survey. Each text counts as one chunk. The output matrix
    (lm_head) is included only if `with_output` is set. Raises InputError if the model is a microGPT, or if an
    input was not measured or is not finite."""
    entries: dict[str, SquaredInputs] = {}
    model, events = survey.model, survey.order.events
    for weight, event in _inputs(model.origin, model.weights, events, with_output).items():
        own = survey.channels(event)
        if own.nonfinite.any():
            values = counted(int(own.nonfinite.sum()), "value")
            raise InputError(f"{weight}: expected finite inputs, found {values} of {event} not finite")
        sums = survey.tallies[f"{event}/squares"].values()
        entries[weight] = SquaredInputs(sums[None], own.count[:1])
    texts, tokens = survey.read
    return Imatrix(entries, survey.corpus.sources, texts, -(-tokens // max(texts, 1)))


def check_inputs(model: LanguageModel, options: SurveyOptions, with_output: bool) -> None:
    """Raise InputError if an importance matrix cannot be computed from a survey with these options."""
    _inputs(model.origin, weights_of(model), order_for(model, options).events, with_output)


def _inputs(
    origin: str, weights: Mapping[str, str], events: Collection[str], with_output: bool
) -> dict[str, str]:
    """Return the event that each weight of an importance matrix reads. Raises InputError if there are no
    weights, or if an event that a weight reads is not in `events`."""
    if not weights:
        raise InputError(f"{origin}: an importance matrix needs a production model, not a microGPT")
    inputs = {own: event for own, event in weights.items() if with_output or layer_of(event) is not None}
    for weight, event in inputs.items():
        if event not in events:
            raise InputError(f"{weight}: its input {event} is not measured; add it with --events")
    return inputs


@frozen
class ImportantWeight:
    """A weight of an importance matrix. `rms` is the RMS of the weight's inputs over the `rows` of all
    experts. `channel` is the input channel with the largest sum of squares, and `times_median` is this
    channel's RMS divided by the median channel's RMS."""

    name: str
    matrices: int
    channels: int
    rows: int
    rms: float | None
    channel: int | None
    times_median: float | None


@frozen(slots=False)
class ImatrixReport:
    """The contents of an importance matrix file."""

    SCHEMA = "microgpt.imatrix/1"

    file: str
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    weights: tuple[ImportantWeight, ...]


def imatrix_report(file: str, imatrix: Imatrix) -> ImatrixReport:
    """Report the importance matrix of a file, with weights in natural order (blk.2 before blk.10)."""
    names = sorted(imatrix.entries, key=lambda name: [(len(part), part) for part in name.split(".")])
    weights = tuple(_weight(name, imatrix.entries[name]) for name in names)
    return ImatrixReport(file, imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size, weights)


def _weight(name: str, inputs: SquaredInputs) -> ImportantWeight:
    matrices, channels = inputs.sums.shape
    rows = int(inputs.counts.sum())
    if not rows:
        return ImportantWeight(name, matrices, channels, rows, None, None, None)
    total = inputs.sums.sum(axis=0)
    top, median = int(total.argmax()), float(np.median(total))
    times = float(np.sqrt(total[top] / median)) if median > 0 else None
    rms = float(np.sqrt(total.sum() / (rows * channels)))  # over the rows of all experts
    return ImportantWeight(name, matrices, channels, rows, rms, top, times)
