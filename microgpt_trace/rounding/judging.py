"""Judge operations of a dump: compare each output with the value computed from the dump's own inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.operations.reference_inputs import ReferenceInputs
from ..architecture.operations.softmax import visible, window_of
from ..architecture.plans.kinds import Choice, Experts, Linear, Softmax
from ..architecture.plans.plan import Operation, layer_of
from ..arrays.stats import Array
from ..text.frozen import frozen
from ..text.wording import nonfinite_name
from .evaluation import CARRIED, Evaluation, with_ties
from .precision import CHANCE, PRECISIONS, Partial, Precision, ProductInputs, beyond_usual, factor_error
from .row_differences import FactorMeter, RowDifferences, compare_rows, element_index, join

BLOCK = 1 << 21  # elements compared at a time
SHARED = 0.15  # allowed factor of all rows, as a share of a row's tolerance; correct engines reach 0.07
DRAWS, FEW_DRAWS = 24, 4  # the number of evaluations with random noise
NEAR = 4.0  # an error up to this multiple of its tolerance is measured with DRAWS evaluations
EXACT = 1e-6  # tolerance of whole numbers, such as the numbers of chosen experts
IN_LENGTH, OVER_THE_PASS = "in length of all rows", "over the whole pass"


@frozen(slots=False)
class OperationResult:
    """An event of the dump, compared with the value computed from the dump's own inputs.

    - `inputs`: the events of the dump from which this event was recomputed. `recomputed`: the events between
      `inputs` and this event, which are missing in the dump.
    - `error`: the relative L2 error of the worst row, or None if no row could be judged. The worst row has
      the largest error relative to its `tolerance`. If `measured` is "in length of all rows", `error` is the
      share by which all rows are too long or too short. The `error` of a correct operation is then at most
      `factor_tolerance`. If `measured` is "over the whole pass", `error` is the distance from the model's own
      pass.
    - `nonfinite`: why no row could be judged, or a note that an output is not finite although its inputs are.
    - `found`, `expected`: the values at `element`, the element that differs most in the worst row.
    - `count`: the number of elements. `unjudged`: the number of elements whose expected value is not finite.
    - `ties`: the positions where rounding of the logits decides between two experts. The dump's own choice is
      used there.
    """

    name: str
    layer: int | None
    expr: str
    inputs: tuple[str, ...]
    recomputed: tuple[str, ...]
    error: float | None
    tolerance: float
    holds: bool
    position: int | None
    element: tuple[int, ...]
    found: float | None
    expected: float | None
    nonfinite: str = ""
    count: int = 0
    unjudged: int = 0
    measured: str = ""
    factor_tolerance: float | None = None
    ties: tuple[int, ...] = ()


@frozen(slots=False)
class Unseen:
    """The largest differences that rounding to `compute` hides in the median operation. `row` is the
    difference of a row, and `factor` a common factor of all rows."""

    compute: str
    row: float
    factor: float

    def __str__(self) -> str:
        return (
            f"differences below {self.row:.2%} of a row, or below {self.factor:.2%} in a factor of all rows, "
            f"cannot be distinguished from {self.compute} rounding here (half of the operations hide less)"
        )


def unseen(operations: Sequence[OperationResult], precision: Precision | None) -> Unseen | None:
    """Return the differences that a precision hides, or None for float32 or if no operation was judged."""
    judged = [o for o in operations if o.factor_tolerance is not None and not o.measured]
    if precision is None or not precision.coarse or not judged:
        return None
    rows, factors = ([getattr(o, f) for o in judged] for f in ("tolerance", "factor_tolerance"))
    return Unseen(precision.name, float(np.median(rows)), float(np.median(factors)))


@frozen(slots=False, eq=False)
class JudgedRows:
    """The relative L2 error and the tolerance of every row. The error is NaN if a row is not judged. `factor`
    is the share by which all rows are too long (or too short, if negative)."""

    errors: Array  # [R]
    tolerances: Array  # [R]
    factor: float
    factor_tolerance: float
    differences: RowDifferences
    ties: Array  # the rows where rounding decides between two experts

    @property
    def worst(self) -> int:
        """The row with the largest error relative to its tolerance."""
        return int(np.nanargmax(self.errors / self.tolerances))

    @property
    def in_length(self) -> bool:
        """True if only the common factor of the rows exceeds its tolerance."""
        rows_hold = not (self.errors > self.tolerances).any()
        return rows_hold and abs(self.factor) > self.factor_tolerance

    @property
    def error(self) -> float:
        """The error of the worst row, or the common factor if only the factor exceeds its tolerance."""
        return abs(self.factor) if self.in_length else float(self.errors[self.worst])

    @property
    def tolerance(self) -> float:
        return self.factor_tolerance if self.in_length else float(self.tolerances[self.worst])

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance


class Judge:
    """Compares arrays of a dump with recomputed arrays. `draws` has DRAWS evaluations with noise."""

    def __init__(self, plain: Evaluation, draws: Sequence[Evaluation]) -> None:
        self.plain, self.draws = plain, draws

    def compared(self, name: str, positions: Sequence[int] | None) -> Array | None:
        """Return a mask of the entries to compare, or None for all entries. For attention scores [H, n, T],
        the mask [n, T] marks the keys that each of the `positions` (None: all) sees. All attention weights
        are compared, because the weights of hidden keys must be 0."""
        plan, row = self.plain.plan, self.plain.given.model.plan[name]
        if not row.causal or isinstance(row.kind, Softmax):
            return None
        seen = visible(Softmax(window_of(plan, row)), len(self.plain.given.tokens))
        return seen if positions is None else seen[list(positions)]

    def rows(
        self, name: str, found: Array, expected: Array, positions: Sequence[int] | None,
        noisy: Callable[[Evaluation], Array] | None = None, most: float = math.inf, alike: float = SHARED,
    ) -> JudgedRows:  # fmt: skip
        """Return the errors of the rows with their tolerances. `noisy` computes the event with one of the
        evaluations in `draws`. Default: `Evaluation.output`. A common factor of all rows may reach the share
        `alike` of a row's tolerance. The effect of rounded inputs is measured only if errors exceed their
        plain tolerance but not `most`. All evaluations in `draws` are used only if the error is near the
        tolerance."""
        output = noisy or (lambda draw: draw.output(name, positions))
        expected, ties = with_ties(self.plain, self.draws[:FEW_DRAWS], name, found, expected, positions)
        seen, meter = self.compared(name, positions), FactorMeter()
        differences, concentration = compared_blocks(found, expected, seen, meter)
        errors, chance = errors_of(differences), np.ones(len(differences.d))
        if self.plain.precision.coarse:
            of_keys = self.plain.given.model.plan[name].causal  # equal keys cause equal errors
            chance = beyond_usual(np.ones(len(errors)) if of_keys else concentration)
        exact = isinstance(self.plain.plan[name].kind, Choice)
        tolerances = chance * (EXACT if exact else self.plain.chain_floor(name))
        for draws, near in ((FEW_DRAWS, math.inf), (DRAWS, NEAR)):
            ratio = np.nan_to_num(errors / tolerances, posinf=0.0)
            if exact or not 1 < ratio.max() <= near or np.nanmax(np.where(ratio > 1, errors, 0)) > most:
                break
            tolerances = np.maximum(tolerances, chance * self._carried(name, expected, output, seen, draws))
        factor, error = meter.result()
        allowed = alike * float(np.nanmedian(tolerances)) + CHANCE * error
        allowed += factor_error(self.plain.precision, self.plain.spread(name), len(errors))
        return JudgedRows(errors, tolerances, factor, allowed, differences, ties)

    def _carried(
        self, name: str, expected: Array, noisy: Callable[[Evaluation], Array], seen: Array | None, draws: int
    ) -> Array:
        """Return the error of each row that errors of the inputs cause. The result is the RMS over several
        evaluations with noise, because the noise of one evaluation may hardly change a row of few
        elements."""
        errors = (errors_of(compared_blocks(noisy(own), expected, seen)[0]) for own in self.draws[:draws])
        moved = np.sqrt(sum(map(np.square, errors)) / draws)
        if self.plain.rounding is not None and self.plain.between(name):
            moved = np.fmax(moved, np.sqrt(np.nanmean(np.square(moved))))  # which integers change is random
        return np.asarray(np.nan_to_num(CARRIED * moved, nan=0.0, posinf=0.0))

    def judge(self, name: str, found: Array, positions: Sequence[int] | None = None) -> OperationResult:
        """Judge an event of the dump at all positions, or only at `positions`."""
        expected = self.plain.output(name, positions)
        rows = self.rows(name, found, expected, positions)
        differences, own = rows.differences, self.plain.given.model.plan[name]
        result = OperationResult(
            name, layer_of(name), own.expr, self.plain.sources(name), tuple(self.plain.between(name)),
            None, self.plain.chain_floor(name), True, None, (), None, None,
            count=int(differences.count.sum()), unjudged=int(differences.alike.sum()),
            ties=tuple(int(at if positions is None else positions[at]) for at in rows.ties),
        )  # fmt: skip
        if np.isnan(rows.errors).all():
            return replace(result, nonfinite="not judged: the inputs are not finite")
        worst = rows.worst
        element = element_index(worst, int(differences.column[worst]), expected.shape, positions)
        has = float(differences.of_b[worst])
        return replace(
            result, error=rows.error, tolerance=rows.tolerance, holds=rows.holds,
            position=element[-2] if element else None, element=element,
            found=has, expected=float(differences.of_a[worst]),
            nonfinite="" if math.isfinite(has) else f"{nonfinite_name(has)} though the inputs are finite",
            measured=IN_LENGTH if rows.in_length else "",
            factor_tolerance=rows.factor_tolerance if math.isfinite(rows.factor_tolerance) else None,
        )  # fmt: skip


def compared_blocks(
    found: Array, expected: Array, seen: Array | None, meter: FactorMeter | None = None
) -> tuple[RowDifferences, Array]:
    """Compare the rows of `expected` and `found`, a block at a time. Only elements that are finite in
    `expected` and marked in `seen` count. Return the differences. With a meter, also return the concentration
    of each row, [R] (see `beyond_usual`). The meter measures the common factor of all rows."""
    parts, concentration = [], []
    for a, b, marks in _blocks(found, expected, seen):
        finite = np.isfinite(a)
        b = b if finite.all() else np.where(finite, b, a)
        parts.append(compare_rows(a, b, marks, outliers=False))
        if meter is not None:
            counted = finite if marks is None else finite & marks
            a, b = np.where(counted, a, 0), np.where(counted, b, 0)
            meter.add(a, b)
            squares = np.square(a)
            total = np.maximum(squares.sum(axis=1), 1e-300)
            concentration.append(np.square(squares / total[:, None]).sum(axis=1))
    return join(parts), np.concatenate(concentration) if concentration else np.zeros(())


def _blocks(found: Array, expected: Array, seen: Array | None) -> Iterator[tuple[Array, Array, Array | None]]:
    width = expected.shape[-1] if expected.ndim else 1
    expected, found = expected.reshape(-1, width), found.reshape(-1, width)
    step = max(1, BLOCK // width)
    for start in range(0, len(found), step):
        own = slice(start, start + step)
        marks = None if seen is None else seen[np.arange(len(found))[own] % len(seen)]
        yield expected[own].astype(np.float64), found[own], marks


def errors_of(rows: RowDifferences) -> Array:
    """Return |b - a| / |a| of every row: [R]. The result is NaN if a row has no elements to compare, and
    infinite if a row of b is not finite."""
    with np.errstate(all="ignore"):
        errors = np.where(rows.d == 0, 0.0, rows.d / rows.a)
    errors[rows.odd >= 0] = math.inf
    errors[~rows.comparable] = math.nan
    return errors


class JudgedRun:
    """The values of a dump. Events in `partial` have rows at only some positions. As inputs of other events,
    their other rows are recomputed."""

    def __init__(
        self, model: LanguageModel, tokens: Sequence[int], values: Mapping[str, Array], partial: Partial
    ) -> None:
        self.plan, self.given = model.plan, ReferenceInputs(model, np.array(tokens))
        known_next = len(self.given.targets) > 0
        self.names = [name for name in self.plan if name != "loss" or known_next]
        self.values, self.partial = values, partial

    def judge(self, precision: Precision) -> Judge:
        """Return a judge that computes with the model's own plan."""
        rounding = self.rounding if precision.into_products else None

        def evaluation(noise: int | None) -> Evaluation:
            return Evaluation(self.given, self.plan, self.values, precision, noise, rounding, self.partial)

        return Judge(evaluation(None), [evaluation(seed) for seed in range(DRAWS)])

    def operations(
        self, precision: Precision, names: Container[str] | None = None
    ) -> Iterator[OperationResult]:
        """Judge every event of the dump, or only the events in `names`, in order of computation."""
        judge = self.judge(precision)
        for name in self.names:
            own = self.own(name) if names is None or name in names else None
            if own is not None:
                yield judge.judge(name, *own)
            layer = layer_of(name)
            for evaluation in (judge.plain, *judge.draws) if layer is not None else ():
                evaluation.forget_before(layer or 0)

    def own(self, name: str) -> tuple[Array, tuple[int, ...] | None] | None:
        """Return the dump's rows of an event and their positions (None for all). The result is None if the
        dump has no rows of the event."""
        return (self.values[name], None) if name in self.values else self.partial.get(name)

    @cached_property
    def plain(self) -> Evaluation:
        """The evaluation in float32, without noise."""
        return self.judge(PRECISIONS["f32"]).plain

    @cached_property
    def rounding(self) -> ProductInputs:
        """The engine's rounding of the inputs of products, as recognised from the dump."""
        rounding, plain = ProductInputs(self.given), self.plain

        def read(name: str) -> tuple[Sequence[Array], Array]:
            inputs = [np.asarray(plain.value(own), np.float32) for own in plain.plan[name].inputs]
            return inputs, np.asarray(self.values[name], np.float64)

        known = [name for name in self.names if name in self.values]
        alone = [name for name in known if self.products(name) == [self.plan[name]]]
        rounding.learn([self.plan[name] for name in alone], read)
        return rounding

    def products(self, name: str) -> list[Operation]:
        """Return the products among an event and the events that must be recomputed before this event."""
        rows = [self.plan[own] for own in (*self.plain.between(name), name)]
        return [row for row in rows if isinstance(row.kind, Linear | Experts)]
