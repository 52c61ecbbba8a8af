"""A map of names: which tensor of a dump is which event of ours, read from TOML. Knows no dump's files.

    tokens = [1, 2, 3]
    [events]
    "layer0.attn.q" = "t003[:, :896]"
    "layer0.attn.scores" = { from = "t010", layout = "HTS" }
    "layer{i}.mlp.gate" = "blk{i}_gate"

A tensor's name is that in the dump, with or without the suffix of its file; {i} is the number of a layer,
the same one on both sides.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, InputError
from ..text.brief import brief, frozen
from ..untrusted_files import read_text
from .event_names import is_event, known_events, without_suffix
from .layouts import LAYOUTS, OWN, whole_numbers
from .stored_arrays import MAX_NAME

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES, _MAX_DOTS = 1 << 20, 1 << 24
_BOUND = re.compile(r"([+-]?[0-9]{1,18})?")
Index = tuple[int | slice, ...]


@frozen
class MapEntry:
    """A line of a map: an event, the tensor that it is, which part of it and in which layout."""

    event: str
    source: str
    index: Index = ()
    layout: str = ""


@frozen
class NameMap:
    """The lines of a map, and the tokens of the dump where the map says them."""

    origin: str
    entries: tuple[MapEntry, ...] = ()
    tokens: tuple[int, ...] | None = None

    def assigned(self, found: Sequence[str], dump: str) -> list[MapEntry]:
        """The lines for the tensors of a dump: names as they are there, layers as numbers.

        Raises InputError, naming map and dump, where a tensor is not there or an event is said twice.
        """
        chosen: dict[str, MapEntry] = {}
        for entry in self.entries:
            matches = list(lines_for(entry, found))
            if not matches:
                close = _close(entry.source, found, 4)
                hint = f"close: {', '.join(map(brief, close))}" if close else "it has none"
                missing = f"{dump} has no tensor {brief(entry.source)} ({hint})"
                raise InputError(f"{self.origin}: {entry.event}: {missing}")
            for match in matches:
                if match.event in chosen:
                    both = f"{chosen[match.event].source!r} and {match.source!r}"
                    raise InputError(f"{self.origin}: {match.event} of {dump} is both {both}")
                chosen[match.event] = match
        return list(chosen.values())


def read_map(path: Path) -> NameMap:
    """A map from a TOML file. Raises FileFormatError, naming the key of a line that is wrong."""
    content = _read_toml(path)
    unknown = [key for key in content if key not in ("tokens", "events")]
    if unknown:
        raise FileFormatError(f"{path}: expected tokens and [events], found {brief(unknown[0])} as well")
    events = content.get("events", {})
    if not isinstance(events, dict):
        raise FileFormatError(f"{path}: events: expected a table [events], found {brief(events)}")
    entries = tuple(_entry(path, event, line) for event, line in events.items())
    said = content.get("tokens")
    tokens = None if said is None else whole_numbers(f"{path}: tokens", said, some=True)
    return NameMap(str(path), entries, tokens)


def sliced_shape(index: Index, shape: Sequence[int], what: str) -> tuple[int, ...]:
    """The shape of a part of an array. Raises InputError, beginning with `what`, where the array has no
    such part; unlike Python's, slices may not reach past the end."""
    if len(index) > len(shape):
        raise InputError(f"{what}: {len(index)} indices for the {len(shape)} axes of {list(shape)}")
    for axis, (part, size) in enumerate(zip(index, shape, strict=False)):
        bounds, room = ([part], size) if isinstance(part, int) else ([part.start, part.stop], size + 1)
        outside = [b for b in bounds if b is not None and not -size <= b < room]
        if outside or (isinstance(part, slice) and not range(size)[part]):
            asked = f"{outside[0]} is outside" if outside else "the slice is empty"
            raise InputError(f"{what}: axis {axis} of {list(shape)} has {size} places: {asked}")
    return np.broadcast_to(np.uint8(), tuple(shape))[index].shape


