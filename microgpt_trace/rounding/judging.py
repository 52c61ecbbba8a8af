"""Judge operations of a dump: compare each output with the value computed from the dump's own inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..decoder.catalogue import kind_named
from ..models.language_model import LanguageModel
from ..operations.reference_inputs import ReferenceInputs
from ..operations.softmax import visible, window_of
from ..plans.kinds import Choice, Experts, Linear, Softmax
from ..plans.plan import Operation, kind_of, layer_of
from ..text.frozen import frozen
from ..text.wording import at_most, nonfinite_name
from .evaluation import CARRIED, Evaluation, with_ties
from .precision import CHANCE, PRECISIONS, Partial, Precision, ProductInputs, beyond_usual, factor_error
from .row_differences import (
    FactorMeter,
    RowDifferences,
    compared_blocks,
    element_index,
    errors_of,
    factor_of_logarithms,
)

SHARED = 0.15  # allowed factor of all rows, as a share of a row's tolerance; correct engines reach 0.07
DRAWS, FEW_DRAWS = 24, 4  # the number of evaluations with random noise
NEAR = 4.0  # an error up to this multiple of its tolerance is measured with DRAWS evaluations
EXACT = 1e-6  # tolerance of whole numbers, such as the numbers of chosen experts
IN_LENGTH, OVER_THE_PASS = "in length of all rows", "over the whole pass"
IN_SCORES = "in a factor of all scores"


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
class Limit:
    """The largest difference that rounding hides in an operation, such as "attn.weights" of any layer."""

    operation: str
    difference: float

    def __str__(self) -> str:
        return f"{at_most(self.difference)} ({self.operation})"


@frozen(slots=False)
class Unseen:
    """The differences that rounding to `compute` hides, in the most and in the least sensitive operation.
    `row` is the difference of a row, and `factor` a common factor of all rows."""

    compute: str
    row: tuple[Limit, Limit]
    factor: tuple[Limit, Limit]

    def __str__(self) -> str:
        row, factor = (f"below {least} to {most}" for least, most in (self.row, self.factor))
        return (
            f"differences {row} of a row, or {factor} in a factor of all rows, cannot be distinguished from "
            f"{self.compute} rounding here"
        )


def unseen(operations: Sequence[OperationResult], precision: Precision | None) -> Unseen | None:
    """Return the differences that a precision hides, or None for float32 or if no operation was judged."""
    judged = [o for o in operations if o.error is not None and not o.measured]
    judged = [o for o in judged if not isinstance(kind_named(o.name), Choice)]
    rows = [Limit(kind_of(o.name), o.tolerance) for o in judged]
    factors = [Limit(kind_of(o.name), o.factor_tolerance) for o in judged if o.factor_tolerance is not None]
    if precision is None or not precision.coarse or not factors:
        return None
    ordered = (sorted(own, key=lambda limit: limit.difference) for own in (rows, factors))
    return Unseen(precision.name, *((own[0], own[-1]) for own in ordered))


class SharedFactor(NamedTuple):
    """A factor of all rows, less 1. `measured` is IN_LENGTH for the length of the rows. For attention weights
    it may be IN_SCORES: the factor of the scores that lead to these weights."""

    value: float
    tolerance: float
    measured: str


@frozen(slots=False, eq=False)
class JudgedRows:
    """The relative L2 error and the tolerance of every row. The error is NaN if a row is not judged. The
    first of the `factors` is the share by which all rows are too long (or too short, if negative)."""

    errors: Array  # [R]
    tolerances: Array  # [R]
    factors: tuple[SharedFactor, ...]
    differences: RowDifferences
    ties: Array  # the rows where rounding decides between two experts

    @property
    def worst(self) -> int:
        """The row with the largest error relative to its tolerance."""
        return int(np.nanargmax(self.errors / self.tolerances))

    @property
    def wrong_factor(self) -> SharedFactor | None:
        """The factor that exceeds its tolerance most, or None if a row exceeds its tolerance."""
        factor = max(self.factors, key=lambda own: abs(own.value) / own.tolerance)
        rows_hold = not (self.errors > self.tolerances).any()
        return factor if rows_hold and abs(factor.value) > factor.tolerance else None

    @property
    def error(self) -> float:
        """The error of the worst row, or the common factor if only a factor exceeds its tolerance."""
        factor = self.wrong_factor
        return abs(factor.value) if factor else float(self.errors[self.worst])

    @property
    def tolerance(self) -> float:
        factor = self.wrong_factor
        return factor.tolerance if factor else float(self.tolerances[self.worst])

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
        if smallest := self.plain.precision.smallest:
            chance = chance * np.maximum(1, smallest / np.where(differences.a > 0, differences.a, smallest))
        exact = isinstance(self.plain.plan[name].kind, Choice)
        tolerances = chance * (EXACT if exact else self.plain.chain_floor(name))
        for draws, near in ((FEW_DRAWS, math.inf), (DRAWS, NEAR)):
            ratio = np.nan_to_num(errors / tolerances, posinf=0.0)
            if exact or not 1 < ratio.max() <= near or np.nanmax(np.where(ratio > 1, errors, 0)) > most:
                break
            tolerances = np.maximum(tolerances, chance * self._carried(name, expected, output, seen, draws))
        if positions is not None and self.plain.between(name):
            alike = 1.0  # the few rows share the errors of recomputed positions
        factor, error = meter.result()
        allowed = alike * float(np.nanmedian(tolerances)) + CHANCE * error
        allowed += factor_error(self.plain.precision, self.plain.spread(name), len(errors))
        factors = [SharedFactor(factor, allowed, IN_LENGTH)]
        if self.plain.precision.coarse and isinstance(self.plain.plan[name].kind, Softmax):
            factors.append(self._of_scores(name, found, expected, output, alike))
        return JudgedRows(errors, tolerances, tuple(factors), differences, ties)

    def _of_scores(
        self, name: str, found: Array, expected: Array, noisy: Callable[[Evaluation], Array], alike: float
    ) -> SharedFactor:
        """Return the common factor of the scores that lead to these attention weights. Its tolerance is far
        below the tolerance of a row, because the rounding errors of many scores cancel. The standard error
        counts only up to the standard error that rounding causes: a wrong cap is not the same factor of all
        scores, so its standard error is larger."""
        plain, (factor, error) = self.plain, factor_of_logarithms(expected, found)
        chain, count = (*plain.between(name), name), expected.shape[1]
        allowed = sum(factor_error(plain.precision, plain.spread(own), count) for own in chain)
        allowed += alike * plain.chain_floor(name)
        if abs(factor) > allowed:  # if all scores are nearly equal, all may have the same rounding error
            round = plain.precision.round if plain.precision.narrow else np.asarray
            draws = (round(noisy(draw)) for draw in self.draws[:FEW_DRAWS])
            moved = np.square([factor_of_logarithms(expected, draw) for draw in draws])
            by_rounding, most = map(float, CARRIED * np.sqrt(moved.mean(axis=0)))
            allowed += by_rounding + CHANCE * min(error, most)
        return SharedFactor(factor, allowed, IN_SCORES)

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
        worst, wrong, in_length = rows.worst, rows.wrong_factor, rows.factors[0].tolerance
        element = element_index(worst, int(differences.column[worst]), expected.shape, positions)
        has = float(differences.of_b[worst])
        return replace(
            result, error=rows.error, tolerance=rows.tolerance, holds=rows.holds,
            position=element[-2] if element else None, element=element,
            found=has, expected=float(differences.of_a[worst]),
            nonfinite="" if math.isfinite(has) else f"{nonfinite_name(has)} though the inputs are finite",
            measured=wrong.measured if wrong else "",
            factor_tolerance=in_length if math.isfinite(in_length) else None,
        )  # fmt: skip


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
