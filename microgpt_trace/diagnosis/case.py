"""Case: a wrong operation, and the data that hypotheses about this operation use, also about the passes, the
ranks and the other texts of the dump."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..dumps.layouts import OfRanks
from ..operations.reference_inputs import ReferenceInputs
from ..plans.kinds import Activation, Experts, Linear, Multiply, Norm, Probabilities, Softmax
from ..plans.plan import K, Operation, Plan, kind_of, layer_of, prefix_of
from ..rounding.judging import Judge, JudgedRun
from ..rounding.row_differences import compared_blocks, errors_of
from ..text.frozen import frozen
from ..text.wording import counted
from .evidence import Seen
from .hypothesis import Family, Hypothesis

ELEMENTWISE = (Activation, Multiply, Softmax, Probabilities)  # operations without terms that cancel
Parametric = type[Linear] | type[Norm] | type[Experts]
OFFSETS = (1, -1, 2, -2, 3, -3, 4, -4)  # errors of positions to try


class OwnParameters(NamedTuple):
    """A product with its matrix and bias, or a norm with its gain and bias, by names without the layer."""

    row: Operation
    weight: str
    bias: str | None


class OtherRun(NamedTuple):
    """The values of other rows of a dump. `rows` lists the rows that belong to the positions of the text."""

    run: JudgedRun
    rows: Array


@frozen(slots=False, eq=False)
class PassSchedule:
    """The passes of a dump. `starts` lists the first position of each pass. `padded` is the text with its
    padding, of `padding` rows, or None. `others` opens the other texts of the batch, by number. `ranks` tells
    how events were joined from ranks, and `part` returns the values of an event on a rank."""

    starts: tuple[int, ...] = ()
    padding: int = 0
    padded: Callable[[], OtherRun] | None = None
    others: Mapping[int, Callable[[], OtherRun]] = field(default_factory=dict)
    ranks: Mapping[str, OfRanks] = field(default_factory=dict)
    part: Callable[[str, int], Array] = lambda name, rank: np.empty(0)

    @property
    def rank_count(self) -> int:
        return max((len(own.parts) for own in self.ranks.values()), default=1)

    def passes(self, length: int) -> list[range]:
        """Return the positions of each pass after the first."""
        ends = (*self.starts[2:], length)
        return [range(a, b) for a, b in zip(self.starts[1:], ends, strict=False) if 0 < a < b]

    def offsets(self, length: int) -> Iterator[tuple[Array, str]]:
        """Yield errors of the positions, [length], with a claim about them."""
        later = self.passes(length)
        if self.padding:
            rows = counted(self.padding, "row")
            yield np.full(length, self.padding), f"positions are counted with the {rows} of padding"
        if not later:
            return
        after = np.arange(length) >= later[0].start
        for n in dict.fromkeys((*OFFSETS, self.padding, -self.padding)):
            if n:
                how = f"{abs(n)} too {'large' if n > 0 else 'small'}"
                yield after * n, f"positions of the passes after the first are {how}"
        again = np.zeros(length)
        for own in later:
            again[own] = -own.start
        yield again, "positions begin again at 0 in each pass"


ONE_PASS = PassSchedule()  # of a dump of one pass over one text


@frozen(slots=False, eq=False)
class Case:
    """A wrong operation. `found` contains the values of the dump. `expected` contains the values computed
    from the dump's inputs (float32 or float64). `positions` lists the positions of the rows, or is None for
    all positions. If only the part of one rank is wrong, `where` names it, and `part` marks its entries."""

    name: str
    found: Array
    expected: Array
    positions: Sequence[int] | None
    judge: Judge
    error: float
    measured: str = ""  # IN_LENGTH if all rows are wrong only by one common factor
    schedule: PassSchedule = ONE_PASS
    where: str = ""
    part: Array | None = None

    @property
    def plan(self) -> Plan:
        return self.judge.plain.plan

    @property
    def given(self) -> ReferenceInputs:
        return self.judge.plain.given

    @property
    def row(self) -> Operation:
        return self.plan[self.name]

    @property
    def layer(self) -> int | None:
        return layer_of(self.name)

    @cached_property
    def rows(self) -> Plan:
        """The operations from the dump's inputs up to and including this operation, except other operations
        that the dump has at some positions: these are judged themselves."""
        names = (*self.judge.plain.between(self.name), self.name)
        known = self.judge.plain.partial
        return Plan([self.plan[own] for own in names if own == self.name or own not in known])

    def kind(self, kind: type[K]) -> K | None:
        """Return the first kind of `rows` that is an instance of the class `kind`, or None."""
        return next(iter(self.rows.kinds(kind)), None)

    @property
    def alone(self) -> bool:
        """True if the dump has all inputs and all output rows of the operation. In this case, the number in a
        mistake (such as an eps) can be measured."""
        return not self.judge.plain.between(self.name) and self.positions is None

    @cached_property
    def inputs(self) -> tuple[Array, ...]:
        """The inputs of the operation in the dump, in float64. `alone` must be True."""
        return tuple(np.asarray(self.judge.plain.values[name], np.float64) for name in self.row.inputs)

    @property
    def heads_axis(self) -> int | None:
        """The axis of the heads in the shape `in_heads`, or None for an event without heads."""
        return 0 if self.found.ndim == 3 else 1 if self.name in self.plan.heads else None

    @property
    def in_heads(self) -> tuple[int, ...]:
        """The shape of the values with an axis for the heads, [H, T, T] or [T, H, D]."""
        side_by_side = self.found.ndim < 3
        return (len(self.found), -1, self.plan.heads[self.name].dim) if side_by_side else self.found.shape

    def by_head(self, values: Array) -> Array:
        """Return the values head by head: [H, n]."""
        assert self.heads_axis is not None
        heads = np.moveaxis(values.reshape(self.in_heads), self.heads_axis, 0)
        return heads.reshape(len(heads), -1)

    @cached_property
    def compared(self) -> Array | None:
        """A mask of the entries to compare; see `Judge.compared`."""
        return self.judge.compared(self.name, self.positions)

    @cached_property
    def largest(self) -> float:
        """The largest error of a row, or infinity if a row of the dump is not finite."""
        rows, _ = compared_blocks(self.found, self.expected, self.compared)
        return float(np.nanmax(errors_of(rows), initial=0))

    def parameters(self, *kinds: Parametric) -> list[OwnParameters]:
        """Return the parameters of the `rows` of these kinds. List each matrix or gain once."""
        parameters: dict[str, OwnParameters] = {}
        for row in self.rows.of_kind(*kinds):
            names = map(kind_of, row.kind.names)
            for weight in names:
                parameters.setdefault(weight, OwnParameters(row, weight, next(names, None)))
        return list(parameters.values())

    def biases(self, *kinds: Parametric) -> list[str]:
        """Return the names of the biases of the `rows` of these kinds, without the layer."""
        return list(dict.fromkeys(own.bias for own in self.parameters(*kinds) if own.bias is not None))

    def bias_beside(self, parameter: str) -> str | None:
        """Return the name of the bias that belongs to a matrix or gain, or None. The name contains the layer
        if `parameter` contains the layer."""
        rows = [(r.kind.names[0], r.bias) for r in self.plan.of_kind(Linear, Norm, Experts) if r.bias]
        return next((of(bias) for own, bias in rows for of in (str, kind_of) if of(own) == parameter), None)

    def changed(self, names: Iterable[str], change: Change) -> dict[str, Callable[..., Array]]:
        """Return replacements for `with_instead`: the values of the named parameters after `change`."""
        return dict.fromkeys(names, lambda name, experts=None: change(self.parameter(name, experts)))

    def another(self, parameter: str) -> Callable[..., Array]:
        """Return a function that reads another parameter, in the operation's layer or outside layers."""

        def instead(name: str, experts: Array | None = None) -> Array:
            own = prefix_of(name) + parameter
            return self.parameter(own if own in self.shapes else parameter, experts)

        return instead

    def parameter(self, name: str, experts: Array | None = None) -> Array:
        """Return a parameter, or the parameters of these experts."""
        return self.given.model.parameter(name, experts)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.given.model.config.shapes()

    def whole_name(self, parameter: str) -> str:
        """Return a parameter's full name in this layer, or in layer 0 if this layer lacks the parameter."""
        own = prefix_of(self.name) + parameter
        return own if own in self.shapes else f"layer0.{parameter}"

    @cached_property
    def seen(self) -> Seen:
        """The values of the dump for comparison with predictions."""
        elements = len(self.rows) == 1 and isinstance(self.row.kind, ELEMENTWISE)
        return Seen(self.found, self.expected, self.compared, self.judge.plain.precision.name, elements)


def first_of(values: Sequence[object] | Array, most: int) -> str:
    """List the first values, such as "1, 2, 3, ..."."""
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")


Change = Callable[[Array], Array]
Transform = Callable[[Case, Array], Array]
Generator = Callable[[Case], Iterable["Hypothesis | Family"]]
