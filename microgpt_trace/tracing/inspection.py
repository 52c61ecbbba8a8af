"""What a model is made of, as plain data: what it says of itself, and a row per parameter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ..architecture.edits import Report
from ..arrays.encodings import StoredTensor
from ..arrays.stats import TensorStats
from ..decoder.model import Decoder
from ..hooks.names import select_spelled
from ..microgpt.model import Model
from ..text.brief import frozen

DECODED = 1 << 20  # elements of a tensor that are decoded at a time
LISTED, FIRST = 64, 3  # items of a list in the metadata that are all shown, and of a longer one


@frozen
class InspectedParameter:
    """A parameter in memory, with the statistics of its values."""

    name: str
    shape: tuple[int, ...]
    stats: TensorStats


@frozen
class StoredParameter:
    """A tensor of a model file: our name and the file's, how it is stored, and statistics if wanted."""

    name: str
    stored_as: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    stats: TensorStats | None


@frozen(slots=False)
class Inspection:
    """A model at rest. `metadata` is what its file says besides, None where nobody asked; of a long list it
    has {"count": length, "first": some items}."""

    SCHEMA = "microgpt.inspect/1"

    model: dict[str, Any]
    parameters: tuple[InspectedParameter | StoredParameter, ...]
    metadata: dict[str, Any] | None = None


def inspect_microgpt(model: Model) -> Inspection:
    """Every parameter with its statistics."""
    rows = (
        InspectedParameter(name, array.shape, TensorStats.of(array)) for name, array in model.params.items()
    )
    return Inspection(model.describe(), tuple(rows))


def inspect_decoder(
    model: Decoder, globs: Sequence[str], stats: bool, metadata: bool, report: Report
) -> Inspection:
    """The tensors whose name, ours or the file's, matches a glob (all without any); `report` is told how many
    are done. Raises InputError where a glob matches none."""
    spellings = {name: (name, tensor.name) for name, tensor in model.tensors.items()}
    wanted = select_spelled(globs or ("*",), spellings, f"tensor of {model.origin}", "--filter ")
    rows: list[StoredParameter] = []
    for name in wanted:
        report(len(rows), len(wanted))
        tensor = model.tensors[name]
        size, found = tensor.data.size, tensor_stats(tensor) if stats else None
        rows.append(StoredParameter(name, tensor.name, tensor.encoding.name, tensor.shape, size, found))
    said = {key: _brief(value) for key, value in model.metadata.items()} if metadata else None
    return Inspection(model.describe(), tuple(rows), said)


def tensor_stats(tensor: StoredTensor) -> TensorStats:
    """The statistics of a stored tensor, a few rows of which are decoded at a time, as they lie."""
    tensor = tensor.in_file_order()
    rows = max(1, DECODED // max(1, tensor.row_length))
    parts = (
        TensorStats.of(tensor.rows(start, min(start + rows, tensor.shape[0])))
        for start in range(0, tensor.shape[0], rows)
    )
    return reduce(TensorStats.merge, parts)


def _brief(value: Any) -> Any:
    """Long lists as their length and first items: a vocabulary has 150,000."""
    if isinstance(value, str) or not isinstance(value, np.ndarray | Sequence):
        return value
    items = value[: LISTED if len(value) <= LISTED else FIRST]
    shown = items.tolist() if isinstance(items, np.ndarray) else list(items)
    return shown if len(value) <= LISTED else {"count": len(value), "first": shown}
