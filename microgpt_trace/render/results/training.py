"""What a training run came to, as sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...text.printable import shown_token
from ..numbers import probability
from ..sections import Bar, Block, Column, Copyable, Labelled, Section, Table, Words
from .timeline import loss_section


@dataclass(frozen=True)
class Summary:
    """The outcome of a run, as the report needs it."""

    facts: Sequence[tuple[str, str]]
    losses: Sequence[float]  # one a step
    train_loss: tuple[float | None, float | None]  # before, after
    held_out_loss: tuple[float | None, float | None]
    watched: str
    targets: Sequence[str]
    p_before: Sequence[float]
    p_after: Sequence[float]
    samples: Sequence[tuple[str, bool]]  # a name, and whether the data has it
    closing: Sequence[tuple[str, str]]
    trace_it: str  # a command line


def summary_sections(summary: Summary) -> list[Section]:
    """What a run came to: its facts, losses, predictions of the watched name, samples, where it is kept."""
    sections = [Section([Labelled(summary.facts)])]
    if len(summary.losses) > 1:
        sections.append(loss_section(summary.losses, 1, len(summary.losses)))
    losses = [("train", summary.train_loss), ("held out", summary.held_out_loss)]
    changes = Labelled([(label, _change(*pair)) for label, pair in losses])
    sections.append(Section([changes], "Mean loss per name"))
    columns = [
        Column("", lambda row: row[0], right=True),
        Column("", lambda row: f"{probability(row[1], 3)} → {probability(row[2], 3)}"),
        Column("", lambda row: Bar(row[2], 20), bar=True, style=lambda row: "cyan"),
    ]
    targets = map(shown_token, summary.targets)
    rows = list(zip(targets, summary.p_before, summary.p_after, strict=True))
    sections.append(Section([Table(columns, rows)], f'P(target) of "{summary.watched}"'))
    ends = [*[", "] * (len(summary.samples) - 1), ""]
    new = sum(not known for _, known in summary.samples)
    names = [_sample(name, known, end) for (name, known), end in zip(summary.samples, ends, strict=True)]
    aside = f"{new} of {len(summary.samples)} are not in the data (*)"
    sections.append(Section([Words(names)], "Samples", aside))
    closing: list[Block] = [Labelled(summary.closing), Copyable("trace it    ", summary.trace_it)]
    return [*sections, Section(closing)]


def _sample(name: str, known: bool, end: str) -> tuple[str, str]:
    shown = name or '""'
    return (f"{shown}{end}", "") if known else (f"{shown}*{end}", "green")


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "no name is held out"
    return f"{before:.4f} → {after:.4f}"
