"""The results of patching, as plain data. This module needs no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Generic, Literal, TypeVar

import numpy as np

from ..arrays.logits import LogitDifference
from ..arrays.stats import Array
from ..decoder.catalogue import leaving_kinds
from ..errors import InputError
from ..grouping import grouped
from ..notebook import in_notebook
from ..plans.plan import kind_of
from ..text.brief import one_line
from ..text.frozen import frozen
from ..text.json_writing import in_document
from ..tracing.findings import Check

Failure = Literal["", "sign", "factor"]  # the wrong sign, or wrong by more than a factor of 2


@frozen
class Spot:
    """The patched part of an event. `site` names this part, as in --sites. If only `position` is set, the
    part is the event at this position. If `head` is set and `site` equals `name`, the part is the whole head.
    Otherwise `site` names a part of the head. If neither is set, `site` names the part."""

    site: str
    name: str
    layer: int | None
    head: int | None
    position: int | None

    @property
    def place(self) -> tuple[str, str, int | None, int | None, int | None]:
        return self.site, self.name, self.layer, self.head, self.position

    @property
    def about(self) -> str:
        """The text that identifies this place on a page."""
        return self.site

    @property
    def is_part(self) -> bool:
        """True if the part is shown in a separate row, outside the tables of positions and heads."""
        return self.position is None if self.head is None else self.site != self.name


@frozen
class Patched(Spot):
    """The corrupted run with the clean value in one place. `difference` is the logit difference of this run.
    `restored` is the share of the way from the corrupted run's difference to the clean run's difference."""

    restored: float
    difference: float


@frozen
class PathPatched(Patched):
    """The corrupted run in which a receiver alone reads the sender's clean write. The spot is the sender."""

    receiver: str

    @property
    def about(self) -> str:
        return f"{self.site} to {self.receiver}"


@frozen
class Confirmed(Spot):
    """A place with the estimate of attribution patching, and the value of an exact patch."""

    estimate: float
    restored: float
    fails: Failure


def confirmed_by(cell: Patched, restored: float, tolerance: float) -> Confirmed:
    """Compare an estimate with the share that an exact patch restores. Rounding may change a share by
    `tolerance`."""
    low, high = sorted((abs(cell.restored), abs(restored)))
    fails: Failure = ""
    if not abs(cell.restored - restored) <= tolerance:
        fails = "sign" if cell.restored * restored < 0 else "factor" if not high <= 2 * low else ""
    return Confirmed(*cell.place, cell.restored, restored, fails)


@frozen
class MeanPatched(Spot):
    """The mean and population std of the finite values in one place over `count` pairs or prompts."""

    mean: float | None
    spread: float | None
    count: int


@frozen
class Unpatched:
    """One of the two runs without patching, at the judged position."""

    text: str
    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    difference: float  # logit(target) - logit(against)
    p_target: float
    p_against: float


@frozen(slots=False)
class PatchedPair:
    """A clean and a corrupted run with their logit difference. `check` tests that patching every position
    restores the clean run."""

    contrast: LogitDifference
    clean: Unpatched
    corrupt: Unpatched
    check: Check


@frozen(slots=False)
class PatchResult(PatchedPair):
    """The share of the logit difference that each site restores: 0 for the corrupted, 1 for the clean run.

    With senders and receivers, each cell is a path, and its site is the sender.

    With the method "attribution", the cells are estimates, and `confirmed` has some of them beside the values
    of exact patches. `neurons` has the neurons with the largest of `neuron_count` estimates.
    """

    SCHEMA = "microgpt.patch/1"

    model: str
    cells: tuple[Patched | PathPatched, ...]
    method: Literal["exact", "attribution"] = "exact"
    confirmed: tuple[Confirmed, ...] = ()
    neurons: tuple[Patched, ...] = ()
    neuron_count: int = 0

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        about = {"model": self.model, "clean": self.clean.text, "corrupt": self.corrupt.text}
        return one_line(self, **about, sites=len(self.cells), ok=self.ok)

    @property
    def ok(self) -> bool:
        return self.check.holds is True

    @property
    @in_document
    def correlation(self) -> float | None:
        """The correlation (Pearson) of estimates and exact values, or None if it is not defined"""
        pairs = np.array([(cell.estimate, cell.restored) for cell in self.confirmed]).reshape(-1, 2)
        defined = len(pairs) > 1 and np.isfinite(pairs).all() and np.ptp(pairs, axis=0).all()
        return float(np.corrcoef(pairs.T)[0, 1]) if defined else None

    @property
    def matrix(self) -> Array:
        """The share that each site restores: [sites, positions], [layers, heads] if heads were patched, or
        [senders, receivers] for paths. A share is NaN where nothing was patched. Raises InputError if there
        is no table or more than one."""
        tables = [_paths(self.cells)] if receivers_of(self.cells) else tables_of(self.cells)
        if len(tables) != 1:
            raise InputError(f"matrix: expected sites of one table, found {len(tables)} tables; use `cells`")
        rows = [[math.nan if c is None else c.restored for c in cells] for _, cells in tables[0].rows]
        return np.array(rows)


