"""Open a dump of any format. The content of the file decides the format. Arrays are loaded only when needed.

The map assigns a tensor to an event. Without a line for the tensor in the map, the name of the tensor
determines the event. A tensor that belongs to no event becomes a leftover of the recording, with the reason.
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

from ..arrays.encodings import FLOATS
from ..arrays.stats import Array
from ..errors import FileFormatError, InputError
from ..naming.event_names import (
    Meaning,
    architecture_of,
    meaning_of,
    meanings_of,
    plain_name,
    without_suffix,
)
from ..naming.user_map import OWN, MapEntry, NameMap, PassChoice, sliced_shape
from ..text.brief import brief
from ..text.json_reading import from_json
from ..text.wording import abridged
from ..untrusted_files import beginning, check_regular, reading, sentences, whole_numbers
from .aprt import is_aprt, open_aprt
from .layouts import NO_EVENT, Leftover, Recorded
from .passes import joined, numbered_passes
from .recording import Recording, TextBatch, agreed
from .stored_arrays import (
    ARRAYS_FORMAT,
    NPY_MAGIC,
    ZIP_MAGIC,
    StoredArray,
    decoded,
    npy_array,
    npz_arrays,
    safetensors_arrays,
)
from .torch_files import OLD_MAGIC, SUFFIXES, is_torch_file, torch_arrays
from .trace_document import open_document

_IN_ORDER = (".npz archive", ".pt file")  # kinds of files that keep the order of writing
_TOKENS = ("tokens", "ids", "input_ids", "token_ids")
_MAX_TOKENS = 1 << 20
_UNKNOWN = Meaning(reason=NO_EVENT)
_HEAD = 1 << 12  # number of bytes at the start of a file that show the format
_PARAMETER = re.compile(r"wte|wpe|.*\.(weight|bias)|layer[0-9]+\.(attn_w|mlp_fc|mlp_w).*", re.DOTALL)
_DOCUMENT = re.compile(rb'\s*\{\s*("schema"\s*:\s*"microgpt\.trace/|"record"\s*:\s*"trace")')


def is_recording(path: Path) -> bool:
    """Return True if the content of an existing file or folder is a dump and not a model.

    Every folder without config.json counts as a dump, but `open_recording` refuses folders without tensors.
    """
    try:
        if path.is_dir():
            return not (path / "config.json").exists()
        head = beginning(path, _HEAD)
        if head[8:9] == b"{" and not _DOCUMENT.match(head):
            return _holds_values(*safetensors_arrays(path))
    except (OSError, FileFormatError):
        return False
    return head.startswith((NPY_MAGIC, ZIP_MAGIC, OLD_MAGIC)) or bool(_DOCUMENT.match(head))


def _holds_values(arrays: Sequence[StoredArray], metadata: Mapping[str, str]) -> bool:
    """Return True if a safetensors file contains values of a run instead of parameters."""
    if metadata.get("format") == ARRAYS_FORMAT:
        return True
    names = [array.name for array in arrays]
    if any((meaning_of(name) or _UNKNOWN).events for name in names if name != "lm_head"):  # also a parameter
        return True
    return bool(names) and not any(map(_PARAMETER.fullmatch, names))


def open_recording(path: Path, names: NameMap | None = None) -> Recording:
    """Open a dump: a file of `--save` or `--json`, a folder of APRT, .npy or .pt files, or a .npy, .npz, .pt
    or safetensors file.

    Raises FileFormatError if the file is damaged or not a dump, and InputError if the map does not fit.
    """
    choice = PassChoice() if names is None else names.passes
    with reading(path):
        inside = numbered_passes([own.name for own in path.iterdir()]) if path.is_dir() else []
    return _as_one(path, [_open(path / name, names) for name in inside] or [_open(path, names)], choice)


def _as_one(path: Path, passes: Sequence[Recording], choice: PassChoice) -> Recording:
    """Join passes. If names are read again, as those of an architecture or as they stand, join them again."""
    result = joined(path, passes, choice)
    if result is passes[0]:
        return result

    def read_as(architecture: str) -> Recording:
        return _as_one(path, [one.read_as(architecture) if one.read_as else one for one in passes], choice)

    def by_name() -> Recording:
        return _as_one(path, [one.by_name() if one.by_name else one for one in passes], choice)

    return replace(result, read_as=read_as, by_name=by_name)


def _open(path: Path, names: NameMap | None) -> Recording:
    with reading(path):
        if path.is_dir():
            return _open_folder(path, names)
        check_regular(path, "a dump of tensors")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    if head.startswith(NPY_MAGIC):
        return _recording(path, ".npy file", [npy_array(path, path.name)], names)
    if is_torch_file(path):
        arrays, others = torch_arrays(path, path.name)
        return _recording(path, ".pt file", _of_a_run(path, arrays), names, notes=_unread(others))
    if head.startswith(ZIP_MAGIC):
        arrays, others = npz_arrays(path)
        return _recording(path, ".npz archive", arrays, names, notes=_unread(others))
    if head[8:9] == b"{" and not _DOCUMENT.match(head):
        return _open_safetensors(path, names)
    if head.startswith(b'{"record"'):
        raise FileFormatError(f"{path}: expected a --json document, found a --jsonl file")
    if head.lstrip()[:1] == b"{":
        return _with_tokens(open_document(path), names, "a --json document")
    raise FileFormatError(
        f"{path}: expected a dump (.npy, .npz, .pt, safetensors, a --json document or a folder), "
        f"found {f'a file that begins with {brief(head[:8])[1:]}' if head else 'an empty file'}"
    )


def _open_folder(path: Path, names: NameMap | None) -> Recording:
    if is_aprt(path):
        return _with_tokens(open_aprt(path), names, "a directory of APRT dumps")
    files, others = _array_files(path)
    if not files:
        expected = "a model (a folder with config.json) or a dump (.npy or .pt files, APRT)"
        found = f"a folder of {abridged([*map(brief, others)])}" if others else "an empty folder"
        raise FileFormatError(f"{path}: expected {expected}, found {found}")
    by_file = {}
    for name in files:
        if name.endswith(".npy"):
            by_file[name] = [npy_array(path / name, name)]
        else:
            by_file[name], unread = torch_arrays(path / name, name)
            others += [f"{name}: {own}" for own in unread]
    kinds = sorted({Path(name).suffix for name in files})
    arrays = _of_a_run(path, _with_distinct_names(by_file))
    return _recording(path, f"{' and '.join(kinds)} files", arrays, names, notes=_unread(others))


def _of_a_run(path: Path, arrays: Sequence[StoredArray]) -> Sequence[StoredArray]:
    """Return the arrays of .pt files. Raises FileFormatError if they are the parameters of a model."""
    if arrays and not _holds_values(arrays, {}):
        found = f"parameters of a model ({brief(arrays[0].name)})"
        hint = "save a model as safetensors beside its config.json"
        raise FileFormatError(f"{path}: expected values of a run, found {found}; {hint}")
    return arrays


def _with_distinct_names(by_file: Mapping[str, Sequence[StoredArray]]) -> list[StoredArray]:
    """Return the arrays of a folder. If a name occurs twice, put the file's path before names in dicts."""
    arrays = [array for own in by_file.values() for array in own]
    if len({array.name for array in arrays}) == len(arrays):
        return arrays
    return [
        array if array.name == file else replace(array, name=f"{without_suffix(file)}/{array.name}")
        for file, own in by_file.items()
        for array in own
    ]


