"""What interventions were made and what they did. Every figure comes from the Trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..effects import mean_of
from ..events import TraceEvent
from ..traces import Candidate, EventChange, Intervened, LayerRow, Prediction
from .layout import Column, print_table
from .screen import Screen, figure, probability

LEGEND = (
    "in the tables: * replaced by an intervention (a layer: inside it), → downstream of one, with |after − "
    "before| / |before|, before being the run without interventions"
)


def print_interventions(intervened: Intervened, screen: Screen) -> None:
    """What was changed, in the order in which it was."""
    columns = [
        Column("target", lambda a: a.target, whole=True),
        Column("becomes", lambda a: a.text, wrap=True),
        Column("events", lambda a: f"{len(a.events):,}", right=True),
        Column("elements", lambda a: f"{a.elements:,}", right=True),
    ]
    screen.say("\n[bold yellow]Interventions[/bold yellow]")
    print_table(columns, intervened.interventions, screen)
    screen.tell(LEGEND, "dim", indent=0)


def change_column(intervened: Intervened) -> Column:
    """How far each event lies from the run without interventions."""
    known = {change.name: change for change in intervened.changes}

    def cell(event: TraceEvent) -> str:
        return _change(known.get(event.name)) if event.phase == "forward" else ""

    return Column("change", cell, right=True, style=lambda event: _style(known.get(event.name)))


def layer_change_column(intervened: Intervened) -> Column:
    """The same for what leaves a layer; a star where an intervention was inside it."""
    touched = {int(name[5:].partition(".")[0]) for a in intervened.interventions for name in a.events
               if name.startswith("layer")}  # fmt: skip

    def cell(row: LayerRow) -> str:
        change = intervened.change_of(f"layer{row.layer}.mlp.residual")
        text = _change(change)
        return text.replace("→", "*") if row.layer in touched else text

    return Column("change", cell, right=True)


def _change(change: EventChange | None) -> str:
    if change is None or (change.change == 0 and not change.replaced):
        return ""
    mark = "*" if change.replaced else "→"
    return f"{mark} {'–' if change.change is None else share(change.change)}"


def share(value: float) -> str:
    """A share in percent, a small one with an exponent."""
    return f"{value:.1%}" if value == 0 or value >= 5e-4 else f"{value:.0e}"


def _style(change: EventChange | None) -> str:
    return "" if change is None or change.change == 0 else "yellow" if change.replaced else "cyan"


def print_before_and_after(
    intervened: Intervened, after: tuple[Prediction, ...], loss: float | None, screen: Screen,
    label: Callable[[str], str] = str,
) -> None:  # fmt: skip
    """Every position's prediction without and with the interventions, then the means."""
    rows = list(zip(intervened.before, after, intervened.kl, strict=True))
    columns = [
        Column("pos", lambda r: str(r[1].position), right=True),
        Column("seen", lambda r: label(r[1].seen) or "BOS"),
        Column("target", lambda r: label(r[1].target.label) if r[1].target else ""),
        Column("predicted", lambda r: _arrow(*(_label(p.predicted, label) for p in r[:2]))),
        Column("P(target)", lambda r: _arrow(*(_p(p.target) for p in r[:2])), right=True),
        Column("change", _gain, right=True, style=_gained),
        Column("loss", lambda r: _arrow(*(_loss(p) for p in r[:2])), right=True),
        Column("KL", lambda r: "–" if r[2] is None else kl(r[2]), right=True),
    ]
    screen.say(
        "\n[bold cyan]Before and after[/bold cyan] [dim]without and with the interventions; KL(before, "
        "after) in nats[/dim]"
    )
    print_table(columns, rows, screen)
    mean = mean_of(intervened.kl)
    said = [] if mean is None else [f"mean KL {kl(mean)}"]
    if loss is not None and intervened.loss_before is not None:
        gap = loss - intervened.loss_before
        said.insert(0, f"mean loss {intervened.loss_before:.4f} → {loss:.4f} ({gap:+.4f})")
    screen.say(", ".join(said))


def kl(value: float) -> str:
    """A divergence with four decimals; a small one with an exponent."""
    return f"{value:.4f}" if value == 0 or value >= 5e-5 else f"{value:.0e}"


def _arrow(before: str, after: str) -> str:
    return f"{before} → {after}" if before or after else ""


def _label(candidate: Candidate | None, label: Callable[[str], str]) -> str:
    return "–" if candidate is None else label(candidate.label)


def _p(candidate: Candidate | None) -> str:
    return "" if candidate is None else probability(candidate.p, 3)


def _loss(prediction: Prediction) -> str:
    return "" if prediction.target is None else figure(prediction.loss)


def _gain(row: Any) -> str:
    before, after = row[0].target, row[1].target
    if before is None or after is None:
        return ""
    gap = after.p - before.p
    return f"{gap:+.3f}" if gap == 0 or abs(gap) >= 5e-4 else f"{gap:+.0e}"


def _gained(row: Any) -> str:
    before, after = row[0].target, row[1].target
    if before is None or after is None or before.p == after.p:
        return ""
    return "green" if after.p > before.p else "red"
