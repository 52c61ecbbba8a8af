"""The verdicts on captured values as sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...architecture.plans.plan import kind_of
from ...text.wording import counted
from ...tracing.validation import Validation, Verdict
from ..numbers import ratio
from ..sections import Column, Section, Table, Words, words

_STYLES = {"used": "green", "dead": "yellow", "failed": "bold red"}


@dataclass(frozen=True)
class _VerdictRow:
    """An event, or the events of one kind in several layers that have one verdict."""

    event: str
    verdicts: Sequence[Verdict]

    @property
    def by_itself(self) -> float:
        return max(verdict.by_itself for verdict in self.verdicts)

    @property
    def perturbed(self) -> float | None:
        return min((v.perturbed for v in self.verdicts if v.perturbed is not None), default=None)


def validation_sections(found: Validation, *, verbose: bool = False) -> list[Section]:
    """A row per event, or per kind of event where many layers have it and `verbose` is not wanted."""
    tokens = ", ".join(map(str, found.tokens))
    columns = [
        Column("event", lambda r: r.event),
        Column("by itself", lambda r: "nothing" if r.by_itself == 0 else f"{r.by_itself:.1e}", right=True),
        Column("perturbed", lambda r: ratio(r.perturbed), right=True),
        Column("verdict", _verdict, style=lambda r: _STYLES[r.verdicts[0].verdict]),
    ]
    legend = (
        "by itself: largest difference of a logit; perturbed: how far some 10 % more or less in every "
        "element move what is computed from it next, |after − before| / |before| (of several the farthest; "
        "of probs and loss: what the trace tells); of several events the smallest"
    )
    how = (
        "Each event was replaced by itself, which may change nothing, and all were by perturbed copies: "
        "each must be what a second computation in float64 makes of the copies before it."
    )
    rows = _rows(found.verdicts, grouped=not verbose)
    table = Table(columns, rows, about=lambda row: row.verdicts[0].name)
    return [
        Section([words(f"{found.model}: {found.text!r} → tokens [{tokens}]", "bold"), words(how)]),
        Section([table, words(legend, "dim"), *_exceptions(found)]),
        Section([_summary(found)]),
    ]


def _summary(found: Validation) -> Words:
    count = {kind: sum(v.verdict == kind for v in found.verdicts) for kind in _STYLES}
    dead = f", {count['dead']} cannot matter here" if count["dead"] else ""
    failed = f", {count['failed']} FAILED" if count["failed"] else ""
    events, are = counted(len(found.verdicts), "event"), "is" if count["used"] == 1 else "are"
    text = f"{count['used']} of {events} {are} what the computation uses{dead}{failed}"
    return words(text, "green" if found.ok else "bold red")


def _verdict(row: _VerdictRow) -> str:
    return row.verdicts[0].verdict if row.verdicts[0].verdict != "failed" else "FAILED"


def _rows(verdicts: Sequence[Verdict], grouped: bool) -> list[_VerdictRow]:
    rows: dict[Any, list[Verdict]] = {}
    for verdict in verdicts:
        layered = grouped and verdict.name.startswith("layer") and verdict.verdict != "failed"
        key = (kind_of(verdict.name), verdict.verdict) if layered else verdict.name
        rows.setdefault(key, []).append(verdict)
    return [_VerdictRow(_name(group), group) for group in rows.values()]


def _name(group: Sequence[Verdict]) -> str:
    """ "layer0.attn.q", or "layer*.attn.q (30)" """
    if len(group) == 1:
        return group[0].name
    layers = {verdict.name.partition(".")[0] for verdict in group}
    kind = kind_of(group[0].name)
    kind += "*" * (not group[0].name.endswith(kind))  # of one head each
    return f"{layers.pop() if len(layers) == 1 else 'layer*'}.{kind} ({len(group)})"


def _exceptions(found: Validation) -> Iterator[Words]:
    """Why events are dead or failed, once for all events of a kind."""
    said: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in found.verdicts:
        if verdict.verdict != "used":
            said.setdefault((kind_of(verdict.name), verdict.verdict), []).append(verdict)
    for (_, kind), verdicts in said.items():
        more = f" (and {len(verdicts) - 1} more of its kind)" if len(verdicts) > 1 else ""
        yield words(f"{kind}: {verdicts[0].name}{more}: {verdicts[0].reason}", _STYLES[kind])
