"""One run of either family without anybody's hooks, of which some events are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.event import TraceEvent

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel, TraceInput


def recorded(
    model: LanguageModel, inputs: TraceInput, names: Sequence[str], row: int
) -> tuple[Array, dict[str, Array]]:
    """The logits [V] of the position `row`, and these events."""
    kept: dict[str, Array] = {}

    def keep(event: TraceEvent, value: Array) -> None:
        kept[event.name] = value.copy()

    bus = model.hooks.alone()
    tap = bus.begin(after=[bus.subscription(keep, *names)]).tap("forward")
    rows = range(len(inputs.tokens)) if "logits" in names else [row]
    with one_blas_thread(), np.errstate(all="ignore"):
        logits = model.logits(inputs, rows, tap)
    return logits[rows.index(row)], kept
