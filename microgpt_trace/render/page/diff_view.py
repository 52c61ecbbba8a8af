"""What the page of a comparison shows beside its sections: every event as a list, and of those that tell most
the values of both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...architecture.plans.catalogue import kind_named, known_row
from ...architecture.plans.kinds import Probabilities, Softmax
from ...arrays.stats import Array
from ...comparison.comparers import KeptPair
from ...comparison.differences import Comparison
from ...text.printable import shown_token
from .page_view import PageView
from .recorder import AROUND, BUDGET

PER_NUMBER = 4.6  # characters
ROOM = int((BUDGET * 1e6 - AROUND) / PER_NUMBER)  # numbers of both sides together
TOLD = (  # of an event
    "name", "layer", "expr", "shape", "holds", "told", "relative", "tolerance", "measured", "index",
)  # fmt: skip
WIDEST = 16384  # columns of a picture that every browser draws


def diff_view(
    result: Comparison, kept: Mapping[str, KeptPair], inputs_of: Callable[[str], Sequence[str]]
) -> PageView:
    """What was kept, as far as a page has room for it."""
    held = dict(_chosen(result, kept, inputs_of))
    content = {
        "sides": [result.a.origin, result.b.origin],
        "first": result.first,
        "labels": [shown_token(label) for label in result.labels] or list(map(str, result.tokens or ())),
        "events": [{name: getattr(event, name) for name in TOLD} for event in result.events],
        "held": {name: _held(name, pair) for name, pair in held.items()},
        "ofStatistics": result.of_statistics,
    }
    arrays: dict[str, Array] = {}
    for name, pair in held.items():
        arrays |= {f"a {name}": pair.a, f"b {name}": pair.b}
    names = [event.name for event in result.events]
    return PageView(script="diff_view", content=content, arrays=arrays, names=names, before=3)


def _chosen(
    result: Comparison, kept: Mapping[str, KeptPair], inputs_of: Callable[[str], Sequence[str]]
) -> Iterator[tuple[str, KeptPair]]:
    """The first event that parts and what it reads, its layer, then those farthest from their bands; what is
    too large at the position or the head where it parts alone."""
    known, wanted, left = {event.name: event for event in result.events}, list[str](), ROOM
    if result.first is not None:
        layer = known[result.first].layer
        near = [event.name for event in result.events if event.layer == layer]
        wanted = [result.first, *inputs_of(result.first), *near]
    ranked = sorted(known.values(), key=lambda event: (event.holds, -event.excess))
    for name in dict.fromkeys([*wanted, *(event.name for event in ranked)]):
        pair = kept.get(name)
        if pair is None or name not in known or (pair.a.ndim and pair.a.shape[-1] > WIDEST):
            continue
        whole = pair if pair.size <= left else pair.narrowed(known[name])
        if whole.size <= left:
            left -= whole.size
            yield name, whole


def _held(name: str, pair: KeptPair) -> dict[str, Any]:
    row = known_row(name)
    return {
        "shape": pair.a.shape,
        "positions": pair.positions,
        "heads": pair.heads,
        "causal": row is not None and row.causal,
        "share": isinstance(kind_named(name), Softmax | Probabilities),
        "rounded": any(
            not np.array_equal(values, values.astype(np.float32), equal_nan=True)
            for values in (pair.a, pair.b)
        ),
    }
