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
        self.broken += _broken(events)

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
    broken = [*_broken(own), *(e for e in steps.broken if e.name not in put)]
    yield _nonfinite(broken, len(own) + steps.count, unseen)
    yield _constant(own, ", ".join(filter(None, [unseen, "steps of the continuation" * bool(steps.count)])))
    yield _norms(norms)
    for rule in _LAYER_RULES:
        yield _odd_layer(replace(rule, title=rule.title.format(activation)), layers)


def _broken(events: Sequence[TraceEvent]) -> list[TraceEvent]:
    return [e for e in events if e.stats is not None and e.stats.nonfinite_count]


def _nonfinite(bad: Sequence[TraceEvent], count: int, unseen: str) -> Anomaly:
    first, layer = (f"first in {bad[0].name}", bad[0].layer) if bad else ("", None)
    found = float(sum(e.stats.nonfinite_count for e in bad if e.stats is not None))
    title, seen = "values that are not finite", f"{count:,} events"
    return Anomaly("nonfinite", title, bool(bad), found, 0.0, "invariant", first, seen, unseen, layer)


def _constant(events: Sequence[TraceEvent], unseen: str) -> Anomaly:
    """A tensor of one repeated value carries nothing, unless it has but one, as a position's attention."""
    several = [e for e in events if e.stats is not None and e.stats.count > 1
               and not (isinstance(kind_named(e.name), Softmax) and e.shape[-1] == 1)]  # fmt: skip
    constant = [e for e in several if e.stats is not None and e.stats.std == 0]
    layer, flat = constant[0].layer if constant else None, [e.name for e in constant]
    detail = ", ".join(flat[:3]) + (f" and {len(flat) - 3} more" if len(flat) > 3 else "")
    title, seen = "tensors of one repeated value", f"{len(several):,} events of several values"
    count = float(len(flat))
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
class _LayerRule:
    id: str
    title: str
    measure: Callable[[Compared], float]
    first: str = ""  # why the first layer is not like the others
    close: float = CLOSE


_LAYER_RULES = (
    _LayerRule(
        "growth", "a layer that scales the stream unlike the others", lambda layer: layer.growth,
        "it reads the embedding, of a size of its own",
    ),
    _LayerRule(
        "attention-write", "attention that writes unlike the others", lambda layer: layer.attention,
        "it reads the embedding, of a size of its own", close=0.35,  # what it reads of varies with the text
    ),
    _LayerRule("mlp-write", "an MLP that writes unlike the others", lambda layer: layer.mlp),
    _LayerRule("silence", "{} outputs near zero unlike the others", lambda layer: layer.passing),
    _LayerRule("turn", "a layer that turns the stream unlike the others", lambda layer: 1 + layer.turn),
)  # fmt: skip


def _odd_layer(rule: _LayerRule, layers: Sequence[LayerRow]) -> Anomaly:
    """The layer whose logarithm lies farthest from the trend of all, in units of their spread.

    The spread is the median absolute deviation times 1.4826.
    """
    witnessed = list(takewhile(_has_witnesses, layers))
    judged = witnessed[1:] if rule.first else witnessed
    compared = [row.compared for row in judged if row.compared is not None]
    values = [rule.measure(layer) for layer in compared]
    reason = _not_judged(layers, len(witnessed), values)
    if reason:
        return Anomaly(rule.id, rule.title, None, None, FAR, "other layers", reason)
    logs = [math.log(max(v, 1e-12)) for v in values]
    usual = trend(logs)
    off = [abs(v - u) for v, u in zip(logs, usual, strict=True)]
    spread = 1.4826 * median(off)
    ends = (0, len(layers) - 1)
    far = [distance / max(spread, CLOSE_AT_ENDS if row.layer in ends else rule.close)
           for row, distance in zip(judged, off, strict=True)]  # fmt: skip
    worst = max(range(len(far)), key=far.__getitem__)
    where = f"layer {judged[worst].layer}: {values[worst]:.4g}, by the trend {math.exp(usual[worst]):.4g}"
    seen = f"layers {judged[0].layer} to {judged[-1].layer} at {compared[0].positions} positions"
    unseen = [f"layer 0: {rule.first}"] * bool(rule.first)
    unseen += [f"layers from {len(witnessed)} on: {TOO_FEW}"] * (len(witnessed) < len(layers))
    return Anomaly(
        rule.id, rule.title, far[worst] > FAR, far[worst], FAR, "other layers", where, seen,
        "; ".join(unseen), judged[worst].layer,
    )  # fmt: skip


def _has_witnesses(row: LayerRow) -> bool:
    return row.compared is not None and row.compared.positions >= FEWEST_TOKENS


def _not_judged(layers: Sequence[LayerRow], witnessed: int, values: Sequence[float]) -> str:
    """Why a rule that holds layers against each other cannot be evaluated, if so."""
    inner, first = max(len(layers) - 2, 0), layers[0].compared
    if inner < FEWEST_LAYERS:
        return f"needs {FEWEST_LAYERS} layers between the first and the last, found {inner}"
    if not witnessed:
        return (
            f"needs {FEWEST_TOKENS} different tokens after position 0 without massive activations, found "
            f"{first.positions if first else 0}"
        )
    if witnessed < FEWEST_LAYERS + 2:
        return f"from layer {witnessed} on {TOO_FEW}"
    if all(math.isfinite(value) and value >= 0 for value in values):
        return ""
    bad = any(row.nan_count or row.inf_count for row in layers)
    return "a layer is not finite" if bad else "a layer's stream is zero, or too large to be squared"


def trend(values: Sequence[float]) -> list[float]:
    """The line through evenly spaced values that a few of them cannot move: the median slope of all
    pairs. Sen, "Estimates of the regression coefficient based on Kendall's tau" (1968)."""
    pairs = combinations(range(len(values)), 2)
    slope = median([(values[b] - values[a]) / (b - a) for a, b in pairs])
    middle = median([value - slope * i for i, value in enumerate(values)])
    return [middle + slope * i for i in range(len(values))]
