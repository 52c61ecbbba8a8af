"""Judging: one operation of a dump against what follows from the dump's own inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..architecture.kinds import Scores, Softmax
from ..architecture.operations.softmax import visible
from ..architecture.plan import layer_of
from ..arrays.stats import Array
from ..text.brief import one_line
from .evaluation import CARRIED, Evaluation

BLOCK = 1 << 21  # elements compared at a time


@dataclass(frozen=True, repr=False)
class OperationResult:
    """An event of the dump beside what follows from the dump's own inputs.

    `inputs` are the dump's events it was recomputed from, `recomputed` those in between that the dump
    lacks. `error` is the relative L2 of the row that is worst for its `tolerance`; None where no row
    could be judged, and `nonfinite` says why, or where the dump is not finite though its inputs are.
    `found` and `expected` are the element that differs most in that row, at `element` (its indices).
    For `unjudged` of its `count` elements nothing finite follows.
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

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class JudgedRows:
    """The relative L2 error of every row and what each may have; NaN for a row that is not judged."""

    errors: Array  # [R]
    tolerances: Array  # [R]

    __repr__ = one_line

    @property
    def worst(self) -> int:
        ratio = self.errors / self.tolerances
        return int(np.nanargmax(ratio))

    @property
    def error(self) -> float:
        """That of the row that is worst for its tolerance."""
        return float(self.errors[self.worst])

    @property
    def holds(self) -> bool:
        return not bool((self.errors > self.tolerances).any())


