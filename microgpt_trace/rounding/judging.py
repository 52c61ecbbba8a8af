"""Judging: one operation of a dump, or all of them, against what follows from the dump's own inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.operations.reference_inputs import ReferenceInputs
from ..architecture.operations.softmax import visible
from ..architecture.plans.kinds import Linear, Scores, Softmax
from ..architecture.plans.plan import Operation, layer_of
from ..arrays.stats import Array
from ..text.brief import frozen
from ..text.wording import unnumbered
from .evaluation import CARRIED, Evaluation
from .precision import CHANCE, PRECISIONS, Precision, ProductInputs, beyond_usual, factor_error
from .row_differences import FactorMeter, RowDifferences, compare_rows, join

BLOCK = 1 << 21  # elements compared at a time
SHARED = 0.15  # of a row's tolerance may be a factor that all rows share; right engines: at most 0.07
DRAWS, FEW_DRAWS = 24, 4  # of roundings at random, to see how far they carry
NEAR = 4.0  # times its tolerance, within which an error gets all draws
IN_LENGTH, OVER_THE_PASS = "in length of all rows", "over the whole pass"


@frozen(slots=False)
class OperationResult:
    """An event of the dump beside what follows from the dump's own inputs.

    `inputs` are the dump's events it was recomputed from, `recomputed` those in between that the dump
    lacks. `error` is the relative L2 of the row that is worst for its `tolerance`, or as `measured` says: "in
    length of all rows", the factor by which all are too long or too short; "over the whole pass", how far the
    row lies from the model's own. It is None where no row could be judged, and `nonfinite` says why, or where
    the dump is not finite though its inputs are. `found` and `expected` are the element that differs most in
    that row, at `element` (its indices). For `unjudged` of its `count` elements nothing finite follows. A
    factor on all rows is seen beyond `factor_tolerance`.
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


@frozen(slots=False)
class Unseen:
    """What a precision hides in the median operation: a relative difference of one row, and one factor on all
    rows, up to which an engine is right."""

    compute: str
    row: float
    factor: float

    def __str__(self) -> str:
        return (
            f"differences below {self.row:.2%} of a row, or {self.factor:.2%} where all rows share a factor, "
            f"cannot be told from {self.compute} here (half of the operations hide less)"
        )


def unseen(operations: Sequence[OperationResult], precision: Precision | None) -> Unseen | None:
    """None where nothing is rounded further than to float32, or nothing was judged."""
    told = [o for o in operations if o.factor_tolerance is not None and not o.measured]
    if precision is None or not precision.coarse or not told:
        return None
    rows, factors = ([getattr(o, f) for o in told] for f in ("tolerance", "factor_tolerance"))
    return Unseen(precision.name, float(np.median(rows)), float(np.median(factors)))


@frozen(slots=False, eq=False)
class JudgedRows:
    """The relative L2 error of every row and what each may have, NaN for a row that is not judged; the factor
    by which all rows are longer, and what that may be."""

    errors: Array  # [R]
    tolerances: Array  # [R]
    factor: float
    factor_tolerance: float
    differences: RowDifferences

    @property
    def worst(self) -> int:
        """The row that is worst for its tolerance."""
        return int(np.nanargmax(self.errors / self.tolerances))

    @property
    def rows_hold(self) -> bool:
        """Whether no row errs by more than it may."""
        return not bool((self.errors > self.tolerances).any())

    @property
    def in_length(self) -> bool:
        """Whether the rows are wrong by a factor that they share, and by nothing else."""
        return self.rows_hold and abs(self.factor) > self.factor_tolerance

    @property
    def error(self) -> float:
        """That of the worst row, or the factor where that alone is beyond what it may be."""
        return abs(self.factor) if self.in_length else float(self.errors[self.worst])

    @property
    def tolerance(self) -> float:
        """What that may be."""
        return self.factor_tolerance if self.in_length else float(self.tolerances[self.worst])

    @property
    def holds(self) -> bool:
        return self.rows_hold and not self.in_length


