"""The logit lens of a trace: the top tokens after every layer, and what becomes of a chosen one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

from ..architecture.plan import kind_of
from ..text.printable import shown_token
from ..tracing.result import Candidate, LensRow, TargetRow, Trace
from .numbers import probability
from .sections import Column, Section, Table, words
from .token_labels import token_label


def lens_sections(trace: Trace) -> Iterator[Section]:
    """The top token of every layer and position, more candidates of the last one, and the target."""
    if not trace.lens:
        return
    yield _top_tokens(trace)
    deepest = max(len(row.top[-1]) for row in trace.lens)
    if deepest > 1:
        yield _candidates_of_the_last(trace, deepest)
    by_position = sorted(trace.lens_target, key=lambda row: row.position)
    for position, rows in groupby(by_position, key=lambda row: row.position):
        yield _target(trace, position, list(rows))


def _top_tokens(trace: Trace) -> Section:
    """Rows are layers, columns positions."""

    def top(row: LensRow, at: int) -> str:
        candidate = row.predicted[at]
        return token_label(candidate.label) if candidate else "–"

    columns = [Column("after", lambda row: str(row.layer), right=True)]
    for at, position in enumerate(trace.lens[0].positions):
        title = token_label(trace.input.labels[position])
        columns.append(Column(title, partial(top, at=at), right=True))
    aside = "the top token if the model ended after the layer"
    return Section([Table(columns, trace.lens)], "Logit lens", aside)


def _candidates_of_the_last(trace: Trace, deepest: int) -> Section:
    columns = [
        Column("after", lambda row: str(row.layer), right=True),
        Column("candidates", lambda row: "  ".join(map(_with_p, row.top[-1])) or "–", wrap=True),
    ]
    last = trace.lens[0].positions[-1]
    return Section([Table(columns, trace.lens)], f"Logit lens, top {deepest} {_after(trace, last)}")


class _OfLayer(NamedTuple):
    """What the target gets within a layer, by the streams there."""

    layer: int
    rows: dict[str, TargetRow]


def _target(trace: Trace, position: int, rows: Sequence[TargetRow]) -> Section:
    """P and rank after each layer's attention and after the layer, and where it first is the top token."""
    kinds = list(dict.fromkeys(kind_of(row.event) for row in rows))
    layers = [
        _OfLayer(layer, {kind_of(row.event): row for row in group})
        for layer, group in groupby(rows, key=lambda row: row.layer)
    ]
    columns = [Column("layer", lambda row: str(row.layer), right=True)]
    for kind in kinds:
        where = "layer" if kind == kinds[-1] else kind.partition(".")[0]
        columns += [
            Column(f"P after {where}", partial(_p, kind=kind), right=True),
            Column("rank", partial(_rank, kind=kind), right=True),
        ]
    blocks = [Table(columns, layers, about=lambda row: row.rows[kinds[-1]].event)]
    first = next((row for row in rows if row.rank == 1), None)
    said = [words(_first(first, kinds[-1]))] if first is not None else []
    title = f"Logit lens of {shown_token(rows[0].target.label)} {_after(trace, position)}"
    return Section([*blocks, *said], title)


def _first(row: TargetRow, last: str) -> str:
    where = f"layer {row.layer}" if kind_of(row.event) == last else f"the attention of layer {row.layer}"
    return f"rank 1 for the first time after {where}"


def _p(row: _OfLayer, kind: str) -> str:
    return probability(row.rows[kind].target.p) if kind in row.rows else ""


def _rank(row: _OfLayer, kind: str) -> str:
    if kind not in row.rows:
        return ""
    rank = row.rows[kind].rank
    return "–" if rank is None else f"{rank:,}"


def _after(trace: Trace, position: int) -> str:
    return f"after position {position} {shown_token(trace.input.labels[position])}"


def _with_p(candidate: Candidate) -> str:
    return f"{shown_token(candidate.label)}={probability(candidate.p, 3)}"
