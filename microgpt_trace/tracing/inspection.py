"""Describe a model without running it, as plain data: facts about the model, and a row per parameter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ..arrays.encodings import StoredTensor
from ..arrays.stats import TensorStats
from ..decoder.decoder import Decoder
from ..hooks.names import select_spelled
from ..microgpt.model import Model
from ..progress import Report
from ..text.frozen import frozen

DECODED = 1 << 20  # elements of a tensor that are decoded at a time
LISTED = 64  # a list in the metadata is shown in full if it has at most this many items
FIRST = 3  # number of shown items of a longer list


@frozen
class InspectedParameter:
    """A parameter of a model in memory, and the statistics of the parameter's values."""

    name: str
    shape: tuple[int, ...]
    stats: TensorStats


@frozen
class StoredParameter:
    """A tensor of a model file: our name, the name in the file, and statistics if requested."""

    name: str
    stored_as: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    stats: TensorStats | None


@frozen(slots=False)
class Inspection:
    """The facts about a model that was not run. `metadata` has the other entries of the model file, or is
    None if these entries were not requested. A long list in the metadata becomes {"count": length, "first":
    the first items}."""

    SCHEMA = "microgpt.inspect/1"

    model: dict[str, Any]
    parameters: tuple[InspectedParameter | StoredParameter, ...]
    metadata: dict[str, Any] | None = None


def inspect_microgpt(model: Model) -> Inspection:
    """Describe a microGPT and every parameter with its statistics."""
    rows = [InspectedParameter(name, a.shape, TensorStats.of(a)) for name, a in model.params.items()]
    return Inspection(model.describe(), tuple(rows))


def inspect_decoder(
    model: Decoder, globs: Sequence[str], stats: bool, metadata: bool, report: Report
) -> Inspection:
    """Describe a decoder and its tensors. Globs select tensors by our name or by the name in the file.
    Without globs, all tensors are described. `report` is called with the number of described tensors and the
    number of all tensors. Raises InputError if a glob has no match."""
    spellings = {name: (name, tensor.name) for name, tensor in model.tensors.items()}
    names = select_spelled(globs or ("*",), spellings, f"tensor of {model.origin}", "--filter ")
    rows: list[StoredParameter] = []
    for name in names:
        report(len(rows), len(names))
        tensor = model.tensors[name]
        size, statistics = tensor.size_in_bytes, tensor_stats(tensor) if stats else None
        rows.append(StoredParameter(name, tensor.name, tensor.encoding.name, tensor.shape, size, statistics))
    entries = {key: _brief(value) for key, value in model.metadata.items()} if metadata else None
    return Inspection(model.describe(), tuple(rows), entries)


def tensor_stats(tensor: StoredTensor) -> TensorStats:
    """Compute the statistics of a stored tensor, decoding a few rows at a time in the order of the file."""
    tensor = tensor.in_file_order()
    rows = max(1, DECODED // max(1, tensor.row_length))
    parts = (
        TensorStats.of(tensor.rows(start, min(start + rows, tensor.shape[0])))
        for start in range(0, tensor.shape[0], rows)
    )
    return reduce(TensorStats.merge, parts)


def _brief(value: Any) -> Any:
    """Replace a long list, such as a vocabulary of 150,000 tokens, by its length and first items."""
    if isinstance(value, str) or not isinstance(value, np.ndarray | Sequence):
        return value
    first = value[: LISTED if len(value) <= LISTED else FIRST]
    items = first.tolist() if isinstance(first, np.ndarray) else list(first)
    return items if len(value) <= LISTED else {"count": len(value), "first": items}
