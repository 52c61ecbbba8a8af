"""APRT directories: the tensor dumps of apr trace, written with a manifest and read with or without one.

`layer-N/STAGE.bin` and, for the whole model, `STAGE.bin`: the letters APRT, the layer as u32 LE (all
ones: the whole model), the count of elements as u32 LE, then float32 LE. A file tells no shape, no
tokens and no position; our manifest.json does. The embedding lies in layer-0, and lm_head is the row
of the last position alone, as apr has them. Knows no model.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..architecture.plans.catalogue import turned_names
from ..architecture.plans.plan import kind_of
from ..arrays.stats import Array
from ..errors import FileFormatError
from ..hooks.names import ALIASES
from ..text.brief import brief
from ..text.wording import abridged
from ..untrusted_files import check_regular, read_json, reading
from .layouts import LAST, OWN, Leftover, Recorded, a_list, readable, sentences, whole_numbers
from .recording import Recording

KIND = "APRT dumps"
MANIFEST, MANIFEST_FORMAT = "manifest.json", "microgpt.aprt/1"
MAGIC, HEADER, WHOLE_MODEL = b"APRT", struct.Struct("<4sII"), 0xFFFFFFFF
_LAYER, _A_LAYER = re.compile(r"layer-(0|[1-9][0-9]{0,8})"), re.compile(r"layer[0-9]+\.")


def events_of(stage: str, layer: int | None) -> tuple[str, ...]:
    """The events that a stage of a layer, or of the whole model, stands for; none where it has no
    counterpart, or does not belong there. Several lie side by side; those of the embedding are the
    residual stream of a decoder and of a microGPT."""
    globs = ALIASES.get("qkv_matmul" if stage == "qkv_bias" else stage, ())  # ours are after the bias
    if stage == "embedding":
        return globs if layer == 0 else ()
    if any(glob.startswith("layer*") == (layer is None) for glob in globs):
        return ()
    return tuple(glob.replace("*", str(layer)) for glob in globs)


def is_aprt(folder: Path) -> bool:
    """Whether a folder holds APRT dumps: one of its files begins like one. Raises FileFormatError, naming
    the file, where it cannot be read."""
    with reading(folder):
        return any(_head(path)[:4] == MAGIC for path in _bin_files(folder) if path.is_file())


def open_aprt(folder: Path) -> Recording:
    """The dumps of a folder, none of which is read yet. Without a manifest of ours, as apr leaves them,
    shapes and tokens are not known. Raises FileFormatError, naming the file."""
    with reading(folder):
        found = {path.relative_to(folder).as_posix(): _stored(path, folder) for path in _bin_files(folder)}
    if not found:
        raise FileFormatError(f"{folder}: expected APRT dumps (layer-N/STAGE.bin), found none")
    manifest = _manifest(folder / MANIFEST)
    return _bare(folder, found) if manifest is None else _described(folder, found, manifest)


def _stage_of(file: str) -> tuple[str, int | None]:
    """The stage and the layer of "layer-3/ffn_up.bin", None for the whole model."""
    layer, _, name = file.rpartition("/")
    return name.removesuffix(".bin"), int(layer.removeprefix("layer-")) if layer else None


def _in_order(file: str) -> tuple[bool, int, int]:
    """Sorts files by layer, those of the whole model last, and by stage as apr has them."""
    stage, layer = _stage_of(file)
    rank = [*ALIASES].index(stage) if stage in ALIASES else len(ALIASES)
    return layer is None, layer or 0, rank


def _bin_files(folder: Path) -> list[Path]:
    return sorted((*folder.glob("*.bin"), *folder.glob("layer-*/*.bin")))


def _head(path: Path) -> bytes:
    with reading(path), path.open("rb") as file:
        return file.read(HEADER.size)


def _stored(path: Path, folder: Path) -> Recorded:
    """The elements of a file whose header agrees with its place and its size."""
    layer = None
    if path.parent != folder:
        number = _LAYER.fullmatch(path.parent.name)
        if number is None:
            raise FileFormatError(f"{folder}: expected layer-0, layer-1 ..., found {brief(path.parent.name)}")
        layer = int(number[1])
    with reading(path):
        size = check_regular(path, "a file of APRT")
        head = _head(path)
    if len(head) < HEADER.size or head[:4] != MAGIC:
        raise FileFormatError(f"{path}: expected APRT and a header of 12 bytes, found {head!r}")
    _, said, count = HEADER.unpack(head)
    if said != (WHOLE_MODEL if layer is None else layer):
        found = _place(None if said == WHOLE_MODEL else said)
        raise FileFormatError(f"{path}: expected a header of {_place(layer)}, found that of {found}")
    if size != HEADER.size + 4 * count:
        raise FileFormatError(
            f"{path}: expected {HEADER.size + 4 * count:,} bytes for {count:,} elements, found {size:,}"
        )
    file = path.relative_to(folder).as_posix()
    return Recorded(readable(file), (count,), partial(_read, path, count))


def _read(path: Path, count: int) -> Array:
    """The elements of a file, float32, bit for bit."""
    with reading(path):
        values = np.fromfile(path, "<f4", count, offset=HEADER.size)
    if values.size != count:
        raise FileFormatError(f"{path}: expected {count:,} elements, found {values.size:,}")
    return values.astype(np.float32, copy=False)


def _bare(folder: Path, found: Mapping[str, Recorded]) -> Recording:
    """What apr leaves: neither shapes nor tokens."""
    tensors, leftovers = dict[str, Recorded](), list[Leftover]()
    biased = {layer for stage, layer in map(_stage_of, found) if stage == "qkv_bias"}
    for file in sorted(found, key=_in_order):
        stage, layer = _stage_of(file)
        events = events_of(stage, layer)[: 1 if stage == "embedding" else None]  # a decoder's
        if stage == "qkv_matmul" and layer in biased:
            reason = "it is before the biases; q, k and v are taken from qkv_bias"
        elif not events:
            reason = _no_event(stage, layer)
        elif events[0] in tensors:
            reason = f"{events[0]} is taken from {tensors[events[0]].source}"
        else:
            told = replace(found[file], layout=LAST if stage == "lm_head" else "", beside=_beside(events))
            tensors |= {event: replace(told, adjacent=kind_of(event) in turned_names()) for event in events}
            continue
        leftovers.append(Leftover(found[file], reason))
    note = "q, k and v are taken from qkv_matmul, which is before the biases, if the model has some"
    plain = [layer for stage, layer in map(_stage_of, found) if stage == "qkv_matmul"]
    notes = (note,) if {*plain} - biased else ()
    return Recording(str(folder), KIND, tensors, leftovers=tuple(leftovers), notes=notes)


def _beside(events: tuple[str, ...]) -> tuple[str, ...]:
    return events if len(events) > 1 else ()


def _no_event(stage: str, layer: int | None) -> str:
    """Why a file stands for no event."""
    if stage not in ALIASES:
        return "apr has no such stage"
    if not ALIASES[stage] and stage != "qkv_bias":
        return "there is no such event"
    return f"the stage does not belong to {_place(layer)}"


def _place(layer: int | None) -> str:
    return "the whole model" if layer is None else f"layer {layer}"


def _manifest(path: Path) -> dict[str, Any] | None:
    """Our manifest, None where there is none, or somebody else's."""
    if not path.exists():
        return None
    manifest = read_json(path)
    schema = manifest.get("schema")
    if schema != MANIFEST_FORMAT and isinstance(schema, str) and schema.startswith("microgpt.aprt/"):
        raise FileFormatError(f"{path}: expected the schema {MANIFEST_FORMAT}, found {brief(schema)}")
    return manifest if schema == MANIFEST_FORMAT else None


