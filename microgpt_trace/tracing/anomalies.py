"""Rules that find what is odd in a decoder's trace, each with its value, threshold and where that
comes from: an invariant of the architecture, or this model's own other layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, takewhile

from ..architecture.plans.catalogue import kind_named
from ..architecture.plans.kinds import Softmax
from ..architecture.plans.plan import layer_of
from ..arrays.stats import median
from ..hooks.event import TraceEvent
from ..measuring.norms import NormRows
from ..rounding.invariants import OF_NORMS
from ..text.brief import one_line
from ..text.wording import counted
from .findings import FEWEST_TOKENS, TOO_FEW, Anomaly
from .result import Compared, LayerRow

FEWEST_LAYERS = 4  # below, there are no "other layers" to speak of
FAR = 6.0  # times the layers' own spread
CLOSE = 0.25  # a spread (of natural logarithms) below this counts as this much
CLOSE_AT_ENDS = 0.55  # the same for the first and the last layer, which differ in sound models too


@dataclass(repr=False)
class Steps:
    """Those of a continuation: how many events they had, and which of these are not finite."""

    count: int = 0
    broken: list[TraceEvent] = field(default_factory=list)

    def add(self, events: Sequence[TraceEvent]) -> None:
        self.count += len(events)
        self.broken += [e for e in events if e.stats is not None and e.stats.nonfinite_count]

    __repr__ = one_line


def anomalies_of(
    events: Sequence[TraceEvent], steps: Steps, put: Collection[str], layers: Sequence[LayerRow],
    norms: NormRows, activation: str = "SiLU",
) -> Iterable[Anomaly]:  # fmt: skip
    """Evaluate every rule on the events and layers of a prompt, and on the steps that continue it.

    `put` are the events that interventions changed: what they put there is no anomaly of the model.
    `activation` is the name of the MLP's function.
    """
    own = [event for event in events if event.name not in put]
    left = len(events) - len(own)
    unseen = f"{counted(left, 'event')} that an intervention changed" if left else ""
    broken = [*own, *(event for event in steps.broken if event.name not in put)]
    counts = [(event.name, event.stats.nonfinite_count) for event in broken if event.stats is not None]
    yield nonfinite(counts, len(own) + steps.count, unseen)
    yield _constant(own, ", ".join(filter(None, [unseen, "steps of the continuation" * bool(steps.count)])))
    yield _norms(norms)
    for rule in _LAYER_RULES:
        yield _odd_layer(replace(rule, title=rule.title.format(activation)), layers)


def nonfinite(counts: Sequence[tuple[str, int]], events: int, unseen: str = "") -> Anomaly:
    """How many values of so many events are not finite, each with the event's name."""
    bad = [name for name, count in counts if count]
    first, layer = (f"first in {bad[0]}", layer_of(bad[0])) if bad else ("", None)
    found = float(sum(count for _, count in counts))
    title, seen = "values that are not finite", f"{events:,} events"
    return Anomaly("nonfinite", title, bool(bad), found, 0.0, "invariant", first, seen, unseen, layer)


def _constant(events: Sequence[TraceEvent], unseen: str) -> Anomaly:
    """A tensor of one repeated value carries nothing, unless it has but one, as a position's attention."""
    several = [e for e in events if e.stats is not None and e.stats.count > 1
               and not (isinstance(kind_named(e.name), Softmax) and e.shape[-1] == 1)]  # fmt: skip
    flat = [e.name for e in several if e.stats is not None and e.stats.std == 0]
    return constant(flat, len(several), unseen)


def constant(flat: Sequence[str], events: int, unseen: str = "") -> Anomaly:
    """Which of so many events have one value alone."""
    detail = ", ".join(flat[:3]) + (f" and {len(flat) - 3} more" if len(flat) > 3 else "")
    title, seen = "tensors of one repeated value", f"{events:,} events of several values"
    layer, count = layer_of(flat[0]) if flat else None, float(len(flat))
    return Anomaly("constant", title, bool(flat), count, 0.0, "invariant", detail, seen, unseen, layer)


def _norms(norms: NormRows) -> Anomaly:
    identifier, title = norms.of.lower(), f"{norms.of} rows, {norms.undone}, away from RMS 1"
    if not norms.off:
        return Anomaly(identifier, title, None, None, OF_NORMS, "invariant", "no norm has a gain")
    name, off = norms.worst, norms.off[norms.worst]
    if not math.isfinite(off):
        reason = f"{name}, or what went in, is not finite or too large to be squared"
        return Anomaly(identifier, title, None, None, OF_NORMS, "invariant", reason)
    found, seen, layer = off > OF_NORMS, f"{len(norms.off)} norms", layer_of(name)
    return Anomaly(identifier, title, found, off, OF_NORMS, "invariant", name, seen, layer=layer)


