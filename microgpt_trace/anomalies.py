"""Rules that find what is odd in a decoder's trace, each with its value, threshold and where that
comes from: an invariant of the architecture, or this model's own other layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from .brief import one_line
from .events import TraceEvent
from .stats import median

if TYPE_CHECKING:
    from .traces import LayerRow

NORM_TOLERANCE = 1e-3
FEWEST_LAYERS = 4  # below, there are no "other layers" to speak of
FEWEST_POSITIONS = 4  # below, position 0 and its massive activations rule the medians
FAR = 6.0  # times the layers' own spread
CLOSE = 0.25  # a spread (of natural logarithms) below this counts as this much


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A rule and its outcome: `found` is None where it could not be evaluated, `detail` says why."""

    id: str
    title: str
    found: bool | None
    value: float | None
    threshold: float | None
    source: Literal["invariant", "other layers"]
    detail: str = ""

    __repr__ = one_line


def anomalies_of(
    events: Sequence[TraceEvent], layers: Sequence[LayerRow], norms: Mapping[str, float]
) -> Iterable[Anomaly]:
    """Evaluate every rule on the events and layers of a run."""
    yield _nonfinite(events)
    yield _constant(events)
    yield _norms(norms)
    positions = next((event.shape[0] for event in events if event.name == "embed.tok"), FEWEST_POSITIONS)
    for identifier, title, measure in _LAYER_RULES:
        yield _odd_layer(identifier, title, layers, positions, measure)


def _nonfinite(events: Sequence[TraceEvent]) -> Anomaly:
    bad = [e for e in events if e.stats is not None and e.stats.nonfinite_count]
    detail = f"first in {bad[0].name}" if bad else ""
    count = float(sum(e.stats.nonfinite_count for e in bad if e.stats is not None))
    return Anomaly("nonfinite", "values that are not finite", bool(bad), count, 0.0, "invariant", detail)


def _constant(events: Sequence[TraceEvent]) -> Anomaly:
    """A tensor of one repeated value carries nothing."""
    flat = [e.name for e in events if e.stats is not None and e.stats.std == 0 and e.stats.count > 1
            and not e.name.endswith("weights")]  # fmt: skip
    detail = ", ".join(flat[:3]) + (f" and {len(flat) - 3} more" if len(flat) > 3 else "")
    title = "tensors of one repeated value"
    return Anomaly("constant", title, bool(flat), float(len(flat)), 0.0, "invariant", detail)


def _norms(norms: Mapping[str, float]) -> Anomaly:
    title = "RMSNorm rows, gain divided out, away from RMS 1"
    bad = next((name for name, off in norms.items() if not math.isfinite(off)), None)
    if bad is not None:
        reason = f"{bad}, or what went in, is not finite or too large to be squared"
        return Anomaly("rmsnorm", title, None, None, NORM_TOLERANCE, "invariant", reason)
    name = max(norms, key=lambda n: norms[n])
    off = norms[name]
    return Anomaly("rmsnorm", title, off > NORM_TOLERANCE, off, NORM_TOLERANCE, "invariant", name)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


_LAYER_RULES: tuple[tuple[str, str, Callable[[LayerRow, LayerRow], float]], ...] = (
    (
        "growth",
        "a layer that scales the stream unlike the others",
        lambda a, b: _ratio(b.typical, a.typical),
    ),
    ("attention-write", "attention that writes unlike the others", lambda a, b: b.attention_typical),
    ("mlp-write", "an MLP that writes unlike the others", lambda a, b: b.mlp_typical),
    ("silence", "SiLU outputs near zero unlike the others", lambda a, b: 1 - b.near_zero),
    ("turn", "a layer that turns the stream unlike the others", lambda a, b: 1 + b.turn),
)


def _odd_layer(
    identifier: str, title: str, layers: Sequence[LayerRow], positions: int,
    measure: Callable[[LayerRow, LayerRow], float],
) -> Anomaly:  # fmt: skip
    """The layer whose logarithm lies farthest from the median of all, in units of their spread.

    First and last layer read the embedding and feed the head: they are unlike the others in sound
    models, and are not judged. The spread is the median absolute deviation times 1.4826.
    """

    def skipped(reason: str) -> Anomaly:
        return Anomaly(identifier, title, None, None, FAR, "other layers", reason)

    inner = list(pairwise(layers[:-1]))
    if positions < FEWEST_POSITIONS:
        return skipped(f"needs {FEWEST_POSITIONS} positions, found {positions}")
    if len(inner) < FEWEST_LAYERS:
        return skipped(f"needs {FEWEST_LAYERS} layers between the first and the last, found {len(inner)}")
    values = [measure(before, layer) for before, layer in inner]
    if not all(math.isfinite(v) and v >= 0 for v in values):
        bad = any(row.nan_count or row.inf_count for row in layers)
        return skipped("a layer is not finite" if bad else "a row of a layer's stream is zero")
    logs = [math.log(max(v, 1e-12)) for v in values]
    middle = median(logs)
    spread = max(1.4826 * median([abs(v - middle) for v in logs]), CLOSE)
    far = [abs(v - middle) / spread for v in logs]
    worst = max(range(len(far)), key=far.__getitem__)
    where = f"layer {inner[worst][1].layer}: {values[worst]:.4g}, median {math.exp(middle):.4g}"
    return Anomaly(identifier, title, far[worst] > FAR, far[worst], FAR, "other layers", where)
