"""Importance matrices: how large the inputs of each weight are, as llama.cpp's llama-imatrix writes them and
llama-quantize reads them.

A GGUF file of general.type "imatrix" without an architecture. Of each weight, by its name in GGUF, it has
NAME.in_sum2 [n_mat, in], the squares of a matrix's inputs summed over the rows that it was given, and
NAME.counts [n_mat, 1], how many rows these were; both F32. n_mat is the number of experts, else 1. Source:
tools/imatrix/imatrix.cpp of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plans.plan import layer_of
from ..arrays.encodings import StoredTensor
from ..arrays.stats import Array
from ..errors import FileFormatError, InputError, RunError
from ..files import write_atomically
from ..readers.conventions import COUNT, Settings
from ..readers.gguf import MAGIC, Strings, read_gguf_header
from ..readers.model_file import naming_file
from ..text.brief import brief, frozen
from ..text.wording import counted
from ..untrusted_files import beginning
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
    """What the matrices of one weight were given: the sums of the squares of each input channel [n_mat, in]
    float64, and over how many rows [n_mat] int64."""

    sums: Array
    counts: Array


@frozen(eq=False)
class Imatrix:
    """An importance matrix: by the names of weights in GGUF what these were given, the texts that were read,
    and in how many chunks of how many tokens."""

    entries: Mapping[str, SquaredInputs]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int


# --- Writing ----------------------------------------------------------------------------------


def write_imatrix(path: Path, imatrix: Imatrix, overwrite: bool = False) -> None:
    """Write the file. Raises RunError where a sum is none that float32 holds, or the disk does not let us."""
    try:
        content = written(imatrix)
    except RunError as error:
        raise RunError(f"{path}: {error}; nothing was written") from error
    write_atomically(path, content, overwrite)


def written(imatrix: Imatrix) -> bytes:
    """The bytes of the file, which follow from what is in it alone: weights by name, first the sums.

    Raises RunError for a weight whose sums are not finite in float32, which llama.cpp would refuse.
    """
    datasets = [_string(name) for name in imatrix.datasets]
    pairs = [
        _string("general.type") + _OF_STRING + _string("imatrix"),
        _string(DATASETS) + _OF_ARRAY + _OF_STRING + _U64.pack(len(datasets)) + b"".join(datasets),
        _string(CHUNK_COUNT) + _OF_U32 + _U32.pack(imatrix.chunk_count),
        _string(CHUNK_SIZE) + _OF_U32 + _U32.pack(imatrix.chunk_size),
    ]
    index, data = [], bytearray()
    for name, values in _float32(imatrix.entries):
        dims = values.shape[::-1] if len(values) > 1 else values.shape[1:]  # as ggml, without a last 1
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
    """The tensors [rows, width] by their names."""
    for name, given in sorted(entries.items()):
        with np.errstate(over="ignore"):
            sums = given.sums.astype("<f4")
        if not np.isfinite(sums).all():
            channel = int(np.argmin(np.isfinite(sums)) % sums.shape[1])
            most = given.sums[:, channel].max()
            raise RunError(
                f"{name}: the squares of input channel {channel} add up to {most:.6g}, which is "
                "not finite in float32"
            )
        yield name + SUMS, sums
        yield name + COUNTS, given.counts.astype("<f4")[:, None]


# --- Reading ----------------------------------------------------------------------------------


def is_imatrix(path: Path) -> bool:
    """Whether a file says of itself that it is one; a pipe is none, and not opened."""
    if beginning(path, len(MAGIC)) != MAGIC:
        return False
    with suppress(OSError, ValueError, FileFormatError):
        return str(read_gguf_header(path).metadata.get("general.type")) == "imatrix"
    return False


def read_imatrix(path: Path) -> Imatrix:
    """An importance matrix of ours or of llama.cpp's, whose experts may have been given nothing.

    Raises FileFormatError, naming what is missing or wrong, for a file that is none.
    """
    header = read_gguf_header(path)
    with naming_file(path):
        settings = Settings(header.metadata, [])
        kind = header.metadata.get("general.type")
        if str(kind) != "imatrix":  # a list of numbers is an array, which compares element by element
            raise InputError(f"expected an importance matrix (general.type 'imatrix'), found {brief(kind)}")
        datasets = _datasets(header.metadata.get(DATASETS))
        chunks, size = settings.require(CHUNK_COUNT, COUNT), settings.require(CHUNK_SIZE, COUNT)
        return Imatrix(_entries(header.tensors), datasets, chunks, size)


def _datasets(found: Any) -> tuple[str, ...]:
    if found is None:
        raise InputError(f"'{DATASETS}' is missing")
    if not isinstance(found, Strings):
        raise InputError(f"{DATASETS}: expected a list of texts, found {brief(found)}")
    if len(found) > MAX_DATASETS:
        raise InputError(f"{DATASETS}: expected at most {MAX_DATASETS:,}, found {len(found):,}")
    return tuple(found)


def _entries(tensors: tuple[StoredTensor, ...]) -> dict[str, SquaredInputs]:
    """What each weight was given. Tensors of other endings (the sums of inputs) count for nothing."""
    stored = {tensor.name: tensor for tensor in tensors if tensor.name.endswith((SUMS, COUNTS))}
    if not stored:
        raise InputError(f"expected tensors whose names end in {SUMS} and {COUNTS}, found none")
    found: dict[str, SquaredInputs] = {}
    for name in dict.fromkeys(tensor.rpartition(".")[0] for tensor in stored):
        for ending in (SUMS, COUNTS):
            if name + ending not in stored:
                raise InputError(f"tensor {name + ending!r} is missing")
        counts = _numbers(stored[name + COUNTS])
        sums = _numbers(stored[name + SUMS])
        if counts.max() >= MAX_COUNT or sums.size % counts.size:
            raise InputError(f"weight {name!r}: {sums.size:,} sums for counts {brief(counts)}")
        found[name] = SquaredInputs(sums.reshape(counts.size, -1), np.rint(counts).astype(np.int64))
    return found


def _numbers(tensor: StoredTensor) -> Array:
    """The elements of a tensor of sums or counts, float64."""
    if tensor.encoding.name != "F32":
        raise InputError(f"tensor {tensor.name!r}: expected F32, found {tensor.encoding.name}")
    with np.errstate(invalid="ignore"):  # a signalling NaN
        values = tensor.read().astype(np.float64).ravel()
    if not values.size:
        raise InputError(f"tensor {tensor.name!r} is empty")
    wrong = values[~(np.isfinite(values) & (values >= 0))]
    if wrong.size:
        raise InputError(f"tensor {tensor.name!r}: expected numbers of at least 0, found {wrong[0]:g}")
    return values


# --- Of a survey, and what one says -----------------------------------------------------------


def imatrix_of(survey: Survey, with_output: bool = False) -> Imatrix:
    """The sums of the squares of each weight's inputs, over all tokens of the corpus, each text one chunk; of
    the matrix that makes logits only `with_output`.

    Raises InputError where the model has no names in GGUF, an input was not measured, or is not finite.
    """
    entries: dict[str, SquaredInputs] = {}
    of, events = survey.model, survey.order.events
    for weight, event in _inputs(of.origin, of.weights, events, with_output).items():
        own = survey.channels(event)
        if own.nonfinite.any():
            lost = counted(int(own.nonfinite.sum()), "value")
            raise InputError(f"{weight}: {lost} of what it reads, {event}, are not finite")
        sums = survey.tallies[f"{event}/squares"].values()
        entries[weight] = SquaredInputs(sums[None], own.count[:1])
    texts, tokens = survey.read
    return Imatrix(entries, survey.corpus.sources, texts, -(-tokens // max(texts, 1)))


def check_inputs(model: LanguageModel, events: Sequence[str], with_output: bool) -> None:
    """Raises InputError where a survey of these events would give no importance matrix."""
    _inputs(model.origin, weights_of(model), order_for(model, events).events, with_output)


def _inputs(
    origin: str, weights: Mapping[str, str], events: Collection[str], with_output: bool
) -> dict[str, str]:
    """What is read by each weight of an importance matrix. Raises InputError where the model has none, or
    what one reads is not among the events."""
    if not weights:
        raise InputError(f"an importance matrix is for a production model, and {origin} is none")
    wanted = {
        weight: event for weight, event in weights.items() if with_output or layer_of(event) is not None
    }
    for weight, event in wanted.items():
        if event not in events:
            raise InputError(f"{weight}: what it reads, {event}, is not measured; --events chose others")
    return wanted


@frozen
class ImportantWeight:
    """A weight of an importance matrix: how many matrices it has, their input channels, over how many rows
    the squares were summed, the root of their mean, and the channel where that is largest, of all matrices
    together, with how many times the median that is."""

    name: str
    matrices: int
    channels: int
    rows: int
    rms: float | None
    channel: int | None
    times_median: float | None


@frozen(slots=False)
class ImatrixReport:
    """What an importance matrix says."""

    SCHEMA = "microgpt.imatrix/1"

    file: str
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    weights: tuple[ImportantWeight, ...]


def imatrix_report(file: str, imatrix: Imatrix) -> ImatrixReport:
    """What the importance matrix of a file says."""
    in_order = sorted(imatrix.entries, key=lambda name: [(len(part), part) for part in name.split(".")])
    weights = tuple(_weight(name, imatrix.entries[name]) for name in in_order)
    return ImatrixReport(file, imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size, weights)


def _weight(name: str, given: SquaredInputs) -> ImportantWeight:
    matrices, channels = given.sums.shape
    rows = int(given.counts.sum())
    if not rows:
        return ImportantWeight(name, matrices, channels, rows, None, None, None)
    total = given.sums.sum(axis=0)
    top, middle = int(total.argmax()), float(np.median(total))
    times = float(np.sqrt(total[top] / middle)) if middle > 0 else None
    # Of several experts each has rows of its own; of one, all weights share them.
    rms = float(np.sqrt(total.sum() / (rows * channels)))
    return ImportantWeight(name, matrices, channels, rows, rms, top, times)
