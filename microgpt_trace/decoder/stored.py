"""The tensors of a decoder as its file stores them, with their statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from ..arrays.encodings import StoredTensor
from ..arrays.stats import TensorStats
from ..errors import InputError
from ..hooks.names import glob_pattern
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


def stored_tensors(
    model: Decoder, globs: Sequence[str], stats: bool, report: Callable[[int, int], None]
) -> list[Listed]:
    """The tensors whose name, ours or the file's, matches a glob (all without any), with statistics if
    wanted; `report` is told how many are done. Raises InputError where a glob matches none."""
    chosen = dict.fromkeys(model.tensors, False)
    for glob in globs or ("*",):
        pattern = glob_pattern(glob)
        matched = [n for n, t in model.tensors.items() if pattern.fullmatch(n) or pattern.fullmatch(t.name)]
        if not matched:
            raise InputError(f"--filter {glob!r} matches no tensor of {model.origin}")
        chosen |= dict.fromkeys(matched, True)
    wanted = [(name, tensor) for name, tensor in model.tensors.items() if chosen[name]]
    found: list[Listed] = []
    for name, tensor in wanted:
        report(len(found), len(wanted))
        found.append((name, tensor, tensor_stats(tensor) if stats else None))
    return found
