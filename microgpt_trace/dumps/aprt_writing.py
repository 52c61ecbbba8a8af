"""Writing APRT directories: the arrays of a trace as the stages of apr trace, and a manifest of ours.

A file of APRT tells no shape, no tokens and no position; manifest.json does. The embedding lies in
layer-0, and lm_head is the row of the last position alone, as apr has them. Knows no model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..files import check_new_folder, write_folder
from ..hooks.names import ALIASES
from ..tracing.result import Trace
from .aprt import HEADER, MAGIC, MANIFEST, MANIFEST_FORMAT, WHOLE_MODEL, events_of

_BIASED = {"attn_bq", "attn_bk", "attn_bv"}


@dataclass(frozen=True, slots=True)
class StageFile:
    """A file of a dump as the manifest has it."""

    file: str
    stage: str
    layer: int | None
    events: tuple[str, ...]
    shape: tuple[int, ...]
    positions: tuple[int, ...] | None = None  # of its rows; None: all
    dtype: str = "float32"


def write_aprt(trace: Trace, folder: Path) -> int:
    """Write the forward arrays that a trace kept as stages of apr, and how many files that took.

    The manifest comes on top; it says what was left out. The folder must be new or empty, and is
    written whole or not at all. Raises InputError where it is not, and where the trace kept nothing
    to write; RunError where the disk does not let us.
    """
    kept = {name: array for (phase, name), array in trace.arrays.items() if phase == "forward"}
    entries, left_out = _planned(trace, kept)
    if not entries:
        raise InputError(f"{folder}: the trace kept no array of a stage of apr; ask for some by `values`")
    check_new_folder(folder)
    manifest = {
        "schema": MANIFEST_FORMAT,
        "text": trace.input.text,
        "tokens": [int(token) for token in trace.input.tokens],
        "positions": next((entry.positions for entry in entries if entry.stage == "lm_head"), None),
        "model": trace.model,
        "notes": list(_notes(trace, kept, entries)),
        "files": [asdict(entry) for entry in entries],
        "left_out": [{"name": name, "reason": reason} for name, reason in left_out.items()],
    }
    with write_folder(folder) as temporary:
        for entry in entries:
            _write_entry(temporary, entry, trace, kept)
        text = json.dumps(manifest, indent=1)
        (temporary / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return len(entries)


def _planned(trace: Trace, kept: Mapping[str, Array]) -> tuple[list[StageFile], dict[str, str]]:
    """The files to write, and the arrays that are in none of them, with the reason."""
    left_out = dict.fromkeys(kept, "apr has no such stage")
    entries = []
    for stage, layer in _places(trace):
        events = events_of(stage, layer)
        if stage == "embedding":
            events = tuple(event for event in events if event in trace.specs)[-1:]
        missing = [event for event in events if event not in kept]
        if missing:
            reason = f"{stage} is written together with {', '.join(missing)}"
            left_out |= {event: reason for event in events if event in kept}
        elif stage == "lm_head" and len(trace.input.tokens) - 1 not in _positions(trace):
            left_out["logits"] = "lm_head is the row of the last position, which has no logits"
        elif events:
            entries.append(_entry(stage, layer, events, trace, kept))
            left_out = {name: reason for name, reason in left_out.items() if name not in events}
    others = [f"{phase}/{name}" for phase, name in trace.arrays if phase != "forward"]
    return entries, left_out | dict.fromkeys(others, "apr has stages of the forward pass alone")


def _places(trace: Trace) -> Iterator[tuple[str, int | None]]:
    """Every stage and layer that apr has a file for, a layer after the other; one of those with the same
    events."""
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


def _entry(
    stage: str, layer: int | None, events: tuple[str, ...], trace: Trace, kept: Mapping[str, Array]
) -> StageFile:
    file = f"{stage}.bin" if layer is None else f"layer-{layer}/{stage}.bin"
    shape, positions = kept[events[0]].shape, None
    if len(events) > 1:
        shape = (*shape[:-1], sum(kept[event].shape[-1] for event in events))
    if stage == "lm_head":
        shape, positions = (1, *shape[1:]), (len(trace.input.tokens) - 1,)
    if math.prod(shape) > WHOLE_MODEL:
        raise InputError(f"{file}: {math.prod(shape):,} elements are more than APRT can count")
    return StageFile(file, stage, layer, events, shape, positions)


def _positions(trace: Trace) -> list[int]:
    """Those of the rows of logits."""
    return [prediction.position for prediction in trace.predictions]


def _notes(trace: Trace, kept: Mapping[str, Array], entries: Sequence[StageFile]) -> Iterator[str]:
    stages = {entry.stage for entry in entries}
    if "qkv_bias" in stages:
        yield (
            "q, k and v of this model are known after their biases only: they are written as qkv_bias, and "
            "qkv_matmul, which is before them, is left out"
        )
    if "lm_head" in stages:
        yield "lm_head holds the last position only, as apr has it"
    rounded = {str(kept[event].dtype) for entry in entries for event in entry.events} - {"float32"}
    if rounded:
        yield f"{', '.join(sorted(rounded))} was rounded to float32"


def _write_entry(folder: Path, entry: StageFile, trace: Trace, kept: Mapping[str, Array]) -> None:
    array = np.concatenate([kept[event] for event in entry.events], axis=-1)
    if entry.positions is not None:
        array = array[[_positions(trace).index(position) for position in entry.positions]]
    path = folder / entry.file
    path.parent.mkdir(exist_ok=True)
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(array, "<f4")
    with path.open("xb") as file:
        file.write(HEADER.pack(MAGIC, WHOLE_MODEL if entry.layer is None else entry.layer, values.size))
        file.write(values.data)
