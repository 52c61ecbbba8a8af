"""The rules that find anomalies in a decoder's trace.

Each rule compares a value with a threshold. The threshold follows from an invariant of the architecture, or
from the other layers of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, takewhile

from ..arrays.stats import median
from ..decoder.catalogue import kind_named
from ..hooks.event import TraceEvent
from ..measuring.norm_meter import NormRows
from ..plans.kinds import Choice, Routing, Softmax
from ..plans.plan import layer_of
from ..rounding.invariants import OF_NORMS
from ..text.brief import one_line
from ..text.frozen import frozen
from ..text.wording import abridged, counted
from .findings import FEWEST_TOKENS, TOO_FEW, Anomaly
from .result import Compared, LayerRow

FEWEST_LAYERS = 4  # fewest layers between the first and the last layer for a comparison of layers
FAR = 6.0  # a layer is odd if its distance from the trend exceeds this many spreads
CLOSE = 0.25  # lower limit of the spread, computed from natural logarithms of the layers' values
CLOSE_AT_ENDS = 0.55  # CLOSE for the first and last layer, which differ from others even in sound models


@dataclass(repr=False)
class Steps:
    """The number of events of a continuation, and the events with values that are not finite."""

    count: int = 0
    broken: list[TraceEvent] = field(default_factory=list)

    def add(self, events: Sequence[TraceEvent]) -> None:
        self.count += len(events)
        self.broken += [e for e in events if e.stats is not None and e.stats.nonfinite_count]

    __repr__ = one_line


def anomalies_of(
    events: Sequence[TraceEvent], steps: Steps, changed: Collection[str], layers: Sequence[LayerRow],
    norms: NormRows, activation: str = "SiLU",
) -> Iterable[Anomaly]:  # fmt: skip
    """Evaluate every rule on the events and layers of a prompt, and on the steps of its continuation.
    `changed` names the events that interventions changed. The rules that judge single events skip the changed
    events. `activation` is the name of the MLP's activation function."""
    own = [event for event in events if event.name not in changed]
    left_out = len(events) - len(own)
    unseen = f"{counted(left_out, 'event')} that an intervention changed" if left_out else ""
    broken = [*own, *(event for event in steps.broken if event.name not in changed)]
    counts = [(event.name, event.stats.nonfinite_count) for event in broken if event.stats is not None]
    yield nonfinite(counts, len(own) + steps.count, unseen)
    yield _constant(own, ", ".join(filter(None, [unseen, "steps of the continuation" * bool(steps.count)])))
    yield _norms(norms)
    for rule in _LAYER_RULES:
        yield _odd_layer(replace(rule, title=rule.title.format(activation)), layers)


def nonfinite(counts: Sequence[tuple[str, int]], events: int, unseen: str = "") -> Anomaly:
    """Count the values that are not finite. `counts` maps the name of each event to the number of its values
    that are not finite. `events` is the number of judged events."""
    bad = [name for name, count in counts if count]
    first, layer = (f"first in {bad[0]}", layer_of(bad[0])) if bad else ("", None)
    total = float(sum(count for _, count in counts))
    title, seen = "values that are not finite", f"{events:,} events"
    return Anomaly("nonfinite", title, bool(bad), total, 0.0, "invariant", first, seen, unseen, layer)


def _constant(events: Sequence[TraceEvent], unseen: str) -> Anomaly:
    measured = [(e, e.stats) for e in events if e.stats is not None]
    several = [(e.name, own) for e, own in measured if own.count > 1 and can_vary(e.name, e.shape[-1])]
    flat = [name for name, own in several if own.std == 0]
    return constant(flat, len(several), unseen)


def can_vary(name: str, width: int) -> bool:
    """Return False for the weight of a single key, and for the number or the share of a single expert."""
    return width > 1 or not isinstance(kind_named(name), Softmax | Choice | Routing)


def constant(flat: Sequence[str], events: int, unseen: str = "") -> Anomaly:
    """Report the events in `flat`, whose values are all the same. `events` is the number of judged events."""
    title, seen = "tensors of one repeated value", f"{events:,} events of several values"
    layer, count = layer_of(flat[0]) if flat else None, float(len(flat))
    detail = abridged(flat)
    return Anomaly("constant", title, bool(flat), count, 0.0, "invariant", detail, seen, unseen, layer)


def _norms(norms: NormRows) -> Anomaly:
    identifier = norms.of.partition(" ")[0].lower()
    title = f"{norms.of} rows whose RMS is not 1, with the {norms.undone}"
    if not norms.off:
        return Anomaly(identifier, title, None, None, OF_NORMS, "invariant", "no norm has a gain")
    name, off = norms.worst, norms.off[norms.worst]
    if not math.isfinite(off):
        reason = f"{name} or its input is not finite, or is too large to be squared"
        return Anomaly(identifier, title, None, None, OF_NORMS, "invariant", reason)
    odd, seen, layer = off > OF_NORMS, f"{len(norms.off)} norms", layer_of(name)
    return Anomaly(identifier, title, odd, off, OF_NORMS, "invariant", name, seen, layer=layer)


