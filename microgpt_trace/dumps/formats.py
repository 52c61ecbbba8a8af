"""Dumps as files: told apart by content, opened, their tensors named. Reads no array before it is used.

A tensor is an event of ours by a map, which goes first, or by its name. Whatever is neither stays in the
recording as a leftover with the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..errors import FileFormatError, InputError
from ..text.brief import brief
from ..text.json_reading import from_json
from ..text.wording import abridged
from ..untrusted_files import beginning, check_regular, reading
from .event_names import Meaning, meaning_of, without_suffix
from .layouts import OWN, Leftover, Recorded, sentences, whole_numbers
from .mapping import MapEntry, NameMap, sliced_shape
from .recording import Recording, agreed
from .stored_arrays import (
    ARRAYS_FORMAT,
    NPY_MAGIC,
    ZIP_MAGIC,
    StoredArray,
    named_header,
    npy_array,
    npz_arrays,
    safetensors_arrays,
)

_TOKENS = ("tokens", "ids", "input_ids", "token_ids")
_MAX_TOKENS = 1 << 20
_UNKNOWN = Meaning(reason="no event has that name")
_HEAD = 1 << 12  # bytes that tell what a file is
_PARAMETER = re.compile(r"wte|wpe|.*\.(weight|bias)|layer[0-9]+\.(attn_w|mlp_fc|mlp_w).*", re.DOTALL)
_DOCUMENT = re.compile(rb'\s*\{\s*("schema"\s*:\s*"microgpt\.trace/|"record"\s*:\s*"trace")')


def is_recording(path: Path) -> bool:
    """Whether a file or folder that is there is a dump of tensors, by its content; a model is none.

    A folder without config.json counts as one, whatever it holds: `open_recording` says what it lacks.
    """
    try:
        if path.is_dir():
            return not (path / "config.json").exists()
        head = beginning(path, _HEAD)
        if head[8:9] == b"{" and not _DOCUMENT.match(head):
            return _holds_values(*named_header(path))
    except (OSError, FileFormatError):
        return False
    return head.startswith((NPY_MAGIC, ZIP_MAGIC)) or bool(_DOCUMENT.match(head))


def _holds_values(header: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
    """Whether a safetensors file holds values of a run: ours, some that an event is called like, or at least
    no parameters."""
    if metadata.get("format") == ARRAYS_FORMAT:
        return True
    names = [name for name in header if name != "lm_head"]  # a microGPT's matrix
    if any((meaning_of(name) or _UNKNOWN).events for name in names):
        return True
    return bool(header) and not any(map(_PARAMETER.fullmatch, header))


def open_recording(path: Path, names: NameMap | None = None) -> Recording:
    """Open a dump: a file of `--save` or `--json`, a directory of APRT dumps, a folder of .npy files, a
    .npy, .npz or safetensors file of another engine.

    Raises FileFormatError, naming the file, where it is damaged or no dump, and InputError where the map
    does not fit it.
    """
    with reading(path):
        if path.is_dir():
            return _open_folder(path, names)
        check_regular(path, "a dump of tensors")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    if head.startswith(NPY_MAGIC):
        return _recording(path, ".npy file", [npy_array(path, path.name)], names)
    if head.startswith(ZIP_MAGIC):
        arrays, others = npz_arrays(path)
        return _recording(path, ".npz archive", arrays, names, notes=_unread(others))
    if head[8:9] == b"{" and not _DOCUMENT.match(head):
        return _open_safetensors(path, names)
    if head.startswith(b'{"record"'):
        raise FileFormatError(f"{path}: expected one document (--json), found its lines (--jsonl)")
    if head.lstrip()[:1] == b"{":
        from .trace_document import open_document

        return _with_tokens(open_document(path), names, "a --json document")
    raise FileFormatError(
        f"{path}: expected a dump (.npy, .npz, safetensors, a --json document or a folder), "
        f"found {brief(head[:8]) if head else 'an empty file'}"
    )


def _open_folder(path: Path, names: NameMap | None) -> Recording:
    from .aprt import is_aprt, open_aprt

    if is_aprt(path):
        return _with_tokens(open_aprt(path), names, "a directory of APRT dumps")
    files, others = _npy_files(path)
    if not files:
        expected = "a model (a folder with config.json) or a dump (.npy files, APRT)"
        found = f"a folder of {abridged([*map(brief, others)])}" if others else "an empty folder"
        raise FileFormatError(f"{path}: expected {expected}, found {found}")
    arrays = [npy_array(path / name, name) for name in files]
    return _recording(path, ".npy files", arrays, names, notes=_unread(others))


def _npy_files(folder: Path) -> tuple[list[str], list[str]]:
    """The .npy files of a folder and its subfolders, and the other files: their names from there.

    Raises FileFormatError, naming the subfolder, where one cannot be read.
    """
    found: tuple[list[str], list[str]] = [], []

    def refuse(error: OSError) -> None:
        raise FileFormatError(f"{error.filename}: cannot read it ({error.strerror})") from error

    for base, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(files):
            found[not name.endswith(".npy")].append((Path(base) / name).relative_to(folder).as_posix())
    return found


def _unread(others: Sequence[str]) -> list[str]:
    return [f"not read: {abridged([*map(brief, others)])}"] if others else []


def _open_safetensors(path: Path, names: NameMap | None) -> Recording:
    arrays, metadata = safetensors_arrays(path)
    if metadata.get("format") != ARRAYS_FORMAT:
        return _recording(path, "safetensors file", arrays, names)
    said = {  # older files have no positions
        key: whole_numbers(f"{path}: metadata {key}", _from_json(metadata[key]))
        for key in ("tokens", "positions")
        if key in metadata
    }
    found = _recording(path, "arrays of a trace", arrays, names, layout=OWN, tokens=said.get("tokens"))
    model = _from_json(metadata.get("model", "null"))
    left_out = model.get("left_out", []) if isinstance(model, dict) else []  # what `record` could not give
    missing = [f"left out: {s}" for s in sentences(f"{path}: metadata model: left_out", left_out)]
    notes = sentences(f"{path}: metadata notes", _from_json(metadata.get("notes", "[]")))
    return replace(found, positions=said.get("positions"), notes=(*missing, *notes))


def _from_json(text: str) -> Any:
    """What a text says, None where it is no JSON."""
    try:
        return from_json(text)
    except ValueError:
        return None


def _with_tokens(found: Recording, names: NameMap | None, what: str) -> Recording:
    """A recording whose names are known, of which a map can say the tokens alone."""
    if names is None:
        return found
    if names.entries:
        raise InputError(f"{names.origin}: {found.origin} is {what}, whose names need no map")
    said = [(found.origin, found.tokens), (names.origin, names.tokens)]
    return replace(found, tokens=agreed("tokens", said))


def _recording(
    path: Path, kind: str, arrays: Sequence[StoredArray], names: NameMap | None, *, layout: str = "",
    tokens: tuple[int, ...] | None = None, notes: Sequence[str] = (),
) -> Recording:  # fmt: skip
    """The arrays of a dump, each under the events that it stands for."""
    if not arrays:
        raise FileFormatError(f"{path}: expected a dump of tensors, found none")
    said: list[tuple[str, Sequence[int] | None]] = [(str(path), tokens)]
    if names is not None:
        said.append((names.origin, names.tokens))
    lines = names.assigned([array.name for array in arrays], str(path)) if names else []
    chosen = {line.source for line in lines}
    named, leftovers = [], []
    for array in arrays:
        if array.kind == "floating" or array.name in chosen:
            named.append(array)
        elif (ids := _token_ids(array)) is not None:
            said.append((f"{path}: {array.name}", ids))
        else:
            reason = f"numbers of type {array.dtype}, which no event has"
            leftovers.append(Leftover(_recorded(array, _UNKNOWN), reason, readable=array.kind != "other"))
    tensors, unnamed = _named(path, named, lines, layout)
    return Recording(
        str(path), kind, tensors, agreed("tokens", said), leftovers=(*unnamed, *leftovers), notes=tuple(notes)
    )


def _token_ids(array: StoredArray) -> tuple[int, ...] | None:
    """The ids of an array that is called so: [T] or [1, T] whole numbers."""
    name = re.split(r"[./]", without_suffix(array.name).lower())[-1]
    length = array.shape[-1] if array.shape else 0
    if name not in _TOKENS or array.kind != "whole" or array.shape not in ((length,), (1, length)):
        return None
    if not 0 < length <= _MAX_TOKENS:
        return None
    ids = array.read().reshape(-1).tolist()
    return tuple(ids) if all(type(i) is int and 0 <= i < 2**31 for i in ids) else None


def _named(
    path: Path, arrays: Sequence[StoredArray], lines: Sequence[MapEntry], layout: str
) -> tuple[dict[str, Recorded], list[Leftover]]:
    """Events and their tensors, by the lines of a map, by names, by second names; and the rest."""
    by_name = {array.name: array for array in arrays}
    tensors = {line.event: _mapped(path, by_name[line.source], line) for line in lines}
    mapped, leftovers = set(tensors), []
    chosen = {line.source for line in lines}
    meant = [(array, meaning_of(array.name) or _UNKNOWN) for array in arrays if array.name not in chosen]
    for array, meaning in sorted(meant, key=lambda pair: pair[1].second):
        recorded = _recorded(array, meaning, layout)
        reason, events = meaning.reason, meaning.events
        taken = [event for event in events if event in tensors]
        by_names = [event for event in taken if event not in mapped]
        if by_names and not meaning.second:
            both = f"{tensors[by_names[0]].source!r} and {array.name!r}"
            raise FileFormatError(f"{path}: {both} are both {by_names[0]}; a map says which is meant")
        if taken and len(taken) == len(events):
            how = "by the map" if taken[0] in mapped else "already"
            reason = f"{taken[0]} is {tensors[taken[0]].source!r} {how}"
        if reason:
            leftovers.append(Leftover(recorded, reason))
        tensors |= {event: recorded for event in events if event not in tensors}
    return tensors, leftovers


def _recorded(array: StoredArray, meaning: Meaning, layout: str = "") -> Recorded:
    """An array as a tensor of a recording; one that is no event's can be read all the same."""
    beside = meaning.events if len(meaning.events) > 1 else ()
    own = layout if meaning.events == (array.name,) else meaning.layout
    return Recorded(
        array.name, array.shape, partial(_floats, array), own, beside, meaning.adjacent, meaning.candidates
    )


def _floats(array: StoredArray) -> Array:
    if array.kind == "other":
        raise InputError(f"{array.name}: numbers of type {array.dtype} are not read")
    values = array.read()
    return values.astype(np.float64) if array.kind == "whole" else values


def _mapped(path: Path, array: StoredArray, line: MapEntry) -> Recorded:
    """What a line of a map makes of an array: the part of it that the event is."""
    where = f"{path}: {array.name!r} for {line.event}"
    if array.kind != "floating":
        raise InputError(f"{where}: expected floating-point numbers, found {array.dtype}")
    shape = sliced_shape(line.index, array.shape, where)
    adjacent = (meaning_of(array.name) or _UNKNOWN).adjacent
    return Recorded(array.name, shape, lambda: array.read()[line.index], line.layout, adjacent=adjacent)
