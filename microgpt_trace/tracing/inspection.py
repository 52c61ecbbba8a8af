"""What a model is made of, as plain data: what it says of itself, and a row per parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..architecture.edits import Report
from ..arrays.stats import TensorStats
from ..decoder.model import Decoder
from ..decoder.stored_weights import stored_tensors
from ..microgpt.model import Model
from ..text.brief import frozen

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
    """The tensors that match a glob (all without any). Raises InputError where a glob matches none."""
    rows = (
        StoredParameter(name, tensor.name, tensor.encoding.name, tensor.shape, tensor.data.size, found)
        for name, tensor, found in stored_tensors(model, globs, stats, report)
    )
    said = {key: _brief(value) for key, value in model.metadata.items()} if metadata else None
    return Inspection(model.describe(), tuple(rows), said)


def _brief(value: Any) -> Any:
    """Long lists as their length and first items: a vocabulary has 150,000."""
    if isinstance(value, str) or not isinstance(value, np.ndarray | Sequence):
        return value
    items = value[: LISTED if len(value) <= LISTED else FIRST]
    shown = items.tolist() if isinstance(items, np.ndarray) else list(items)
    return shown if len(value) <= LISTED else {"count": len(value), "first": shown}
