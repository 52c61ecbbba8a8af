"""One forward pass over what was read, of either family. A decoder's is loaded only where one runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .batch import Batch, Packer
from .hooks.bus import SILENT, Tap
from .microgpt import forward
from .model import Model
from .stats import Array

if TYPE_CHECKING:
    from .decoder import Decoder
    from .running.inputs import TraceInput


def batch_of(model: Model, inputs: TraceInput) -> Batch:
    """The name that was read, with its targets."""
    ids = np.array([*inputs.tokens, inputs.targets[-1]])
    return Packer(model.config, model.params.dtype).one(ids)


def logits_of(model: Model | Decoder, inputs: TraceInput, rows: Sequence[int], tap: Tap = SILENT) -> Array:
    """The logits [n, V] of these positions, as used. A decoder computes and emits no others."""
    if isinstance(model, Model):
        return forward(model.params, batch_of(model, inputs), tap).logits[list(rows)]
    from . import llama  # 5 ms of what a microGPT needs not

    final = llama.forward(model, np.array(inputs.tokens), tap)
    return tap.emit("logits", llama.head_forward(model, final[list(rows)]))
