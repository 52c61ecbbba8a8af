"""Compare the parameters of two models by name. Parameters may differ by the rounding of their stored types.

The rounding errors are computed from the stored blocks: see `stored_rounding`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.names import select_spelled
from ..models.language_model import LanguageModel
from ..notebook import in_notebook
from ..progress import Report, unreported
from ..text.frozen import frozen
from .relations import ParameterPair, compared_parameters, paired
from .stored_rounding import FACTOR, Values, float_steps

Index = tuple[int, ...]


@frozen
class WeightRow:
    """The comparison of a parameter of both models. All measures are None if the shapes differ.

    - `relative_l2`: |B - A| / |A| over the finite elements.
    - `expected`: the relative L2 that rounding to both stored types explains, or None if both types are exact
      or the stored bytes are the same.
    - `max_abs`: the largest difference, at `index`, between `value_a` and `value_b`. A value that is finite
      on only one side counts as the largest difference.
    - `unequal`: how many elements differ.
    - `nowhere`: how many elements cannot be compared, because both sides are the same NaN or infinity.
    - `scale`: the number c for which c * A is closest to B.
    - `worst_block`: the largest error of 32 consecutive elements, divided by the expected error.
    - `block`: the index of the first element in the worst block.
    - `blocks_off`: how many blocks of 32 elements differ by more than rounding explains.
    """

    name: str
    name_b: str  # "wte" if the head is tied in B, else `name`
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
        """True if every element is the same number on both sides."""
        return self.unequal == 0

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape_a)


@frozen
class WeightsComparison:
    """The comparison of the parameters of two models.

    A parameter may differ by `factor` times the expected error, or by `rtol` if `rtol` is set. `agree` is
    True if each selected parameter is on both sides and differs by at most the allowed amount. `of` is the
    number of all parameters. `same` is True if all parameters were compared and all numbers are equal.
    `only_a` and `only_b` list parameters that the other side lacks. `worst` is the parameter with the largest
    error. If some parameters disagree, `worst` is one of the disagreeing parameters.
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


def compare_weights(
    a: LanguageModel, b: LanguageModel, *, names: Sequence[str] = (), rtol: float | None = None,
    report: Report = unreported,
) -> WeightsComparison:  # fmt: skip
    """Compare the parameters of two models. `names` has globs that select parameters by their names here or
    by their names in the files. Default: all parameters.

    With `rtol`, the relative L2 of a parameter may be at most `rtol`. Without `rtol`, parameters of exact
    types must be equal, and other parameters may differ by rounding. Only a few rows are in memory at a time,
    but the search for the cause of a difference may need more. `report(done, of)` is called with the number
    of compared parameters and of all parameters. Raises InputError if the models have different families, a
    glob matches nothing, or `rtol` is not a finite number of at least 0.
    """
    if a.family != b.family:
        raise InputError(f"cannot compare weights of a {a.family} ({a.origin}) and a {b.family} ({b.origin})")
    if rtol is not None and not 0 <= rtol < math.inf:
        raise InputError(f"rtol: expected a number of at least 0, found {rtol}")
    left, right = ({name: _values_of(own, name) for name in own.config.shapes()} for own in (a, b))
    every = [*left, *(name for name in right if name not in left)]
    spellings = {name: (name, *(_file_name(own, name) for own in (left, right))) for name in every}
    chosen = select_spelled(names or ("*",), spellings, f"parameter of {a.origin} or {b.origin}")
    pairs = paired(left, right, chosen)
    dims = a.config.head_dim, b.config.head_dim
    rows = [*map(_row, compared_parameters(pairs, left, dims, 0.0, rtol, report))]
    lacking = [name for name in chosen if name not in {own.name for own in pairs}]
    failing = [row for row in rows if not row.holds]
    agree = not failing and not lacking
    return WeightsComparison(
        a.origin, b.origin, FACTOR, rtol, agree,
        same=agree and len(rows) == len(every) and all(row.equal for row in rows),
        of=len(every), differing=len(failing),
        worst=max(failing or rows, key=_relative_error).name if rows else None, rows=tuple(rows),
        only_a=tuple(name for name in lacking if name in left),
        only_b=tuple(name for name in lacking if name in right),
    )  # fmt: skip


def _relative_error(row: WeightRow) -> float:
    """Return the error divided by the expected error, or by float32 rounding if no error is expected."""
    if row.relative_l2 is None or math.inf in (row.relative_l2, row.max_abs):
        return math.inf
    return row.relative_l2 / row.expected if row.expected else row.relative_l2 * 2.0**24


def _row(pair: ParameterPair) -> WeightRow:
    name, _, name_b, a, b, distance, holds, cause = pair
    facts = (name, name_b, a.shape, b.shape, a.type, b.type, holds)
    if distance is None:
        return WeightRow(*facts, cause="shapes differ")
    fields = ["relative_l2", "expected", "unequal", "nowhere", "max_abs", "scale"]
    if not distance.exact:
        fields += ["blocks_off", "worst_block"]
    measures: dict[str, Any] = {field: getattr(distance, field) for field in fields}
    if distance.unequal:
        value_a, value_b = distance.values
        measures |= {"index": distance.index(distance.at), "value_a": value_a, "value_b": value_b}
    if distance.worst_block > 0:
        measures["block"] = distance.index(distance.block_at)
    return WeightRow(*facts, cause.told() if cause else "", **measures)


def _file_name(values: Mapping[str, Values], name: str) -> str:
    stored = values[name].tensor if name in values else None
    return name if stored is None else stored.name


def _values_of(model: LanguageModel, name: str) -> Values:
    tensor = model.tensors.get(name)
    if tensor is not None:
        return Values.of(tensor)
    array = model.parameter(name)
    type = "F64" if array.dtype == np.float64 else "F32"

    def steps(start: int, stop: int) -> Array:
        return float_steps(array[start:stop], "F32") if type == "F32" else np.zeros_like(array[start:stop])

    return Values(type, array.shape, lambda start, stop: array[start:stop], steps)
