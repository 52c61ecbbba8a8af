"""One run of either family without anybody's hooks, of which some events are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..hooks.bus import HookBus
from ..hooks.event import TraceEvent
from ..passes import logits_of
from ..running.inputs import TraceInput
from ..stats import Array
from ..threads import one_blas_thread

if TYPE_CHECKING:
    from ..decoder import Decoder
    from ..model import Model


def recorded(
    model: Model | Decoder, inputs: TraceInput, names: Sequence[str], row: int
) -> tuple[Array, dict[str, Array]]:
    """The logits [V] of the position `row`, and these events."""
    kept: dict[str, Array] = {}

    def keep(event: TraceEvent, value: Array) -> None:
        kept[event.name] = value.copy()

    bus = HookBus(list(model.hooks.specs.values()))
    tap = bus.begin(after=[bus.subscription(keep, *names)]).tap("forward")
    rows = range(len(inputs.tokens)) if "logits" in names else [row]
    with one_blas_thread(), np.errstate(all="ignore"):
        logits = logits_of(model, inputs, rows, tap)
    return logits[rows.index(row)], kept
