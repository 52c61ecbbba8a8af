"""The view of a timeline's page, which shows the values of a training log at each traced step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...text.printable import shown_token
from ...timeline.curves import PositionCurve, Timeline
from .page_view import PageView

MOST_STEPS = 250  # largest number of traced steps in a page, chosen with even spacing


def timeline_view(timeline: Timeline) -> PageView:
    """Return the view: predictions and attention at each traced step, and all logged losses."""
    steps = _chosen_steps(len(timeline.steps))
    content: dict[str, Any] = {
        "watched": timeline.watched,
        "planned": timeline.plan.steps,
        "steps": _at(timeline.steps, steps),
        "traced": len(timeline.steps),
        "positions": [_position(position, steps) for position in timeline.positions],
        "attention": [{"name": a.name, "weights": _at(a.weights, steps)} for a in timeline.attention],
        "dead": [
            {"layer": layer.layer, "units": layer.units, "count": _at(layer.dead_count, steps)}
            for layer in timeline.layers
        ],
        "logged": timeline.loss.steps,
    }
    arrays = {"loss": np.array(timeline.loss.loss, np.float32)}
    return PageView(script="timeline_view", content=content, arrays=arrays, before=2)


def _chosen_steps(count: int) -> list[int]:
    """Return the indices of at most MOST_STEPS of `count` traced steps, including the first and the last."""
    shown = min(count, MOST_STEPS)
    return [round(n * (count - 1) / max(shown - 1, 1)) for n in range(shown)]


def _at(curve: Sequence[Any], steps: Sequence[int]) -> list[Any]:
    return [curve[step] for step in steps]


def _position(curve: PositionCurve, steps: Sequence[int]) -> dict[str, Any]:
    top = [
        None if tokens is None else [[shown_token(token.label), token.p] for token in tokens]
        for tokens in _at(curve.top, steps)
    ]
    return {
        "seen": shown_token(curve.seen), "target": shown_token(curve.target),
        "p": _at(curve.p, steps), "rank": _at(curve.rank, steps), "top": top,
    }  # fmt: skip