class Judge:
    """Compares arrays of a dump with what an evaluation makes of its inputs; `draws` are DRAWS noisy ones."""

    def __init__(self, plain: Evaluation, draws: Sequence[Evaluation]) -> None:
        self.plain, self.draws = plain, draws

    def compared(self, name: str) -> Array | None:
        """The entries that count, None for all: of scores [H, T, T], those that the layer's mask shows, which
        keys each query sees, [T, T]. What it hides must be 0 in the weights."""
        own = self.plain.given.model.plan
        names = (name, *own.readers[name]) if isinstance(own[name].kind, Scores) else ()
        masks = (self.plain.plan[reader].kind for reader in names if isinstance(own[reader].kind, Softmax))
        kind = next(masks, None)
        return visible(kind, len(self.plain.given.tokens)) if isinstance(kind, Softmax) else None

    def rows(
        self, name: str, found: Array, expected: Array, positions: Sequence[int] | None,
        noisy: Callable[[Evaluation], Array] | None = None, most: float = math.inf, alike: float = SHARED,
    ) -> JudgedRows:  # fmt: skip
        """Return the rows' errors beside their tolerances. `noisy` gives what follows for a draw, where that
        is not its output; `alike` is the share of a row's tolerance that may be one factor of all rows.

        What the roundings of the inputs carry on is measured only where an error exceeds its plain tolerance,
        and over all draws only where it is near that. It is not measured where an error exceeds `most`.
        """

        def output(draw: Evaluation) -> Array:
            return draw.output(name, positions)

        seen, meter = self.compared(name), FactorMeter()
        differences, concentration = compared_blocks(found, expected, seen, meter)
        errors, chance = errors_of(differences), np.ones(len(differences.d))
        if self.plain.precision.coarse:
            of_keys = self.plain.given.model.plan[name].kind.causal  # which err alike where they are equal
            chance = beyond_usual(np.ones(len(errors)) if of_keys else concentration)
        tolerances = chance * self.plain.chain_floor(name)
        for draws, near in ((FEW_DRAWS, math.inf), (DRAWS, NEAR)):
            ratio = np.nan_to_num(errors / tolerances, posinf=0.0)
            if ratio.max() <= 1 or ratio.max() > near or np.nanmax(np.where(ratio > 1, errors, 0)) > most:
                break
            carried = self._carried(name, expected, noisy or output, draws)
            tolerances = np.maximum(tolerances, chance * carried)
        factor = meter.result()
        allowed = alike * float(np.nanmedian(tolerances)) + CHANCE * factor.error
        allowed += factor_error(self.plain.precision, self.plain.spread(name), len(errors))
        return JudgedRows(errors, tolerances, factor.value, allowed, differences)

    def _carried(self, name: str, expected: Array, noisy: Callable[[Evaluation], Array], draws: int) -> Array:
        """What the output moves with inputs that are off by the operation's own error: the root of the
        mean square over so many draws, for in a row of few elements one may move next to nothing."""
        seen = self.compared(name)
        errors = (errors_of(compared_blocks(noisy(own), expected, seen)[0]) for own in self.draws[:draws])
        moved = np.sqrt(sum(map(np.square, errors)) / draws)
        if self.plain.rounding is not None and self.plain.between(name):
            moved = np.fmax(moved, np.sqrt(np.nanmean(np.square(moved))))  # which integers tip is chance
        return np.asarray(np.nan_to_num(CARRIED * moved, nan=0.0, posinf=0.0))

    def judge(self, name: str, found: Array, positions: Sequence[int] | None = None) -> OperationResult:
        """One event of the dump: all rows, or those at `positions`."""
        expected = self.plain.output(name, positions)
        rows = self.rows(name, found, expected, positions)
        differences, own = rows.differences, self.plain.given.model.plan[name]
        result = OperationResult(
            name, layer_of(name), own.expr, self.plain.sources(name), tuple(self.plain.between(name)),
            None, self.plain.chain_floor(name), True, None, (), None, None,
            count=int(differences.count.sum()), unjudged=int(differences.alike.sum()),
        )  # fmt: skip
        if np.isnan(rows.errors).all():
            return replace(result, nonfinite="not judged: its inputs are not finite")
        worst = rows.worst
        element = _index(worst, int(differences.column[worst]), expected, positions)
        has = float(differences.of_b[worst])
        return replace(
            result, error=rows.error, tolerance=rows.tolerance, holds=rows.holds,
            position=element[-2] if element else None, element=element,
            found=has, expected=float(differences.of_a[worst]),
            nonfinite="" if math.isfinite(has) else f"{unnumbered(has)} though the inputs are finite",
            measured=IN_LENGTH if rows.in_length else "",
            factor_tolerance=rows.factor_tolerance if math.isfinite(rows.factor_tolerance) else None,
        )  # fmt: skip


