"""Read APRT directories, the tensor dumps of apr trace, with or without a manifest.

Stages of a layer are in `layer-N/STAGE.bin`, and stages of the whole model in `STAGE.bin`. A file consists of
the letters APRT, the layer as u32 (0xFFFFFFFF for the whole model), the number of elements as u32, and the
elements as float32. Integers and floats are little-endian. Our manifest.json adds the shapes, tokens and
positions. As in apr, the embedding is in layer-0, and lm_head contains only the row of the last position.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..decoder.catalogue import turned_names
from ..errors import FileFormatError
from ..hooks.names import ALIASES
from ..naming.user_map import LAST, OWN
from ..plans.plan import kind_of
from ..text.brief import brief
from ..text.wording import abridged
from ..untrusted_files import check_regular, list_at, read_json, readable, reading, sentences, whole_numbers
from .layouts import Leftover, Recorded
from .recording import Recording

KIND = "APRT dumps"
MANIFEST, MANIFEST_FORMAT = "manifest.json", "microgpt.aprt/1"
MAGIC, HEADER, WHOLE_MODEL = b"APRT", struct.Struct("<4sII"), 0xFFFFFFFF
_LAYER, _A_LAYER = re.compile(r"layer-(0|[1-9][0-9]{0,8})"), re.compile(r"layer[0-9]+\.")


def events_of(stage: str, layer: int | None) -> tuple[str, ...]:
    """Return the events in the file of a stage. The layer is None for stages of the whole model.

    A file may contain the columns of several events. For "embedding", the result contains two events: the
    embeddings of a decoder and of a microGPT. Returns () if no event belongs to this stage and layer.
    """
    globs = ALIASES.get("qkv_matmul" if stage == "qkv_bias" else stage, ())  # our qkv includes biases
    if stage == "embedding":
        return globs if layer == 0 else ()
    if any(glob.startswith("layer*") == (layer is None) for glob in globs):
        return ()
    return tuple(glob.replace("*", str(layer)) for glob in globs)


def is_aprt(folder: Path) -> bool:
    """Return True if a .bin file in the folder begins with APRT. Raises FileFormatError."""
    with reading(folder):
        return any(_head(path)[:4] == MAGIC for path in _bin_files(folder) if path.is_file())


def open_aprt(folder: Path) -> Recording:
    """Open the dumps in a folder without reading their elements. Raises FileFormatError."""
    with reading(folder):
        files = {path.relative_to(folder).as_posix(): _stored(path, folder) for path in _bin_files(folder)}
    if not files:
        raise FileFormatError(f"{folder}: expected APRT dumps (layer-N/STAGE.bin), found none")
    manifest = _manifest(folder / MANIFEST)
    return _without_manifest(folder, files) if manifest is None else _with_manifest(folder, files, manifest)


def _stage_of(file: str) -> tuple[str, int | None]:
    """Return the stage and the layer of a file, such as ("ffn_up", 3) for "layer-3/ffn_up.bin"."""
    layer, _, name = file.rpartition("/")
    return name.removesuffix(".bin"), int(layer.removeprefix("layer-")) if layer else None


def _in_order(file: str) -> tuple[bool, int, int]:
    """Return a sort key for files: by layer, and by apr's order of stages. Files without a layer are last."""
    stage, layer = _stage_of(file)
    return layer is None, layer or 0, [*ALIASES].index(stage) if stage in ALIASES else len(ALIASES)


def _bin_files(folder: Path) -> list[Path]:
    return sorted((*folder.glob("*.bin"), *folder.glob("layer-*/*.bin")))


def _head(path: Path) -> bytes:
    with reading(path), path.open("rb") as file:
        return file.read(HEADER.size)


def _stored(path: Path, folder: Path) -> Recorded:
    """Return the tensor in a file. Raises FileFormatError if the header contradicts the path or size."""
    layer = None
    if path.parent != folder:
        match = _LAYER.fullmatch(path.parent.name)
        if match is None:
            raise FileFormatError(f"{folder}: expected layer-0, layer-1 ..., found {brief(path.parent.name)}")
        layer = int(match[1])
    size, head = check_regular(path, "a file of APRT"), _head(path)
    if len(head) < HEADER.size or head[:4] != MAGIC:
        raise FileFormatError(f"{path}: expected a header of 12 bytes that begins with APRT, found {head!r}")
    _, number, count = HEADER.unpack(head)
    if number != (WHOLE_MODEL if layer is None else layer):
        found = _place(None if number == WHOLE_MODEL else number)
        raise FileFormatError(f"{path}: expected a header of {_place(layer)}, found the header of {found}")
    expected = HEADER.size + 4 * count
    if size != expected:
        raise FileFormatError(f"{path}: expected {expected:,} bytes for {count:,} elements, found {size:,}")

    def read() -> Array:  # every bit is unchanged
        with reading(path):
            values = np.fromfile(path, "<f4", count, offset=HEADER.size)
        if values.size != count:
            raise FileFormatError(f"{path}: expected {count:,} elements, found {values.size:,}")
        return values.astype(np.float32, copy=False)

    return Recorded(readable(path.relative_to(folder).as_posix()), (count,), read)


