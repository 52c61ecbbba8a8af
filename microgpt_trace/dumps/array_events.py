"""The events and the tokens in the arrays of a dump.

The map assigns a tensor to an event. Without a line for the tensor in the map, the name of the tensor
determines the event. A tensor that belongs to no event becomes a leftover of the recording, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ..arrays.stats import Array
from ..errors import FileFormatError, InputError
from ..grouping import grouped, natural_order
from ..naming.event_names import Meaning, architecture_of, meanings_of, plain_name
from ..naming.user_map import OWN, TENSORS, MapEntry, NameMap, sliced_shape
from ..text.brief import brief
from ..text.wording import abridged
from .layouts import NO_EVENT, Leftover, Recorded
from .recording import Recording, TextBatch, agreed
from .stored_arrays import StoredArray

_IN_ORDER = (".npz archive", ".pt file")  # kinds of files that keep the order of writing
_TOKENS = ("tokens", "ids", "input_ids", "token_ids")
_MAX_TOKENS = 1 << 20
_UNKNOWN = Meaning(reason=NO_EVENT)


def recording_of(
    path: Path, kind: str, arrays: Sequence[StoredArray], names: NameMap, *, layout: str = "",
    tokens: tuple[int, ...] | None = None, notes: Sequence[str] = (),
) -> Recording:  # fmt: skip
    """Build a recording from arrays. Arrays that contain neither events nor tokens become leftovers."""
    if not arrays:
        raise FileFormatError(f"{path}: expected a dump of tensors, found none")
    batch = _batch(arrays)
    if names.names_of == TENSORS:
        return _by_name(path, kind, arrays, batch)
    architecture = names.names_of or architecture_of([array.name for array in arrays])
    token_sources: list[tuple[str, Sequence[int] | None]] = [(str(path), tokens)]
    token_sources.append((names.origin, names.tokens))
    lines = names.match([array.name for array in arrays], str(path))
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
    for dtype, alike in grouped([one for one in arrays if one.assumed], lambda one: one.dtype).items():
        which = abridged([brief(one.name) for one in alike])
        notes = [*notes, f"read as {dtype}, which the files do not name: {which}"]
    return Recording(
        str(path), kind, tensors, agreed("tokens", token_sources), leftovers=(*leftovers, *others),
        notes=tuple(notes), batch=batch, names_of=architecture,
    )  # fmt: skip


def _by_name(path: Path, kind: str, arrays: Sequence[StoredArray], batch: TextBatch | None) -> Recording:
    """Return a recording in which each tensor has its own name, in the order of the file."""
    readable = [array for array in arrays if array.kind != "other"]
    if kind not in _IN_ORDER:
        readable.sort(key=lambda array: natural_order(array.name))
    order = "in the order of the file" if kind in _IN_ORDER else "sorted by name"
    tensors = {array.name: replace(_recorded(array, _UNKNOWN), layout=OWN) for array in readable}
    note = f"compared by the names of its tensors, {order}"
    others = [array for array in arrays if array.kind == "other"]
    unread = tuple(Leftover(_recorded(one, _UNKNOWN), _why_unread(one), readable=False) for one in others)
    return Recording(str(path), kind, tensors, batch=batch, notes=(note,), leftovers=unread, names_of=TENSORS)


def _batch(arrays: Sequence[StoredArray]) -> TextBatch | None:
    """Return the tokens and the attention mask of a batch of several texts, or of a text with a mask."""
    flat = [(_last_word(array), array) for array in arrays if len(array.shape) == 2]
    whole = {word: own for word, own in flat if own.kind == "whole" or word == "attention_mask"}
    ids = next((whole[name] for name in _TOKENS if name in whole), None)
    mask = whole.get("attention_mask")
    if ids is None or not 0 < ids.shape[0] * ids.shape[1] <= _MAX_TOKENS:
        return None
    of_texts = [array for array in arrays if array.kind == "floating" and array.shape[:1] == ids.shape[:1]]
    if ids.shape[0] > 1 and not of_texts:
        return None  # no array has an axis of the texts
    if mask is not None and (mask.shape[0] != ids.shape[0] or mask.shape[1] < ids.shape[1]):
        expected = f"expected an attention mask of {list(ids.shape)} or more keys, as {ids.name}"
        raise FileFormatError(f"{mask.name}: {expected}, found {list(mask.shape)}")
    places, real = whole.get("position_ids"), None if mask is None else mask.read() != 0
    start = int(places.read()[0, 0]) if places is not None and places.shape == (1, 1) else 0
    return TextBatch(ids.read(), real, start if real is None else int(real[0].sum()) - ids.shape[1])


def _last_word(array: StoredArray) -> str:
    return re.split(r"[./]", plain_name(array.name).lower())[-1]


def _why_unread(array: StoredArray) -> str:
    """Return the reason why the numbers of an array cannot be read, or "" if they can be read."""
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
    where = f"{path}: {array.name!r} for {line.event}"
    if array.kind != "floating":
        raise InputError(f"{where}: expected floating-point numbers, found {array.dtype}")
    shape = sliced_shape(line.index, array.shape, where)
    adjacent = meanings[array.name].adjacent
    if line.axis is not None and not -len(shape) <= line.axis < len(shape):
        raise InputError(f"{where}: axis: expected a number below {len(shape)}, found {line.axis}")
    read = lambda: array.read()[line.index]  # noqa: E731
    return Recorded(array.name, shape, read, line.layout, adjacent=adjacent, axis=line.axis)