def compared_blocks(
    found: Array, expected: Array, seen: Array | None, meter: FactorMeter | None = None
) -> tuple[RowDifferences, Array]:
    """The rows of `expected` beside those found, over what is finite in `expected` and `seen`, some rows at a
    time; and how concentrated their squares are, [R]. The meter, if any, is told of all."""
    parts, concentration = [], []
    for own, there, marks in _blocks(found, expected, seen):
        finite = np.isfinite(own)
        there = there if finite.all() else np.where(finite, there, own)
        parts.append(compare_rows(own, there, marks, outliers=False))
        if meter is not None:
            counted = finite if marks is None else finite & marks
            a, b = np.where(counted, own, 0), np.where(counted, there, 0)
            meter.add(a, b)
            squares = np.square(a)
            whole = np.maximum(squares.sum(axis=1), 1e-300)
            concentration.append(np.square(squares / whole[:, None]).sum(axis=1))
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
    """|b - a| / |a| of every row: [R]. NaN where nothing is compared, infinite where b is not finite."""
    with np.errstate(all="ignore"):
        errors = np.where(rows.d == 0, 0.0, rows.d / rows.a)
    errors[rows.odd >= 0] = math.inf
    errors[~rows.told] = math.nan
    return errors


def _index(row: int, column: int, expected: Array, positions: Sequence[int] | None) -> tuple[int, ...]:
    """The indices of an element of a row."""
    if not expected.ndim:
        return ()
    *leading, own = np.unravel_index(row, expected.shape[:-1])
    return (*map(int, leading), int(own) if positions is None else positions[int(own)], column)


Partial = Mapping[str, tuple[Array, tuple[int, ...] | None]]  # the rows of an event at some positions


class JudgedRun:
    """The values of a dump, all positions of an event or, in `partial`, the rows of some: these can be judged
    but not built upon."""

    def __init__(
        self, model: LanguageModel, tokens: Sequence[int], values: Mapping[str, Array], partial: Partial
    ) -> None:
        self.plan, self.given = model.plan, ReferenceInputs(model, np.array(tokens))
        known_next = len(self.given.targets) > 0
        self.known = [name for name in self.plan if name != "loss" or known_next]
        self.values, self.partial = values, partial

    def judge(self, precision: Precision) -> Judge:
        """A judge that knows the model's own plan."""
        rounding = self.rounding if precision.into_products else None

        def evaluation(noise: int | None) -> Evaluation:
            return Evaluation(self.given, self.plan, self.values, precision, noise, rounding)

        return Judge(evaluation(None), [evaluation(seed) for seed in range(DRAWS)])

    def operations(
        self, precision: Precision, names: Container[str] | None = None
    ) -> Iterator[OperationResult]:
        """Every event that the dump has, or those of these names, in order of computation."""
        judge = self.judge(precision)
        for name in self.known:
            own = self.own(name) if names is None or name in names else None
            if own is not None:
                yield judge.judge(name, *own)
            layer = layer_of(name)
            for evaluation in (judge.plain, *judge.draws) if layer is not None else ():
                evaluation.forget_before(layer or 0)

    def own(self, name: str) -> tuple[Array, tuple[int, ...] | None] | None:
        """What the dump has of an event, and the positions of its rows; None where it has nothing."""
        return (self.values[name], None) if name in self.values else self.partial.get(name)

    @cached_property
    def plain(self) -> Evaluation:
        """What follows in float32, without noise."""
        return self.judge(PRECISIONS["f32"]).plain

    @cached_property
    def rounding(self) -> ProductInputs:
        """What the dump shows of how the inputs of products are rounded."""
        rounding, plain = ProductInputs(self.given), self.plain

        def read(name: str) -> tuple[Array, Array]:
            x = plain.value(plain.plan[name].inputs[0])
            return np.asarray(x, np.float32), np.asarray(self.values[name], np.float64)

        known = [name for name in self.known if name in self.values]
        alone = [name for name in known if self.products(name) == [self.plan[name]]]
        rounding.learn([self.plan[name] for name in alone], read)
        return rounding

    def products(self, name: str) -> list[Operation]:
        """The products since the dump's own inputs of an event, itself included."""
        rows = [self.plan[own] for own in (*self.plain.between(name), name)]
        return [row for row in rows if isinstance(row.kind, Linear)]