def _without_manifest(folder: Path, files: Mapping[str, Recorded]) -> Recording:
    """Build the recording of a folder that apr wrote. The shapes and tokens are unknown."""
    tensors, leftovers = dict[str, Recorded](), list[Leftover]()
    biased = {layer for stage, layer in map(_stage_of, files) if stage == "qkv_bias"}
    for file in sorted(files, key=_in_order):
        stage, layer = _stage_of(file)
        events = events_of(stage, layer)[: 1 if stage == "embedding" else None]  # a decoder's embedding
        if stage == "qkv_matmul" and layer in biased:
            reason = "qkv_matmul lacks the biases; q, k and v are read from qkv_bias"
        elif not events:
            reason = _no_event(stage, layer)
        elif events[0] in tensors:
            reason = f"{events[0]} is read from {tensors[events[0]].source}"
        else:
            beside = events if len(events) > 1 else ()
            tensor = replace(files[file], layout=LAST if stage == "lm_head" else "", beside=beside)
            tensors |= {event: replace(tensor, adjacent=kind_of(event) in turned_names()) for event in events}
            continue
        leftovers.append(Leftover(files[file], reason))
    note = "q, k and v are read from qkv_matmul, which lacks the biases if the model has any"
    unbiased = {layer for stage, layer in map(_stage_of, files) if stage == "qkv_matmul"} - biased
    notes = (note,) if unbiased else ()
    return Recording(str(folder), KIND, tensors, leftovers=tuple(leftovers), notes=notes)


def _no_event(stage: str, layer: int | None) -> str:
    """Return the reason why no event belongs to the file of this stage and layer."""
    if stage not in ALIASES:
        return "apr has no such stage"
    if not ALIASES[stage] and stage != "qkv_bias":
        return "none of our events corresponds to this stage"
    return f"the stage does not belong to {_place(layer)}"


def _place(layer: int | None) -> str:
    return "the whole model" if layer is None else f"layer {layer}"


def _manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest, or None if the manifest is missing or from another program."""
    if not path.exists():
        return None
    manifest = read_json(path)
    schema = manifest.get("schema")
    if schema != MANIFEST_FORMAT and isinstance(schema, str) and schema.startswith("microgpt.aprt/"):
        raise FileFormatError(f"{path}: expected the schema {MANIFEST_FORMAT}, found {brief(schema)}")
    return manifest if schema == MANIFEST_FORMAT else None


def _with_manifest(folder: Path, files: Mapping[str, Recorded], manifest: Mapping[str, Any]) -> Recording:
    """Build the recording of a folder that we wrote. Raises FileFormatError if the manifest is wrong."""
    path = folder / MANIFEST
    tokens = whole_numbers(f"{path}: tokens", manifest.get("tokens"), some=True)
    entries = _entries(path, manifest)
    for file in sorted(entries.keys() - files.keys()):
        raise FileFormatError(f"{folder}: {brief(file)} is missing, but {MANIFEST} lists it")
    tensors, leftovers = dict[str, Recorded](), list[Leftover]()
    for file in sorted(files, key=_in_order):
        if file not in entries:
            leftovers.append(Leftover(files[file], f"{MANIFEST} does not list it"))
            continue
        recorded = _check_entry(path, file, files[file], entries[file], len(tokens))
        for event in entries[file]["events"]:
            if event in tensors:
                raise FileFormatError(f"{path}: {event} is both in {tensors[event].source} and in {file}")
            tensors[event] = recorded
    positions = (len(tokens) - 1,) if "logits" in tensors else None
    notes = _notes_of(path, manifest)
    return Recording(str(folder), KIND, tensors, tokens, positions, leftovers=tuple(leftovers), notes=notes)


def _notes_of(path: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the notes of the manifest, and a note for each reason for leaving arrays out."""
    notes, reasons = sentences(f"{path}: notes", manifest.get("notes", [])), dict[str, dict[str, None]]()
    for array in list_at(path, {"left_out": [], **manifest}, "left_out"):
        name, reason = (array.get("name"), array.get("reason")) if isinstance(array, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(reason, str):
            raise FileFormatError(f"{path}: left_out: expected names and reasons, found {brief(array)}")
        reasons.setdefault(reason, {})[_A_LAYER.sub("layer*.", name)] = None
    lines = (f"left out: {abridged([*names])}: {reason}" for reason, names in reasons.items())
    return (*notes, *map(readable, lines))


def _entries(path: Path, manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    entries: dict[str, Mapping[str, Any]] = {}
    for entry in list_at(path, manifest, "files"):
        file = entry.get("file") if isinstance(entry, dict) else None
        if not isinstance(file, str) or file in entries:
            raise FileFormatError(f"{path}: files: expected one entry for each file, found {brief(entry)}")
        entries[file] = entry
    return entries


def _check_entry(path: Path, file: str, stored: Recorded, entry: Mapping[str, Any], length: int) -> Recorded:
    """Return the tensor of an entry. Raises FileFormatError unless the entry fits the file and the tokens."""

    def fail(key: str, expected: object) -> FileFormatError:
        return FileFormatError(f"{path}: {file}: {key}: expected {expected}, found {brief(entry.get(key))}")

    stage, layer = _stage_of(file)
    rows = [length - 1] if stage == "lm_head" else None
    for key, expected in (("stage", stage), ("layer", layer), ("dtype", "float32")):
        if entry.get(key) != expected:
            raise fail(key, expected)
    possible, events = events_of(stage, layer), entry.get("events")
    choices = [[event] for event in possible] if stage == "embedding" else [list(possible)]
    if not possible or events not in choices:
        raise fail("events", " or ".join(", ".join(choice) for choice in choices) or "none of our events")
    shape = whole_numbers(f"{path}: {file}: shape", entry.get("shape"), some=True)
    if math.prod(shape) != stored.shape[0]:
        raise fail("shape", f"the {stored.shape[0]:,} elements of the file")
    if entry.get("positions") != rows:
        raise fail("positions", rows or "null, which means all positions")
    return replace(
        stored, shape=shape, read=lambda: stored.read().reshape(shape), layout=LAST if rows else OWN,
        beside=tuple(events) if len(events) > 1 else (),
    )  # fmt: skip
