"""Two models' parameters by name: whether they are the same as far as their stored types can tell.

Knows no screen. What may differ is measured from the stored blocks: see quantisation_error.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..architecture.edits import Report, unreported
from ..architecture.model import LanguageModel
from ..arrays.encodings import StoredTensor
from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.names import select_spelled
from ..notebook import in_notebook
from ..rounding.stored_types import FACTOR, Values, float_steps, measure, step_tensor
from ..text.brief import frozen
from .weight_relations import find_cause

Index = tuple[int, ...]


@frozen
class WeightRow:
    """A parameter of both models.

    `relative_l2` is |B - A| / |A| over the finite elements, `expected` what the rounding of both stored
    types explains of it (None where both are exact or the stored bytes are the same). `max_abs` is the
    largest difference, at `index`, where the sides have `value_a` and `value_b`; a value that is not
    finite on one side counts as the largest. `unequal` elements differ at all; `nowhere` are NaN or
    infinite on both sides, of which nothing more is known. `scale` times A comes closest to B.
    `worst_block` is the largest error of 32 neighbours relative to what is expected of them, which begin
    at `block`; `blocks_off` are further off than rounding explains. Measures are None where the shapes
    differ.
    """

    name: str
    name_b: str  # "wte" for a head that is tied in B; else the same
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    type_a: str
    type_b: str
    holds: bool
    cause: str = ""
    relative_l2: float | None = None
    expected: float | None = None
    unequal: int | None = None
    nowhere: int | None = None
    max_abs: float | None = None
    index: Index | None = None
    value_a: float | None = None
    value_b: float | None = None
    scale: float | None = None
    blocks_off: int | None = None
    worst_block: float | None = None
    block: Index | None = None

    @property
    def equal(self) -> bool:
        """Whether every element is the same number on both sides."""
        return self.unequal == 0

    @property
    def count(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape_a)


@frozen
class WeightsComparison:
    """Two models' parameters. `factor` times the expected error is allowed, or `rtol` where it is given.

    `agree`: of those compared, out of `of`, none differs by more, and none is on one side alone; `same`:
    they are all, and equal, number for number. `only_a` and `only_b` are parameters that the other side
    lacks; `worst` names the row that is furthest off, of those that do not hold if there are any.
    """

    SCHEMA = "microgpt.weights/1"

    a: str
    b: str
    factor: float
    rtol: float | None
    agree: bool
    same: bool
    of: int
    differing: int
    worst: str | None
    rows: tuple[WeightRow, ...]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    _repr_html_ = in_notebook


@dataclass(frozen=True)
class _Side:
    """A model's parameters by name, in order of use; `stored` where they lie in a file."""

    origin: str
    values: Mapping[str, Values]
    stored: Mapping[str, StoredTensor]
    head_dim: int
    tied: bool

    def counterpart(self, name: str) -> str:
        """The parameter that does the work of one of that name."""
        return "wte" if name == "lm_head" and self.tied else name

    def file_name(self, name: str) -> str:
        return self.stored[name].name if name in self.stored else name


