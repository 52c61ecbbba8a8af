"""What the page of a timeline shows beside its sections: what the log has of every traced step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...text.printable import shown_token
from ...timeline.curves import EventCurve, ParameterCurve, PositionCurve, Timeline
from .page_view import PageView

MOST_STEPS = 250  # traced ones that a page has: a log with more is thinned out
OF_EVENTS = {"L2": "l2", "gradient": "gradient"}
OF_PARAMETERS = {**OF_EVENTS, "update": "update", "update/weight": "update_ratio"}


def timeline_view(shown: Timeline) -> PageView:
    """Predictions, attention and norms by traced step, and the loss of every training step."""
    kept = _kept(len(shown.steps))
    content: dict[str, Any] = {
        "watched": shown.watched,
        "planned": shown.plan.steps,
        "steps": _at(shown.steps, kept),
        "traced": len(shown.steps),
        "positions": [_position(position, kept) for position in shown.positions],
        "attention": [{"name": layer.name, "weights": _at(layer.weights, kept)} for layer in shown.attention],
        "norms": [
            {"title": "events", "rows": [_norms(event, OF_EVENTS, kept) for event in shown.events]},
            {"title": "parameters", "rows": [_norms(own, OF_PARAMETERS, kept) for own in shown.parameters]},
        ],
        "dead": [
            {"layer": layer.layer, "units": layer.units, "count": _at(layer.dead_count, kept)}
            for layer in shown.layers
        ],
        "logged": shown.loss.steps,
    }
    arrays = {"loss": np.array(shown.loss.loss, np.float32)}
    return PageView(script="timeline_view", content=content, arrays=arrays, before=2)


def _kept(count: int) -> list[int]:
    """The places of the steps that the page has: all, or so many, the first and the last among them."""
    if count <= MOST_STEPS:
        return list(range(count))
    return [round(n * (count - 1) / (MOST_STEPS - 1)) for n in range(MOST_STEPS)]


def _at(curve: Sequence[Any], kept: Sequence[int]) -> list[Any]:
    return [curve[place] for place in kept]


def _position(found: PositionCurve, kept: Sequence[int]) -> dict[str, Any]:
    top = [
        None if tokens is None else [[shown_token(token.label), token.p] for token in tokens]
        for tokens in _at(found.top, kept)
    ]
    return {
        "position": found.position, "seen": shown_token(found.seen), "target": shown_token(found.target),
        "p": _at(found.p, kept), "loss": _at(found.loss, kept), "rank": _at(found.rank, kept), "top": top,
        "learned": found.learned,
    }  # fmt: skip


def _norms(found: EventCurve | ParameterCurve, of: Mapping[str, str], kept: Sequence[int]) -> dict[str, Any]:
    """The curves of an event or a parameter, by what they are called."""
    return {"name": found.name, "curves": {what: _at(getattr(found, own), kept) for what, own in of.items()}}