def _array_files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the paths of the .npy and .pt files in a folder and its subfolders, and of all other files."""
    names: tuple[list[str], list[str]] = [], []

    def refuse(error: OSError) -> None:
        raise FileFormatError(f"{error.filename}: cannot read it ({error.strerror})") from error

    for base, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(files):
            names[not name.endswith((".npy", *SUFFIXES))].append(
                (Path(base) / name).relative_to(folder).as_posix()
            )
    return names


def _unread(others: Sequence[str]) -> list[str]:
    return [f"not read: {abridged([*map(brief, others)])}"] if others else []


def _open_safetensors(path: Path, names: NameMap | None) -> Recording:
    arrays, metadata = safetensors_arrays(path)
    if metadata.get("format") != ARRAYS_FORMAT:
        return _recording(path, "safetensors file", arrays, names)
    stored = {  # files from older versions contain no positions
        key: whole_numbers(f"{path}: metadata {key}", _from_json(metadata[key]))
        for key in ("tokens", "positions")
        if key in metadata
    }
    tokens = stored.get("tokens") or None  # none for a batch of several texts
    recording = _recording(path, "arrays of a trace", arrays, names, layout=OWN, tokens=tokens)
    model = _from_json(metadata.get("model", "null"))
    left_out = model.get("left_out", []) if isinstance(model, dict) else []  # set by `record`
    missing = [f"left out: {s}" for s in sentences(f"{path}: metadata model: left_out", left_out)]
    notes = sentences(f"{path}: metadata notes", _from_json(metadata.get("notes", "[]")))
    return replace(recording, positions=stored.get("positions"), notes=(*missing, *notes), read_as=None)


def _from_json(text: str) -> Any:
    """Return the value of a JSON text, or None if the text is not JSON."""
    try:
        return from_json(text)
    except ValueError:
        return None


def _with_tokens(recording: Recording, names: NameMap | None, what: str) -> Recording:
    """Add the tokens of a map to a recording that already uses the names of our events."""
    if names is None:
        return recording
    if names.entries:
        raise InputError(f"{names.origin}: {recording.origin} is {what}: expected only tokens, found events")
    sources = [(recording.origin, recording.tokens), (names.origin, names.tokens)]
    return replace(recording, tokens=agreed("tokens", sources))


def _recording(
    path: Path, kind: str, arrays: Sequence[StoredArray], names: NameMap | None, *, layout: str = "",
    tokens: tuple[int, ...] | None = None, notes: Sequence[str] = (), architecture: str = "",
) -> Recording:  # fmt: skip
    """Build a recording from arrays. Arrays that contain neither events nor tokens become leftovers. If no
    `architecture` is given, the names of the arrays show which architecture names them."""
    if not arrays:
        raise FileFormatError(f"{path}: expected a dump of tensors, found none")
    read_as = partial(_recording, path, kind, arrays, names, layout=layout, tokens=tokens, notes=notes)
    architecture = architecture or architecture_of([array.name for array in arrays])
    batch = _batch(arrays)
    token_sources: list[tuple[str, Sequence[int] | None]] = [(str(path), tokens)]
    if names is not None:
        token_sources.append((names.origin, names.tokens))
    lines = names.match([array.name for array in arrays], str(path)) if names else []
    mapped = {line.source for line in lines}
    candidates, others = [], []
    for array in arrays:
        if array.kind == "floating" or array.name in mapped:
            candidates.append(array)
        elif (ids := _token_ids(array)) is not None:
            token_sources.append((f"{path}: {array.name}", ids))
        elif batch is None or _last_word(array) not in (*_TOKENS, "attention_mask", "position_ids"):
            reason = _why_unread(array) or f"no event contains numbers of type {array.dtype}"
            others.append(Leftover(_recorded(array, _UNKNOWN), reason, readable=array.kind != "other"))
    tensors, leftovers = _by_event(path, candidates, lines, layout, architecture)
    for dtype in FLOATS:
        assumed = [brief(one.name) for one in arrays if one.read_bits and one.dtype == dtype]
        if assumed:  # ml_dtypes writes such files
            notes = [*notes, f"read as {dtype}, which the files do not name: {abridged(assumed)}"]
    return Recording(
        str(path), kind, tensors, agreed("tokens", token_sources), leftovers=(*leftovers, *others),
        notes=tuple(notes), read_as=lambda architecture: read_as(architecture=architecture),
        by_name=partial(_by_name, path, kind, arrays, batch), batch=batch,
    )  # fmt: skip


def _by_name(path: Path, kind: str, arrays: Sequence[StoredArray], batch: TextBatch | None) -> Recording:
    """Return a recording in which each tensor has its own name, in the order of the file."""
    readable = [array for array in arrays if array.kind != "other"]
    if kind not in _IN_ORDER:
        readable.sort(key=lambda array: [part.zfill(12) for part in re.split("([0-9]+)", array.name)])
    order = "in the order of the file" if kind in _IN_ORDER else "sorted by name"
    tensors = {array.name: replace(_recorded(array, _UNKNOWN), layout=OWN) for array in readable}
    note = f"compared by the names of its tensors, {order}"
    return Recording(str(path), kind, tensors, batch=batch, notes=(note,))


def _batch(arrays: Sequence[StoredArray]) -> TextBatch | None:
    """Return the tokens and the attention mask of a batch of several texts, or of a text with a mask."""
    whole = {_last_word(array): array for array in arrays if array.kind == "whole" and len(array.shape) == 2}
    ids = next((whole[name] for name in _TOKENS if name in whole), None)
    mask = whole.get("attention_mask")
    if ids is None or not 0 < ids.shape[0] * ids.shape[1] <= _MAX_TOKENS:
        return None
    if not any(array.kind == "floating" and array.shape[:1] == ids.shape[:1] for array in arrays):
        return None  # no array has an axis of the texts
    if mask is not None and (mask.shape[0] != ids.shape[0] or mask.shape[1] < ids.shape[1]):
        expected = f"expected an attention mask of {list(ids.shape)} or more keys, as {ids.name}"
        raise FileFormatError(f"{mask.name}: {expected}, found {list(mask.shape)}")
    return TextBatch(ids.read(), None if mask is None else mask.read() != 0)


def _last_word(array: StoredArray) -> str:
    return re.split(r"[./]", plain_name(array.name).lower())[-1]


def _why_unread(array: StoredArray) -> str:
    """Return the reason why the numbers of an array cannot be read, or "" if they can be read."""
    if array.read_bits and array.kind == "other":
        return (
            'the file does not name the type of its bytes; state it in a map, as in dtype = "float8_e4m3fn"'
        )
    return f"numbers of type {array.dtype} are not supported" if array.kind == "other" else ""


def _token_ids(array: StoredArray) -> tuple[int, ...] | None:
    """Return the token ids of an array [T] or [1, T] with a name like "ids", or None for other arrays."""
    name, length = _last_word(array), array.shape[-1] if array.shape else 0
    is_list = array.kind == "whole" and array.shape in ((length,), (1, length))
    if name not in _TOKENS or not is_list or not 0 < length <= _MAX_TOKENS:
        return None
    ids = array.read().reshape(-1).tolist()
    return tuple(ids) if all(type(i) is int and 0 <= i < 2**31 for i in ids) else None


def _by_event(
    path: Path, arrays: Sequence[StoredArray], lines: Sequence[MapEntry], layout: str, architecture: str
) -> tuple[dict[str, Recorded], list[Leftover]]:
    """Return the tensors by event, and the leftovers. Use the map first, then names, then second names."""
    by_name = {array.name: array for array in arrays}
    found = meanings_of([*by_name], architecture)
    meanings = {name: meaning or _UNKNOWN for name, meaning in found.items()}
    tensors = {line.event: _mapped(path, by_name[line.source], line, meanings) for line in lines}
    mapped, leftovers, sources = set(tensors), [], {line.source for line in lines}
    unmapped = [(array, meanings[array.name]) for array in arrays if array.name not in sources]
    for array, meaning in sorted(unmapped, key=lambda pair: pair[1].second):
        recorded = _recorded(array, meaning, layout)
        reason, events = meaning.reason, meaning.events
        assigned = [event for event in events if event in tensors]
        by_names = [event for event in assigned if event not in mapped]
        if by_names and not meaning.second:
            both = f"{tensors[by_names[0]].source!r} and {array.name!r}"
            raise FileFormatError(f"{path}: {both} are both {by_names[0]}; choose one with --map")
        if assigned and len(assigned) == len(events):
            how = "by the map" if assigned[0] in mapped else "by its name"
            reason = f"{assigned[0]} is {tensors[assigned[0]].source!r} {how}"
        if reason:
            leftovers.append(Leftover(recorded, reason))
        tensors |= {event: recorded for event in events if event not in tensors}
    return tensors, leftovers


def _recorded(array: StoredArray, meaning: Meaning, layout: str = "") -> Recorded:
    """Convert an array to a tensor of a recording, even if the array belongs to no event."""
    beside = meaning.events if len(meaning.events) > 1 else ()
    layout, read = layout if meaning.events == (array.name,) else meaning.layout, partial(_floats, array)
    return Recorded(
        array.name, array.shape, read, layout, beside, meaning.adjacent, meaning.candidates, meaning.by_head
    )


def _floats(array: StoredArray) -> Array:
    if array.kind == "other":
        raise InputError(f"{array.name}: {_why_unread(array)}")
    values = array.read()
    return values.astype(np.float64) if array.kind == "whole" else values


def _mapped(path: Path, array: StoredArray, line: MapEntry, meanings: Mapping[str, Meaning]) -> Recorded:
    """Return the tensor that a line of the map describes: an array or a slice of an array."""
    where, read = f"{path}: {array.name!r} for {line.event}", array.read
    if line.dtype and array.dtype != line.dtype:
        if array.read_bits is None or FLOATS[line.dtype].block_bytes != array.read_bits().itemsize:
            raise InputError(f"{where}: expected {line.dtype}, found {array.dtype}")
        bits, dtype = array.read_bits, line.dtype
        read = lambda: decoded(bits(), dtype)  # noqa: E731
    elif array.kind == "other":
        raise InputError(f"{where}: {_why_unread(array)}")
    elif array.kind != "floating":
        raise InputError(f"{where}: expected floating-point numbers, found {array.dtype}")
    shape = sliced_shape(line.index, array.shape, where)
    adjacent = meanings[array.name].adjacent
    return Recorded(array.name, shape, lambda: read()[line.index], line.layout, adjacent=adjacent)