def compare_weights(
    a: LanguageModel,
    b: LanguageModel,
    *,
    names: Sequence[str] = (),
    rtol: float | None = None,
    report: Report = unreported,
) -> WeightsComparison:
    """Compare the parameters whose name, ours or a file's, matches one of the globs `names` (all without).

    Without `rtol` parameters of exact types must be equal, others may differ by what rounding explains;
    with it their relative L2 may be that much. A few rows are in memory at a time, except where the
    cause of a difference is sought. `report` is told how many are done. Raises InputError where the
    models are of two families, or a glob matches nothing, or rtol is not a number of at least 0.
    """
    if a.family != b.family:
        raise InputError(f"cannot compare weights of a {a.family} ({a.origin}) and a {b.family} ({b.origin})")
    if rtol is not None and not 0 <= rtol < math.inf:
        raise InputError(f"rtol: expected a number of at least 0, found {rtol}")
    left, right = _side(a), _side(b)
    every = list(left.values) + [name for name in right.values if name not in left.values]
    spellings = {name: (name, left.file_name(name), right.file_name(name)) for name in every}
    chosen = select_spelled(names or ("*",), spellings, f"parameter of {left.origin} or {right.origin}")
    both = [n for n in chosen if left.counterpart(n) in left.values and right.counterpart(n) in right.values]
    rows: list[WeightRow] = []
    for name in both:
        report(len(rows), len(both))
        rows.append(_row(name, left, right, rtol))
    lacking = [name for name in chosen if name not in both]
    failing = [row for row in rows if not row.holds]
    agree = not failing and not lacking
    return WeightsComparison(
        a=left.origin,
        b=right.origin,
        factor=FACTOR,
        rtol=rtol,
        agree=agree,
        same=agree and len(rows) == len(every) and all(row.equal for row in rows),
        of=len(every),
        differing=len(failing),
        worst=max(failing or rows, key=_badness).name if rows else None,
        rows=tuple(rows),
        only_a=tuple(name for name in lacking if name in left.values),
        only_b=tuple(name for name in lacking if name in right.values),
    )


def _badness(row: WeightRow) -> float:
    """How far off a row is, relative to what is expected of it where something is."""
    if row.relative_l2 is None or math.inf in (row.relative_l2, row.max_abs):
        return math.inf
    return row.relative_l2 / row.expected if row.expected else row.relative_l2 * 2.0**24


def _row(name: str, a: _Side, b: _Side, rtol: float | None) -> WeightRow:
    name_a, name_b = a.counterpart(name), b.counterpart(name)
    left, right = a.values[name_a], b.values[name_b]
    told = (name, name_b, left.shape, right.shape, left.type, right.type)
    if left.shape != right.shape:
        return WeightRow(*told, holds=False, cause="shapes differ")
    if _same_bytes(name_a, name_b, a, b):
        return WeightRow(*told, holds=True, relative_l2=0.0, unequal=0, nowhere=0, max_abs=0.0, scale=1.0)
    found = measure(left, right)
    holds = found.holds(0.0, rtol)
    cause = "" if holds else find_cause(name_a, a.values, right, found, (a.head_dim, b.head_dim))
    fields = ["relative_l2", "expected", "unequal", "nowhere", "max_abs", "scale"]
    if not found.exact:
        fields += ["blocks_off", "worst_block"]
    measures: dict[str, Any] = {field: getattr(found, field) for field in fields}
    if found.unequal:
        value_a, value_b = found.values
        measures |= {"index": found.index(found.at), "value_a": value_a, "value_b": value_b}
    if found.worst_block > 0:
        measures["block"] = found.index(found.block_at)
    return WeightRow(*told, holds, cause, **measures)


def _same_bytes(name_a: str, name_b: str, a: _Side, b: _Side) -> bool:
    """Whether two stored tensors are the same bytes with the same meaning."""
    left, right = a.stored.get(name_a), b.stored.get(name_b)
    if left is None or right is None:
        return False
    alike = (left.encoding, left.scale, left.stride) == (right.encoding, right.scale, right.stride)
    if not (alike and left.in_order_of(right)):
        return False
    return left.data is right.data or np.array_equal(left.data, right.data)


def _side(model: LanguageModel) -> _Side:
    names, stored = list(model.config.shapes()), dict(model.tensors)
    values = {n: _of_tensor(stored[n]) if n in stored else _of_array(model.parameter(n)) for n in names}
    return _Side(model.origin, values, stored, model.config.head_dim, tied="lm_head" not in names)


def _of_array(array: Array) -> Values:
    type = "F64" if array.dtype == np.float64 else "F32"

    def steps(start: int, stop: int) -> Array:
        return float_steps(array[start:stop], "F32") if type == "F32" else np.zeros_like(array[start:stop])

    return Values(type, array.shape, lambda start, stop: array[start:stop], steps)


def _of_tensor(tensor: StoredTensor) -> Values:
    return Values(tensor.encoding.name, tensor.shape, tensor.rows, step_tensor(tensor).rows, tensor)
