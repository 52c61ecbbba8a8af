"""The view of a comparison's page: all events, and the values of both sides for the most important events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...arrays.stats import Array
from ...comparison.comparers import KeptPair
from ...comparison.differences import Comparison
from ...decoder.catalogue import kind_named, known_row
from ...plans.kinds import Probabilities, Softmax
from ...text.printable import shown_token
from .page_recorder import AROUND, BUDGET
from .page_view import PageView

PER_NUMBER = 4.6  # characters that a number takes in a page
ROOM = int((BUDGET * 1e6 - AROUND) / PER_NUMBER)  # numbers of both sides that a page can contain
FIELDS = (  # the fields of an event that the script reads
    "name", "expr", "shape", "holds", "comparable", "relative", "tolerance", "measured", "index",
)  # fmt: skip
WIDEST = 16384  # largest number of columns that every browser can draw


def diff_view(
    result: Comparison, kept: Mapping[str, KeptPair], inputs_of: Callable[[str], Sequence[str]]
) -> PageView:
    """Return the view of a comparison. The view contains as many values of `kept` as fit into a page."""
    pairs = dict(_chosen(result, kept, inputs_of))
    content = {
        "sides": [result.a.origin, result.b.origin],
        "first": result.first,
        "labels": [shown_token(label) for label in result.labels] or list(map(str, result.tokens or ())),
        "events": [{name: getattr(event, name) for name in FIELDS} for event in result.events],
        "held": {name: _description(name, pair) for name, pair in pairs.items()},
        "ofStatistics": result.of_statistics,
    }
    arrays: dict[str, Array] = {}
    for name, pair in pairs.items():
        arrays |= {f"a {name}": pair.a, f"b {name}": pair.b}
    names = [event.name for event in result.events]
    return PageView(script="diff_view", content=content, arrays=arrays, names=names, before=3)


def _chosen(
    result: Comparison, kept: Mapping[str, KeptPair], inputs_of: Callable[[str], Sequence[str]]
) -> Iterator[tuple[str, KeptPair]]:
    """Choose the events whose values a page contains: the first event beyond its band, this event's inputs
    and layer, then the events farthest beyond their bands. If an event has too many values, the page contains
    only the position or head with the first row beyond the band, or else with the worst row."""
    events, first, room = {event.name: event for event in result.events}, list[str](), ROOM
    if result.first is not None:
        layer = [event.name for event in result.events if event.layer == events[result.first].layer]
        first = [result.first, *inputs_of(result.first), *layer]
    ranked = sorted(events.values(), key=lambda event: (event.holds, -event.excess))
    for name in dict.fromkeys([*first, *(event.name for event in ranked)]):
        pair = kept.get(name)
        if pair is None or name not in events or (pair.a.ndim and pair.a.shape[-1] > WIDEST):
            continue
        if pair.size > room:
            pair = pair.narrowed(events[name])
        if pair.size <= room:
            room -= pair.size
            yield name, pair


def _description(name: str, pair: KeptPair) -> dict[str, Any]:
    row, sides = known_row(name), (pair.a, pair.b)
    return {
        "shape": pair.a.shape,
        "positions": pair.positions,
        "heads": pair.heads,
        "causal": row is not None and row.causal,
        "share": isinstance(kind_named(name), Softmax | Probabilities),
        "rounded": not all(np.array_equal(side, side.astype(np.float32), equal_nan=True) for side in sides),
    }
