"""Write the arrays of a trace as an APRT directory: a file for each stage of apr trace, and our manifest.

See aprt.py for the format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..files import check_new_folder, write_folder
from ..hooks.names import ALIASES
from ..tracing.result import Trace
from .aprt import HEADER, MAGIC, MANIFEST, MANIFEST_FORMAT, WHOLE_MODEL, events_of

Arrays = Mapping[str, Array]  # by event
_BIASED = {"attn_bq", "attn_bk", "attn_bv"}


class StageFile(NamedTuple):
    """An entry of the manifest: one file."""

    file: str
    stage: str
    layer: int | None
    events: tuple[str, ...]
    shape: tuple[int, ...]
    positions: tuple[int, ...] | None = None  # the position of each row, or None for all positions
    dtype: str = "float32"


def write_aprt(trace: Trace, folder: Path) -> int:
    """Write the forward arrays of a trace as stages of apr, and return the number of .bin files.

    The manifest also lists the arrays that were left out. The folder is written completely or not at all.
    Raises InputError if the folder is not empty, or if the trace contains no array of a stage. Raises
    RunError if the system cannot write the folder.
    """
    arrays = {name: array for (phase, name), array in trace.arrays.items() if phase == "forward"}
    positions, last = [one.position for one in trace.predictions], len(trace.input.tokens) - 1
    if "logits" in arrays and last in positions:
        arrays["logits"] = arrays["logits"][[positions.index(last)]]  # as in apr
    entries, left_out = _plan_files(trace, arrays, last in positions)
    if not entries:
        raise InputError(f"{folder}: the trace has no array of a stage of apr; choose arrays with `values`")
    check_new_folder(folder)
    manifest = {
        "schema": MANIFEST_FORMAT,
        "text": trace.input.text,
        "tokens": [int(token) for token in trace.input.tokens],
        "positions": next((entry.positions for entry in entries if entry.stage == "lm_head"), None),
        "model": trace.model,
        "notes": list(_notes(arrays, entries)),
        "files": [entry._asdict() for entry in entries],
        "left_out": [{"name": name, "reason": reason} for name, reason in left_out.items()],
    }
    with write_folder(folder) as temporary:
        for entry in entries:
            path, layer = temporary / entry.file, WHOLE_MODEL if entry.layer is None else entry.layer
            path.parent.mkdir(exist_ok=True)
            array = np.concatenate([arrays[event] for event in entry.events], axis=-1)
            with np.errstate(all="ignore"):
                values = np.ascontiguousarray(array, "<f4")
            with path.open("xb") as file:
                file.write(HEADER.pack(MAGIC, layer, values.size))
                file.write(values.data)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return len(entries)


def _plan_files(trace: Trace, arrays: Arrays, has_last: bool) -> tuple[list[StageFile], dict[str, str]]:
    """Return the files to write, and the reason for each omitted array. `has_last` is True if the trace has
    the logits of the last position."""
    left_out = dict.fromkeys(arrays, "apr has no such stage")
    entries = []
    for stage, layer in _stages(trace):
        events = events_of(stage, layer)
        if stage == "embedding":
            events = tuple(event for event in events if event in trace.specs)[-1:]
        missing = [event for event in events if event not in arrays]
        if missing:
            reason = f"{stage} also needs {', '.join(missing)}"
            left_out |= {event: reason for event in events if event in arrays}
        elif stage == "lm_head" and not has_last:
            left_out["logits"] = "lm_head needs the logits of the last position"
        elif events:
            entries.append(_entry(stage, layer, events, trace, arrays))
            left_out = {name: reason for name, reason in left_out.items() if name not in events}
    others = [f"{phase}/{name}" for phase, name in trace.arrays if phase != "forward"]
    return entries, left_out | dict.fromkeys(others, "apr has only stages of the forward pass")


def _stages(trace: Trace) -> Iterator[tuple[str, int | None]]:
    """Yield the stages of apr layer by layer, then the stages of the whole model. Skip a stage if an earlier
    stage has the same events."""
    biased = _BIASED & {*trace.model["config"].get("biases", ())}
    stages = ["qkv_bias" if stage == "qkv_matmul" and biased else stage for stage in ALIASES]
    layers = sorted({spec.layer for spec in trace.specs.values() if spec.layer is not None})
    seen = set[tuple[str, ...]]()
    for layer in (*layers, None):
        for stage in dict.fromkeys(stages):
            events = events_of(stage, layer)
            if events and events not in seen:
                seen.add(events)
                yield stage, layer


def _entry(stage: str, layer: int | None, events: tuple[str, ...], trace: Trace, arrays: Arrays) -> StageFile:
    file = f"{stage}.bin" if layer is None else f"layer-{layer}/{stage}.bin"
    *leading, _ = arrays[events[0]].shape
    shape = (*leading, sum(arrays[event].shape[-1] for event in events))
    if math.prod(shape) > WHOLE_MODEL:
        raise InputError(f"{file}: expected at most {WHOLE_MODEL:,} elements, found {math.prod(shape):,}")
    positions = (len(trace.input.tokens) - 1,) if stage == "lm_head" else None
    return StageFile(file, stage, layer, events, shape, positions)


def _notes(arrays: Arrays, entries: Sequence[StageFile]) -> Iterator[str]:
    stages = {entry.stage for entry in entries}
    if "qkv_bias" in stages:
        yield (
            "q, k and v of this model include their biases, so they are written as qkv_bias. "
            "qkv_matmul, the product without the biases, is not written"
        )
    if "lm_head" in stages:
        yield "lm_head contains only the row of the last position, as in apr"
    rounded = {str(arrays[event].dtype) for entry in entries for event in entry.events} - {"float32"}
    if rounded:
        yield f"{', '.join(sorted(rounded))} was rounded to float32"