@dataclass(frozen=True, slots=True)
class LayerRule:
    """Of which number the layers are held against each other."""

    id: str
    title: str
    measure: Callable[[Compared], float]
    first: str = ""  # why the first layer is not like the others
    close: float = CLOSE


GROWTH = LayerRule(
    "growth", "a layer that scales the stream unlike the others", lambda layer: layer.growth,
    "it reads the embedding, of a size of its own",
)  # fmt: skip
TURN = LayerRule("turn", "a layer that turns the stream unlike the others", lambda layer: 1 + layer.turn)
_LAYER_RULES = (
    GROWTH,
    LayerRule(
        "attention-write", "attention that writes unlike the others", lambda layer: layer.attention,
        "it reads the embedding, of a size of its own", close=0.35,  # what it reads of varies with the text
    ),
    LayerRule("mlp-write", "an MLP that writes unlike the others", lambda layer: layer.mlp),
    LayerRule("silence", "{} outputs near zero unlike the others", lambda layer: layer.passing),
    TURN,
)  # fmt: skip


def _odd_layer(rule: LayerRule, layers: Sequence[LayerRow]) -> Anomaly:
    """Evaluate a rule on the layers of a trace, where enough of them have witnesses."""
    witnessed = list(takewhile(_has_witnesses, layers))
    judged = witnessed[1:] if rule.first else witnessed
    compared = [row.compared for row in judged if row.compared is not None]
    values = [rule.measure(layer) for layer in compared]
    reason = _not_judged(layers, len(witnessed), values)
    if reason:
        return Anomaly(rule.id, rule.title, None, None, FAR, "other layers", reason)
    where = f" at {compared[0].positions} positions"
    left = f"layers from {len(witnessed)} on: {TOO_FEW}" if len(witnessed) < len(layers) else ""
    return odd_layer(rule, values, len(layers), where, left)


def odd_layer(rule: LayerRule, values: Sequence[float], layers: int, where: str, unseen: str = "") -> Anomaly:
    """The layer whose logarithm lies farthest from the trend of all, in units of their spread, which is the
    median absolute deviation times 1.4826.

    `values` has a number for each layer that the rule judges, and the model has so many `layers`; `where` and
    `unseen` say what was measured and what was left out.
    """
    first = int(bool(rule.first))
    logs = [math.log(max(v, 1e-12)) for v in values]
    usual = trend(logs)
    off = [abs(v - u) for v, u in zip(logs, usual, strict=True)]
    spread = 1.4826 * median(off)
    far = [distance / max(spread, CLOSE_AT_ENDS if layer in (0, layers - 1) else rule.close)
           for layer, distance in enumerate(off, first)]  # fmt: skip
    worst = max(range(len(far)), key=far.__getitem__)
    detail = f"layer {first + worst}: {values[worst]:.4g}, by the trend {math.exp(usual[worst]):.4g}"
    seen = f"layers {first} to {first + len(values) - 1}{where}"
    left = [*[f"layer 0: {rule.first}"] * first, *filter(None, [unseen])]
    return Anomaly(
        rule.id, rule.title, far[worst] > FAR, far[worst], FAR, "other layers", detail, seen,
        "; ".join(left), first + worst,
    )  # fmt: skip


def _has_witnesses(row: LayerRow) -> bool:
    return row.compared is not None and row.compared.positions >= FEWEST_TOKENS


def _not_judged(layers: Sequence[LayerRow], witnessed: int, values: Sequence[float]) -> str:
    """Why a rule that holds layers against each other cannot be evaluated, if so."""
    if reason := too_few_layers(len(layers)):
        return reason
    if not witnessed:
        found = layers[0].compared.positions if layers[0].compared else 0
        kind = "different tokens after position 0 without massive activations"
        return f"needs {FEWEST_TOKENS} {kind}, found {found}"
    if witnessed < FEWEST_LAYERS + 2:
        return f"from layer {witnessed} on {TOO_FEW}"
    if all(math.isfinite(value) and value >= 0 for value in values):
        return ""
    bad = any(row.nan_count or row.inf_count for row in layers)
    return "a layer is not finite" if bad else "a layer's stream is zero, or too large to be squared"


def too_few_layers(layers: int) -> str:
    """Why a model of so many layers cannot be judged by its other layers, if so."""
    inner = max(layers - 2, 0)
    few = f"needs {FEWEST_LAYERS} layers between the first and the last, found {inner}"
    return few if inner < FEWEST_LAYERS else ""


def trend(values: Sequence[float]) -> list[float]:
    """The line through evenly spaced values that a few of them cannot move: the median slope of all
    pairs. Sen, "Estimates of the regression coefficient based on Kendall's tau" (1968)."""
    pairs = combinations(range(len(values)), 2)
    slope = median([(values[b] - values[a]) / (b - a) for a, b in pairs])
    middle = median([value - slope * i for i, value in enumerate(values)])
    return [middle + slope * i for i in range(len(values))]
