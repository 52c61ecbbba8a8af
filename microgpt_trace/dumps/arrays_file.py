"""The arrays of a run as a safetensors file: names, text, tokens and positions travel along."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.stats import Array
from ..files import write_atomically

if TYPE_CHECKING:
    from ..tracing.result import Trace

ARRAYS_FORMAT = "microgpt.arrays/1"


def write_arrays(
    path: Path, arrays: Mapping[str, Array], *, text: str, tokens: Sequence[int], positions: Sequence[int],
    model: Any, notes: Sequence[str] = (), overwrite: bool = False,
) -> None:  # fmt: skip
    """Write arrays under their names. `positions` are those of the rows of logits and probs, `notes` are
    told by whoever reads the file.

    Raises RunError where the disk does not let us.
    """
    from safetensors.numpy import save as to_bytes

    metadata = {
        "format": ARRAYS_FORMAT,
        "text": text,
        "tokens": json.dumps([int(token) for token in tokens]),
        "positions": json.dumps([int(position) for position in positions]),
        "model": json.dumps(model),
        "notes": json.dumps(list(notes)),
    }
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # 0-d stays 0-d
    write_atomically(path, to_bytes(whole, metadata), overwrite)


def save_arrays(trace: Trace, path: Path, overwrite: bool = False) -> None:
    """Write the arrays of a trace's events: activations under their names, gradients and updates
    under `backward/name` and `update/name`."""
    arrays = {
        event.name if event.phase == "forward" else f"{event.phase}/{event.name}": trace.arrays[
            event.phase, event.name
        ]
        for event in trace
    }
    positions = [prediction.position for prediction in trace.predictions]
    changes = trace.intervened.interventions if trace.intervened else ()
    notes = [f"of a run with an intervention: {change.target} {change.text}" for change in changes]
    write_arrays(
        path, arrays, text=trace.input.text, tokens=trace.input.tokens, positions=positions,
        model=trace.model, notes=notes, overwrite=overwrite,
    )  # fmt: skip