@frozen
class LayerRule:
    """A rule that compares one number of every layer."""

    id: str
    title: str
    measure: Callable[[Compared], float]
    first: str = ""  # the reason to leave out the first layer, or ""
    close: float = CLOSE


_FIRST_LAYER = "its input is the embedding, which may differ in size from the later stream"
GROWTH = LayerRule(
    "growth", "a layer that scales the stream unlike other layers", lambda layer: layer.growth, _FIRST_LAYER
)
TURN = LayerRule("turn", "a layer that turns the stream unlike other layers", lambda layer: 1 + layer.turn)
_LAYER_RULES = (
    GROWTH,
    LayerRule(
        "attention-write", "attention outputs of unusual size in a layer",
        lambda layer: layer.attention, _FIRST_LAYER, close=0.35,  # wider: attention outputs vary with texts
    ),
    LayerRule("mlp-write", "MLP outputs of unusual size in a layer", lambda layer: layer.mlp),
    LayerRule("silence", "an unusual share of {} outputs near zero in a layer", lambda layer: layer.passing),
    TURN,
)  # fmt: skip


def _odd_layer(rule: LayerRule, layers: Sequence[LayerRow]) -> Anomaly:
    """Evaluate a rule on the first layers of a trace, until a layer has too few positions to compare."""
    comparable = list(takewhile(lambda row: row.compared and row.compared.positions >= FEWEST_TOKENS, layers))
    judged = comparable[1:] if rule.first else comparable
    compared = [row.compared for row in judged if row.compared is not None]
    values = [rule.measure(layer) for layer in compared]
    reason = _not_judged(layers, len(comparable), values)
    if reason:
        return Anomaly(rule.id, rule.title, None, None, FAR, "other layers", reason)
    where = f" at {compared[0].positions} positions"
    unseen = f"layers from {len(comparable)} on: {TOO_FEW}" if len(comparable) < len(layers) else ""
    return odd_layer(rule, values, len(layers), where, unseen)


def odd_layer(rule: LayerRule, values: Sequence[float], layers: int, where: str, unseen: str = "") -> Anomaly:
    """Judge the layer whose value, on a logarithmic scale, is farthest from the trend of all layers. The
    distance is in units of the layers' spread, which is the median absolute deviation times 1.4826. `values`
    has a number for each layer that the rule judges, and `layers` is the number of all layers. `where`
    describes the measured values, and `unseen` describes the values that were left out."""
    first = int(bool(rule.first))
    logs = [math.log(max(v, 1e-12)) for v in values]
    usual = trend(logs)
    off = [abs(v - u) for v, u in zip(logs, usual, strict=True)]
    spread = 1.4826 * median(off)
    far = [distance / max(spread, CLOSE_AT_ENDS if layer in (0, layers - 1) else rule.close)
           for layer, distance in enumerate(off, first)]  # fmt: skip
    worst = max(range(len(far)), key=far.__getitem__)
    detail = f"layer {first + worst}: {values[worst]:.4g}, where the trend gives {math.exp(usual[worst]):.4g}"
    seen = f"layers {first} to {first + len(values) - 1}{where}"
    left_out = [*[f"layer 0: {rule.first}"] * first, *filter(None, [unseen])]
    return Anomaly(
        rule.id, rule.title, far[worst] > FAR, far[worst], FAR, "other layers", detail, seen,
        "; ".join(left_out), first + worst,
    )  # fmt: skip


def _not_judged(layers: Sequence[LayerRow], comparable: int, values: Sequence[float]) -> str:
    """Return why a rule that compares layers cannot be evaluated, or an empty text."""
    if reason := too_few_layers(len(layers)):
        return reason
    if not comparable:
        count = layers[0].compared.positions if layers[0].compared else 0
        kind = "different tokens after position 0 without massive activations"
        return f"needs {FEWEST_TOKENS} {kind}, found {count}"
    if comparable < FEWEST_LAYERS + 2:
        return f"from layer {comparable} on, {TOO_FEW}"
    if all(math.isfinite(value) and value >= 0 for value in values):
        return ""
    bad = any(row.nan_count or row.inf_count for row in layers)
    return "a layer is not finite" if bad else "the stream of a layer is zero, or too large to be squared"


def too_few_layers(layers: int) -> str:
    """Return why a model has too few layers to compare, or an empty text."""
    inner = max(layers - 2, 0)
    reason = f"needs {FEWEST_LAYERS} layers between the first and the last, found {inner}"
    return reason if inner < FEWEST_LAYERS else ""


def trend(values: Sequence[float]) -> list[float]:
    """Fit a line to evenly spaced values, and return the points of the line. The slope is the median slope of
    all pairs, as in Sen, "Estimates of the regression coefficient based on Kendall's tau" (1968). A few
    outliers hardly change the line."""
    pairs = combinations(range(len(values)), 2)
    slope = median([(values[b] - values[a]) / (b - a) for a, b in pairs])
    middle = median([value - slope * i for i, value in enumerate(values)])
    return [middle + slope * i for i in range(len(values))]