def _described(folder: Path, found: Mapping[str, Recorded], manifest: Mapping[str, Any]) -> Recording:
    """What we wrote: the manifest must agree with the files."""
    path = folder / MANIFEST
    tokens = whole_numbers(f"{path}: tokens", manifest.get("tokens"), some=True)
    entries = _entries(path, manifest)
    for file in sorted(entries.keys() - found.keys()):
        raise FileFormatError(f"{folder}: {brief(file)} is missing, which {MANIFEST} names")
    tensors, leftovers = dict[str, Recorded](), list[Leftover]()
    for file in sorted(found, key=_in_order):
        if file not in entries:
            leftovers.append(Leftover(found[file], f"{MANIFEST} does not name it"))
            continue
        events, recorded = _checked(path, file, found[file], entries[file], len(tokens))
        for event in events:
            if event in tensors:
                raise FileFormatError(f"{path}: {event} is in {tensors[event].source} and in {file}")
            tensors[event] = recorded
    positions = (len(tokens) - 1,) if "logits" in tensors else None
    return Recording(
        str(folder), KIND, tensors, tokens, positions, leftovers=tuple(leftovers), notes=_said(path, manifest)
    )


def _said(path: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """What the manifest says of the whole dump: its notes, then what was left out, by the reason."""
    notes, reasons = sentences(f"{path}: notes", manifest.get("notes", [])), dict[str, dict[str, None]]()
    for array in a_list(path, {"left_out": [], **manifest}, "left_out"):
        name, reason = (array.get("name"), array.get("reason")) if isinstance(array, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(reason, str):
            raise FileFormatError(f"{path}: left_out: expected names and reasons, found {brief(array)}")
        reasons.setdefault(reason, {})[_A_LAYER.sub("layer*.", name)] = None
    lines = (f"left out: {abridged([*names])}: {reason}" for reason, names in reasons.items())
    return (*notes, *map(readable, lines))


def _entries(path: Path, manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The manifest's entries by file."""
    entries: dict[str, Mapping[str, Any]] = {}
    for entry in a_list(path, manifest, "files"):
        file = entry.get("file") if isinstance(entry, dict) else None
        if not isinstance(file, str) or file in entries:
            raise FileFormatError(f"{path}: files: expected one entry for each file, found {brief(entry)}")
        entries[file] = entry
    return entries


def _checked(
    path: Path, file: str, stored: Recorded, entry: Mapping[str, Any], length: int
) -> tuple[tuple[str, ...], Recorded]:
    """The events of an entry that agrees with its file and with the tokens, and their tensor."""

    def fail(key: str, expected: object) -> FileFormatError:
        found = brief(entry.get(key))
        return FileFormatError(f"{path}: {file}: {key}: expected {expected}, found {found}")

    stage, layer = _stage_of(file)
    rows = [length - 1] if stage == "lm_head" else None
    for key, expected in (("stage", stage), ("layer", layer), ("dtype", "float32")):
        if entry.get(key) != expected:
            raise fail(key, expected)
    known, events = events_of(stage, layer), entry.get("events")
    ways = [[event] for event in known] if stage == "embedding" else [list(known)]
    if not known or events not in ways:
        raise fail("events", " or ".join(", ".join(way) for way in ways) or "none of ours")
    shape = whole_numbers(f"{path}: {file}: shape", entry.get("shape"), some=True)
    if math.prod(shape) != stored.shape[0]:
        raise fail("shape", f"{stored.shape[0]:,} elements, which the file has")
    if entry.get("positions") != rows:
        raise fail("positions", rows or "null, all of them")
    recorded = replace(
        stored, shape=shape, read=lambda: stored.read().reshape(shape), layout=LAST if rows else OWN,
        beside=_beside(tuple(events)),
    )  # fmt: skip
    return tuple(events), recorded
