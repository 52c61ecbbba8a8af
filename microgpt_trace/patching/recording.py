"""One run of either family without anybody's hooks, of which some events are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..events import HookBus, Tap, TraceEvent
from ..model import Model
from ..stats import Array
from ..threads import one_blas_thread
from ..traces import TraceInput

if TYPE_CHECKING:
    from ..decoder import Decoder


def recorded(
    model: Model | Decoder, inputs: TraceInput, names: Sequence[str], row: int
) -> tuple[Array, dict[str, Array]]:
    """The logits [V] of the position `row`, and these events."""
    kept: dict[str, Array] = {}

    def keep(event: TraceEvent, value: Array) -> None:
        kept[event.name] = value.copy()

    bus = HookBus(list(model.hooks.specs.values()))
    tap = bus.begin(after=[bus.subscription(keep, *names)]).tap("forward")
    with one_blas_thread(), np.errstate(all="ignore"):
        if isinstance(model, Model):
            logits = _microgpt_logits(model, inputs, tap)[row]
        else:
            logits = _decoder_logits(model, inputs, tap, None if "logits" in names else row)
            logits = tap.emit("logits", logits)[row] if "logits" in names else logits[0]
    return logits, kept


def _microgpt_logits(model: Model, inputs: TraceInput, tap: Tap) -> Array:  # [T, V]
    from ..batch import Packer
    from ..microgpt import forward

    ids = np.array([*inputs.tokens, inputs.targets[-1]])
    return forward(model.params, Packer(model.config, model.params.dtype).one(ids), tap).logits


def _decoder_logits(model: Decoder, inputs: TraceInput, tap: Tap, row: int | None) -> Array:
    """[1, V] of one position, or [T, V] of all"""
    from ..llama import forward, head_forward

    final = forward(model, np.array(inputs.tokens), tap)
    return head_forward(model, final if row is None else final[[row]])