@frozen(slots=False)
class PairsResult:
    """The results of the same sites over several pairs."""

    SCHEMA = "microgpt.patch_pairs/1"

    model: str
    pairs: tuple[PatchedPair, ...]
    cells: tuple[MeanPatched, ...]
    method: Literal["exact", "attribution"] = "exact"
    _repr_html_ = in_notebook

    @property
    def ok(self) -> bool:
        return all(pair.check.holds is True for pair in self.pairs)


Cell = TypeVar("Cell", bound=Spot)


@frozen
class PatchTable(Generic[Cell]):
    """Cells of one kind of event: a row for each event (or layer), a column for each position or head. A
    table of paths has a row for each sender, and a column for each receiver."""

    kind: str
    title: str
    across: Literal["position", "head", "receiver"]
    columns: tuple[int, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]  # the row's label, its cells
    receivers: tuple[str, ...] = ()


def tables_of(cells: Sequence[Cell]) -> list[PatchTable[Cell]]:
    """Arrange the cells with a position or a head in tables, one for each kind of event. Events outside the
    layers are the first rows in the table of the residual stream after each layer. Paths to several receivers
    are one table."""
    if len(receivers := receivers_of(cells)) > 1:
        return [_paths(cells)]
    kinds = {kind_of(cell.name) for cell in cells}
    stream = next((kind for kind in leaving_kinds() if kind in kinds), leaving_kinds()[0])
    whole = (cell for cell in cells if not cell.is_part)
    by_kind = grouped(whole, lambda cell: stream if cell.layer is None else kind_of(cell.name))
    return [replace(_table(kind, own), receivers=tuple(receivers)) for kind, own in by_kind.items()]


def _paths(cells: Sequence[Cell]) -> PatchTable[Cell]:
    """Return the table with a row for each sender and a column for each receiver."""
    receivers, sites = receivers_of(cells), dict.fromkeys(cell.site for cell in cells)
    paths = {(cell.site, cell.receiver): cell for cell in cells}  # type: ignore[attr-defined]
    rows = tuple((site, tuple(paths.get((site, name)) for name in receivers)) for site in sites)
    title, columns = "rows: senders, columns: receivers", tuple(range(len(receivers)))
    return PatchTable("path", title, "receiver", columns, rows, tuple(receivers))


def parts_of(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells outside the tables: parts of events that a site names."""
    return [] if len(receivers_of(cells)) > 1 else [cell for cell in cells if cell.is_part]


def receivers_of(cells: Sequence[Spot]) -> list[str]:
    """Return the receivers of paths, or [] if the cells are no paths."""
    return list(dict.fromkeys(cell.receiver for cell in cells if isinstance(cell, PathPatched)))


def _table(kind: str, cells: Sequence[Cell]) -> PatchTable[Cell]:
    across: Literal["position", "head"] = "position" if cells[0].head is None else "head"
    rows: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        label = cell.name if cell.layer is None else f"layer {cell.layer}"
        rows.setdefault(label, {})[getattr(cell, across)] = cell
    columns = tuple(sorted(set().union(*rows.values())))
    named = list(dict.fromkeys(cell.name for cell in cells if cell.layer is None))
    layers = sorted({cell.layer for cell in cells if cell.layer is not None})
    layer = f"layer{layers[0]}" if len(layers) == 1 else "layer*"
    in_layers = [f"{layer}.{kind}{'*' * (across == 'head')}"] if layers else []
    return PatchTable(
        kind, ", ".join([*named, *in_layers]), across, columns,
        tuple((label, tuple(row.get(c) for c in columns)) for label, row in rows.items()),
    )  # fmt: skip


MANY, FEW = 60, 20  # more parts than MANY are not listed: only the FEW with the largest values
Value = Callable[[Cell], float | None]


def listed_parts(cells: Sequence[Cell], value: Value[Cell]) -> list[Cell]:
    """Return the cells outside the tables or, if there are many, those with the largest values."""
    parts = parts_of(cells)
    largest = sorted(parts, key=lambda cell: -abs(value(cell) or 0.0))
    return parts if len(parts) <= MANY else largest[:FEW]


def runs_above(
    table: PatchTable[Cell], least: float, value: Value[Cell]
) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Yield for each column the runs of rows (first, last) whose cells restore more than `least`."""
    for n, column in enumerate(table.columns):
        above = [_at_least(row[n], value) > least for _, row in table.rows]
        labelled = zip(above, (label for label, _ in table.rows), strict=True)
        groups = [[label for _, label in own] for high, own in groupby(labelled, itemgetter(0)) if high]
        if groups:
            yield column, [(group[0], group[-1]) for group in groups]


def moves(table: PatchTable[Cell], least: float, value: Value[Cell]) -> Iterator[tuple[int, int, str, str]]:
    """Yield each change, from a row to the next row, of the position that restores most. A change is
    (position, next position, row, next row). Both rows restore more than `least`."""
    best = [
        max(zip((_at_least(cell, value) for cell in row), table.columns, strict=True), key=itemgetter(0))
        for _, row in table.rows
    ]
    for (a, b), ((low, here), (high, there)) in zip(pairwise(table.rows), pairwise(best), strict=True):
        if here != there and min(low, high) > least:
            yield here, there, a[0], b[0]


def _at_least(cell: Cell | None, value: Value[Cell]) -> float:
    restored = None if cell is None else value(cell)
    return -math.inf if restored is None or math.isnan(restored) else restored