def row_errors(found: Array, expected: Array, compared: Array | None) -> Array:
    """|found - expected| / |expected| of every row (the last axis), over what is finite in `expected`
    and marked in `compared` (which may lack leading axes): [R]. NaN where that is nothing, infinite
    where `found` is not finite."""
    width = expected.shape[-1] if expected.ndim else 1
    expected, found = expected.reshape(-1, width), found.reshape(-1, width)
    marks = (
        None
        if compared is None
        else np.broadcast_to(compared, (len(found) // len(compared), *compared.shape))
    )
    marks = None if marks is None else marks.reshape(-1, width)
    errors = np.empty(len(found))
    step = max(1, BLOCK // width)
    for start in range(0, len(found), step):
        own = slice(start, start + step)
        errors[own] = _errors(found[own], expected[own], None if marks is None else marks[own])
    return errors


def _errors(found: Array, expected: Array, marks: Array | None) -> Array:
    judged = np.isfinite(expected)
    if marks is not None:
        judged &= marks
    with np.errstate(all="ignore"):
        wanted = np.where(judged, expected, 0).astype(np.float64)
        apart = np.linalg.norm(np.where(judged, found - wanted, 0), axis=1)
        size = np.linalg.norm(wanted, axis=1)
        errors = np.where(apart == 0, 0.0, apart / size)
    errors[~np.isfinite(apart)] = math.inf
    errors[~judged.any(axis=1)] = math.nan
    return errors


class Judge:
    """Compares arrays of a dump with what an evaluation makes of its inputs."""

    def __init__(self, plain: Evaluation, noisy: Sequence[Evaluation]) -> None:
        self.plain, self.noisy = plain, noisy

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
        change: Callable[[Array], Array] | None = None, most: float = math.inf,
    ) -> JudgedRows:  # fmt: skip
        """The rows' errors and tolerances. What one rounding of the inputs moves is worked out only where
        the plain tolerance is exceeded, and no error is above `most`, which is too much whatever it is.
        `change` made `expected` of what follows."""
        compared = self.compared(name)
        errors = row_errors(found, expected, compared)
        tolerances = np.full(len(errors), self.plain.chain_floor(name))
        beyond = errors[np.isfinite(errors) & (errors > tolerances)]
        if beyond.size and beyond.max() <= most:
            tolerances = self._measured(name, expected, positions, change)
        return JudgedRows(errors, tolerances)

    def _measured(
        self, name: str, expected: Array, positions: Sequence[int] | None,
        change: Callable[[Array], Array] | None,
    ) -> Array:  # fmt: skip
        """What the output moves with inputs that are off by the operation's own error: the root of the
        mean square over all draws, for in a row of few elements one draw may move next to nothing."""
        moved = np.zeros(())
        for noisy in self.noisy:
            value = noisy.output(name, positions)
            value = value if change is None else change(value)
            moved = moved + np.square(row_errors(value, expected, self.compared(name)))
        moved = np.sqrt(moved / len(self.noisy))
        if self.plain.rounding is not None and self.plain.between(name):
            moved = np.fmax(moved, np.sqrt(np.nanmean(np.square(moved))))  # which integers tip is chance
        carried = np.nan_to_num(CARRIED * moved, nan=0.0, posinf=0.0)
        return np.maximum(self.plain.chain_floor(name), carried)

    def judge(self, name: str, found: Array, positions: Sequence[int] | None = None) -> OperationResult:
        """One event of the dump: all rows, or those at `positions`."""
        expected = self.plain.output(name, positions)
        rows = self.rows(name, found, expected, positions)
        return self._result(name, found, expected, rows, positions)

    def _result(
        self, name: str, found: Array, expected: Array, rows: JudgedRows, positions: Sequence[int] | None
    ) -> OperationResult:
        def result(error: float | None, tolerance: float, holds: bool, **where: object) -> OperationResult:
            values = {"position": None, "element": (), "found": None, "expected": None} | where
            values |= dict(zip(("count", "unjudged"), _unjudged(expected, self.compared(name)), strict=True))
            return OperationResult(
                name, layer_of(name), self.plain.given.model.plan[name].expr, self.plain.sources(name),
                tuple(self.plain.between(name)), error, tolerance, holds, **values,  # type: ignore[arg-type]
            )  # fmt: skip

        if np.isnan(rows.errors).all():
            return result(
                None, self.plain.chain_floor(name), True, nonfinite="not judged: its inputs are not finite"
            )
        worst = rows.worst
        element = _largest_difference(found, expected, worst, self.compared(name))
        where = {
            "position": _position(worst, expected, positions),
            "element": _index(element, positions, expected.ndim),
            "found": float(found[element]),
            "expected": float(expected[element]),
            "nonfinite": _nonfinite(found, expected, self.compared(name)),
        }
        return result(float(rows.errors[worst]), float(rows.tolerances[worst]), rows.holds, **where)


def _unjudged(expected: Array, compared: Array | None) -> tuple[int, int]:
    """How many elements count, and for how many of them nothing finite follows."""
    if compared is None:
        return expected.size, expected.size - int(np.count_nonzero(np.isfinite(expected)))
    shown = expected[..., compared]
    return shown.size, shown.size - int(np.count_nonzero(np.isfinite(shown)))


def _largest_difference(found: Array, expected: Array, row: int, compared: Array | None) -> tuple[int, ...]:
    """The indices of the element of a row (of the last axis) that differs most."""
    width = expected.shape[-1] if expected.ndim else 1
    with np.errstate(all="ignore"):
        apart = np.abs(found.reshape(-1, width)[row] - expected.reshape(-1, width)[row].astype(np.float64))
    apart = np.where(np.isfinite(expected.reshape(-1, width)[row]), np.nan_to_num(apart, nan=math.inf), -1)
    if compared is not None:
        apart = np.where(compared[row % len(compared)], apart, -1)
    at = row * width + int(apart.argmax())
    return tuple(int(i) for i in np.unravel_index(at, expected.shape)) if expected.ndim else ()


def _position(row: int, expected: Array, positions: Sequence[int] | None) -> int | None:
    if not expected.ndim:
        return None
    own = row % expected.shape[-2]
    return own if positions is None else positions[own]


def _index(element: tuple[int, ...], positions: Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    return element if positions is None or ndim < 2 else (positions[element[0]], *element[1:])


def _nonfinite(found: Array, expected: Array, compared: Array | None) -> str:
    """Where the dump is not finite though what it follows from is."""
    broken = ~np.isfinite(found) & np.isfinite(expected)
    if compared is not None:
        broken &= compared
    count = int(np.count_nonzero(broken))
    if not count:
        return ""
    nans = int(np.count_nonzero(np.isnan(found) & broken))
    kind = "NaN" if nans == count else "infinite" if not nans else "NaN or infinite"
    first = [int(i) for i in np.argwhere(broken)[0]] if found.ndim else []
    return f"{count} of {found.size} are {kind} though the inputs are finite, the first at {first}"