def _read_toml(path: Path) -> dict[str, Any]:
    text = read_text(path, "a map of names", _MAX_BYTES)
    dots = max(line.count(".") for line in text.split("\n")) * text.count("\n")
    if dots > _MAX_DOTS:  # tomllib walks the whole path of a table for each line below it
        raise FileFormatError(f"{path}: expected a map of names, found keys of too many parts")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML, nested too deeply
        reason = " ".join(str(error).split())[:200]
        raise FileFormatError(f"{path}: expected a map of names in TOML ({reason})") from error


def _close(asked: str, known: Sequence[str], count: int) -> list[str]:
    """The names that are most like the one that was asked for, else the first."""
    from difflib import get_close_matches

    return get_close_matches(asked[:MAX_NAME], known, count, 0.5) or list(known[:count])


def _entry(path: Path, event: str, line: Any) -> MapEntry:
    where = f"{path}: [events] {brief(event)}"
    if not is_event(event.replace("{i}", "0", 1)):
        known = [name.replace("#", "{i}", 1).replace("#", "0") for name in known_events()]
        close = _close(re.sub(r"^layer[0-9]+", "layer{i}", event), known, 3)
        raise FileFormatError(f"{where}: no event has that name (close: {', '.join(close)})")
    if isinstance(line, str):
        line = {"from": line}
    named = isinstance(line, Mapping) and isinstance(line.get("from"), str)
    if not named or line.keys() - {"from", "layout"}:
        raise FileFormatError(
            f'{where}: expected a name or {{ from = "name", layout = "HTD" }}, found {brief(line)}'
        )
    layout = line.get("layout", "")
    if "layout" in line and layout not in (OWN, *LAYOUTS):
        raise FileFormatError(f"{where}: layout {brief(layout)} is none of {', '.join((OWN, *LAYOUTS))}")
    source, index = _source(where, line["from"])
    if ("{i}" in event) != ("{i}" in source):
        raise FileFormatError(f"{where}: {{i}} must stand on both sides, found {brief(source)}")
    return MapEntry(event, source, index, layout)


def _source(where: str, text: str) -> tuple[str, Index]:
    """The name and the slice of "qkv[:, :896]"."""
    before, bracket, inside = text.removesuffix("]").rpartition("[")
    is_sliced = text.endswith("]") and bracket and "]" not in inside
    source, axes = (before.rstrip(), inside.split(",")) if is_sliced else (text, [])
    if not source:
        raise FileFormatError(f"{where}: expected the name of a tensor, found {brief(text)}")
    if len(axes) > 1 and not axes[-1].strip():  # "[0,]"
        axes = axes[:-1]
    return source, tuple(_axis(where, text, axis.strip()) for axis in axes)


def _axis(where: str, text: str, axis: str) -> int | slice:
    bounds = [bound.strip() for bound in axis.split(":")]
    if len(bounds) <= 3 and all(map(_BOUND.fullmatch, bounds)):
        numbers = [int(bound) if bound else None for bound in bounds]
        if len(numbers) > 1 and numbers[2:] != [0]:
            return slice(*numbers)
        if len(numbers) == 1 and numbers[0] is not None:
            return numbers[0]
    raise FileFormatError(f"{where}: expected indices and slices such as [:, 0:64], found {brief(text)}")


def lines_for(entry: MapEntry, found: Sequence[str]) -> Iterator[MapEntry]:
    """The line once for each tensor that it names."""
    head, *rest = map(re.escape, entry.source.split("{i}"))
    number = r"(?P<i>[0-9]{1,4})"
    pattern = re.compile(head + "".join((r"(?P=i)" if n else number) + part for n, part in enumerate(rest)))
    exact = [name for name in found if name == entry.source]
    for name in exact or found:
        match = pattern.fullmatch(name) or pattern.fullmatch(without_suffix(name))
        if match or exact:
            event = entry.event.replace("{i}", str(int(match["i"]))) if match and rest else entry.event
            yield MapEntry(event, name, entry.index, entry.layout)
