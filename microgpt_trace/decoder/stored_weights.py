"""The tensors of a decoder as its file stores them, with their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from ..architecture.edits import Report
from ..arrays.encodings import StoredTensor
from ..arrays.stats import TensorStats
from ..hooks.names import select_spelled
from .model import Decoder

_DECODED = 1 << 20  # elements


def tensor_stats(tensor: StoredTensor) -> TensorStats:
    """The statistics of a stored tensor, a few rows of which are decoded at a time, as they lie."""
    tensor = tensor.in_file_order()
    rows = max(1, _DECODED // max(1, tensor.row_length))
    parts = (
        TensorStats.of(tensor.rows(start, min(start + rows, tensor.shape[0])))
        for start in range(0, tensor.shape[0], rows)
    )
    return reduce(TensorStats.merge, parts)


Listed = tuple[str, StoredTensor, TensorStats | None]  # our name, the tensor, its statistics


def stored_tensors(model: Decoder, globs: Sequence[str], stats: bool, report: Report) -> list[Listed]:
    """The tensors whose name, ours or the file's, matches a glob (all without any), with statistics if
    wanted; `report` is told how many are done. Raises InputError where a glob matches none."""
    spellings = {name: (name, tensor.name) for name, tensor in model.tensors.items()}
    wanted = select_spelled(globs or ("*",), spellings, f"tensor of {model.origin}", "--filter ")
    found: list[Listed] = []
    for name in wanted:
        report(len(found), len(wanted))
        tensor = model.tensors[name]
        found.append((name, tensor, tensor_stats(tensor) if stats else None))
    return found
