"""Interventions and their effects as sections. All numbers in these sections are fields of the Trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ...hooks.event import TraceEvent
from ...plans.plan import layer_of
from ...tracing.result import Candidate, EventChange, Intervened, LayerRow, Prediction, mean_of
from ..characters import token_label
from ..numbers import figure, four_decimals, percent, signed, three_decimals
from ..sections import Column, Section, Table, Words, fields, table_section, words

LEGEND = (
    "In the tables, * marks an event that an intervention replaced, or a layer that contains such an event. "
    "→ marks an event downstream. The number is |after − before| / |before|, where before is the value in "
    "the run without interventions."
)


def interventions_section(intervened: Intervened) -> Section:
    """Return a table of the interventions in order of application."""
    columns = [
        Column("target", lambda a: a.target, whole=True),
        Column("becomes", lambda a: a.text, wrap=True),
        Column("events", lambda a: f"{len(a.events):,}", right=True),
        *fields("{:,}".format, {"elements": "elements"}),
    ]
    table = Table(columns, intervened.interventions)
    return Section([table, words(LEGEND, "dim")], "Interventions", style="bold yellow")


def change_column(intervened: Intervened) -> Column:
    """Return a column that compares each event with its value in the run without interventions."""
    changes = {change.name: change for change in intervened.changes}

    def style(event: TraceEvent) -> str:
        change = changes.get(event.name)
        return "" if change is None or change.change == 0 else "yellow" if change.replaced else "cyan"

    return Column("change", lambda e: _change(changes.get(e.name)), right=True, style=style)


def layer_change_column(intervened: Intervened, last: Mapping[int | None, str]) -> Column:
    """Return a column with the change of each layer's output, its event in `last`. * marks a layer with an
    intervention."""
    touched = {layer_of(name) for applied in intervened.interventions for name in applied.events}

    def cell(row: LayerRow) -> str:
        text = _change(intervened.change_of(last[row.layer]))
        return text.replace("→", "*") if row.layer in touched else text

    return Column("change", cell, right=True)


def _change(change: EventChange | None) -> str:
    if change is None or (change.change == 0 and not change.replaced):
        return ""
    mark, share = "*" if change.replaced else "→", change.change
    small = share is not None and 0 < share < 5e-4
    return f"{mark} {f'{share:.0e}' if small else percent(share)}"


class _EffectRow(NamedTuple):
    """The prediction at a position, without and with the interventions. `p_after` is the probability, with
    interventions, of the token predicted without interventions."""

    before: Prediction
    after: Prediction
    p_after: float | None
    kl: float | None

    @property
    def probabilities(self) -> tuple[float | None, float | None]:
        """P(target) without and with interventions, or P of `before.predicted` if there is no target."""
        if self.before.target is not None and self.after.target is not None:
            return self.before.target.p, self.after.target.p
        return self.before.predicted.p if self.before.predicted else None, self.p_after

    @property
    def gain(self) -> float | None:
        """The change of P that the interventions cause."""
        before, after = self.probabilities
        return None if before is None or after is None else after - before


def before_and_after_section(
    intervened: Intervened, after: tuple[Prediction, ...], loss: float | None
) -> list[Section]:
    """Return a table of the predictions without and with the interventions, and the mean loss and KL."""
    rows = list(map(_EffectRow, intervened.before, after, intervened.p_after, intervened.kl))
    columns = [
        *fields(str, {"pos": "after.position"}),
        Column("seen", lambda r: token_label(r.after.seen) if r.after.seen else "BOS"),
        Column("target", _target),
        Column("predicted", _predicted),
        Column("P(target)", lambda r: _arrow(*map(_p, r.probabilities)), right=True),
        *fields(lambda gain: "" if gain is None else signed(gain, 3), {"change": "gain"}, style=_gained),
        Column("loss", lambda r: _arrow(*(figure(p.loss) if p.target else "" for p in r[:2])), right=True),
        *fields(four_decimals, {"KL": "kl"}),
    ]
    aside = "without and with the interventions; KL(before, after) in nats"
    means = _means(intervened, rows, loss)
    return table_section("Before and after", columns, rows, aside=aside, more=means)


def _means(intervened: Intervened, rows: Sequence[_EffectRow], loss: float | None) -> Iterator[Words]:
    if any(row.before.target is None for row in rows):
        yield words("if there is no target, P belongs to the (token) predicted without interventions", "dim")
    mean = mean_of(intervened.kl)
    means = [] if mean is None else [f"mean KL {four_decimals(mean)}"]
    if loss is not None and intervened.loss_before is not None:
        gap = loss - intervened.loss_before
        means.insert(0, f"mean loss {intervened.loss_before:.4f} → {loss:.4f} ({gap:+.4f})")
    if means:
        yield words(", ".join(means))


def _target(row: _EffectRow) -> str:
    target = row.before.target
    return f"({_label(row.before.predicted)})" if target is None else _label(target)


def _predicted(row: _EffectRow) -> str:
    before, now = _label(row.before.predicted), _label(row.after.predicted)
    return before if before == now else f"{before} → {now}"


def _arrow(before: str, after: str) -> str:
    return f"{before} → {after}" if before or after else ""


def _label(candidate: Candidate | None) -> str:
    return "–" if candidate is None else token_label(candidate.label)


def _p(p: float | None) -> str:
    return "" if p is None else three_decimals(p)


def _gained(row: _EffectRow) -> str:
    return "green" if (row.gain or 0.0) > 0 else "red" if row.gain else ""
