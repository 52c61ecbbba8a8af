"""Read a map of names from a TOML file. A map assigns tensors of a dump to events:

    tokens = [1, 2, 3]
    [events]
    "layer0.attn.q" = "t003[:, :896]"
    "layer0.attn.scores" = { from = "t010", layout = "HTS" }
    "layer{i}.mlp.gate" = "blk{i}_gate"
    "layer0.mlp.up" = { from = ["rank0/up", "rank1/up"], axis = 1 }

The name of a tensor is its name in the dump, with or without the file extension. {i} stands for the layer
number in both names.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, InputError
from ..text.brief import brief
from ..text.frozen import frozen
from ..untrusted_files import MAX_NAME, read_text, whole_numbers
from .event_names import is_event, known_events, without_suffix

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES, _MAX_DOTS = 1 << 20, 1 << 24
_MAX_ROWS, _POSITION = 1 << 20, re.compile("[0-9]{1,9}")
_BOUND = re.compile(r"([+-]?[0-9]{1,18})?")
Index = tuple[int | slice, ...]
OWN = "own"  # the layout of a tensor with our shape and order of axes
LAST = "last"
TENSORS = "tensors"  # in place of an architecture
LAYOUTS: tuple[str, ...] = (
    "TC",  # one row per position
    "CT",  # one column per position
    "HTD",  # q, k, v and context: one block per head
    "THD",  # q, k, v and context: one block per position (rows split into heads)
    "HTS",  # scores and weights: one block per head
    "THS",  # scores and weights: one block per query
    LAST,  # only the row of the last position is stored
)


@frozen
class MapEntry:
    """A line of a map: an event, the tensor `source` with its values, a slice and a layout. If `ranks` lists
    the tensors of all ranks, these are joined along `axis`."""

    event: str
    source: str
    index: Index = ()
    layout: str = ""
    ranks: tuple[str, ...] = ()
    axis: int | None = None


@frozen
class PassChoice:
    """What a user says about the passes of a dump: the positions of the rows of each pass, the number of a
    text of a batch, and the padding, such as ("left", 3). None stands for what the dump itself says."""

    positions: tuple[tuple[int, ...], ...] | None = None
    text: int | None = None
    padding: tuple[str, int] | None = None


@frozen
class NameMap:
    """The lines of a map, the tokens of the dump if the map lists tokens, and what is said about passes.

    `names_of` is the architecture whose names the other tensors have, TENSORS if each tensor keeps its own
    name instead of an event, or "" if the names show the architecture.
    """

    origin: str
    entries: tuple[MapEntry, ...] = ()
    tokens: tuple[int, ...] | None = None
    passes: PassChoice = PassChoice()
    names_of: str = ""

    def of_rank(self, rank: str = "") -> NameMap:
        """Return the map for the dump of a rank. Raises InputError if a list of tensors lacks the rank."""
        entries = list[MapEntry]()
        for entry in self.entries:
            own = [name for name in entry.ranks if rank and name.startswith(f"{rank}/")]
            if entry.ranks and len(own) != 1:
                wanted = f'one tensor of each rank, such as "{rank}/x"' if rank else "one name"
                found = brief([*entry.ranks])
                raise InputError(f"{self.origin}: {entry.event}: from: expected {wanted}, found {found}")
            entries.append(replace(entry, source=own[0].removeprefix(f"{rank}/")) if own else entry)
        return replace(self, entries=tuple(entries))

    def match(self, names: Sequence[str], dump: str) -> list[MapEntry]:
        """Return a line for each tensor of the dump that belongs to an event. Layer numbers replace {i}.

        Raises InputError if a tensor is missing from the dump, or two tensors are assigned to one event.
        """
        lines: dict[str, MapEntry] = {}
        for entry in self.entries:
            matches = list(lines_for(entry, names))
            if not matches:
                close = _close(entry.source, names, 4)
                hint = f"close: {', '.join(map(brief, close))}" if close else "the dump contains no tensors"
                missing = f"{dump} has no tensor {brief(entry.source)} ({hint})"
                raise InputError(f"{self.origin}: {entry.event}: {missing}")
            for line in matches:
                if line.event in lines:
                    both = f"{lines[line.event].source!r} and {line.source!r}"
                    raise InputError(f"{self.origin}: {line.event} of {dump} is both {both}")
                lines[line.event] = line
        return list(lines.values())


def read_map(path: Path) -> NameMap:
    """Read a map from a TOML file. Raises FileFormatError with the key of a wrong line."""
    content = _read_toml(path)
    known = ("tokens", "events", "positions", "batch", "padding")
    unknown = [key for key in content if key not in known]
    if unknown:
        raise FileFormatError(f"{path}: expected only {', '.join(known)}, found {brief(unknown[0])}")
    events = content.get("events", {})
    if not isinstance(events, dict):
        raise FileFormatError(f"{path}: events: expected a table [events], found {brief(events)}")
    entries = tuple(_entry(path, event, line) for event, line in events.items())
    tokens = content.get("tokens")
    ids = None if tokens is None else whole_numbers(f"{path}: tokens", tokens, some=True)
    said = {key: content[key] for key in known[2:] if key in content}
    wrong = [key for key, value in said.items() if type(value) is not (int if key == "batch" else str)]
    if wrong:
        expected = "a whole number" if wrong[0] == "batch" else 'a text such as "0-4,5,6" or "left:3"'
        raise FileFormatError(f"{path}: {wrong[0]}: expected {expected}, found {brief(said[wrong[0]])}")
    return NameMap(str(path), entries, ids, pass_choice(**said))


def pass_choice(
    positions: str | None = None, batch: int | None = None, padding: str | None = None
) -> PassChoice:
    """Return what options or a map say about the passes of a dump. Raises InputError for other texts.

    >>> pass_choice("0-4,5", padding="left:3")
    PassChoice(positions=((0, 1, 2, 3, 4), (5,)), text=None, padding=('left', 3))
    """
    ranges = [] if positions is None else [part.strip().split("-") for part in positions.split(",")]
    if not all(len(own) < 3 and all(map(_POSITION.fullmatch, own)) for own in ranges) or any(
        not int(own[0]) <= int(own[-1]) < int(own[0]) + _MAX_ROWS for own in ranges
    ):
        expected = "expected the positions of each pass, such as 0-4,5,6"
        raise InputError(f"pass positions: {expected}, found {brief(positions)}")
    match = re.fullmatch(r"(left|right):([0-9]{1,9})", padding or "left:1")
    if match is None:
        raise InputError(
            f'padding: expected the side and the number of rows, such as "left:3", found {padding!r}'
        )
    return PassChoice(
        tuple(tuple(range(int(own[0]), int(own[-1]) + 1)) for own in ranges) or None,
        batch, None if padding is None else (match[1], int(match[2])),
    )  # fmt: skip


def sliced_shape(index: Index, shape: Sequence[int], what: str) -> tuple[int, ...]:
    """Return the shape of a slice of an array.

    Raises InputError if the slice is empty or exceeds the array. The error message begins with `what`.
    """
    if len(index) > len(shape):
        raise InputError(f"{what}: expected at most {len(shape)} indices, found {len(index)}")
    for axis, (part, size) in enumerate(zip(index, shape, strict=False)):
        bounds, room = ([part], size) if isinstance(part, int) else ([part.start, part.stop], size + 1)
        outside = [b for b in bounds if b is not None and not -size <= b < room]
        if outside or (isinstance(part, slice) and not range(size)[part]):
            problem = f"index {outside[0]} is outside" if outside else "the slice is empty"
            raise InputError(f"{what}: axis {axis} of {list(shape)} has {size} elements, and {problem}")
    return np.broadcast_to(np.uint8(), tuple(shape))[index].shape


def _read_toml(path: Path) -> dict[str, Any]:
    text = read_text(path, "a map of names", _MAX_BYTES)
    dots = max(line.count(".") for line in text.split("\n")) * text.count("\n")
    if dots > _MAX_DOTS:  # the time of tomllib is proportional to lines times dots
        raise FileFormatError(f"{path}: expected a map of names, found too many dots in the keys")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # text that is not TOML, or deep nesting
        reason = " ".join(str(error).split())[:200]
        raise FileFormatError(f"{path}: expected a map of names in TOML ({reason})") from error


def _close(name: str, names: Sequence[str], count: int) -> list[str]:
    """Return the `names` most similar to `name`, or the first `names` if no name is similar."""
    from difflib import get_close_matches

    return get_close_matches(name[:MAX_NAME], names, count, 0.5) or list(names[:count])


def _entry(path: Path, event: str, line: Any) -> MapEntry:
    where = f"{path}: [events] {brief(event)}"
    if not is_event(event.replace("{i}", "0", 1)):
        events = [name.replace("#", "{i}", 1).replace("#", "0") for name in known_events()]
        close = _close(re.sub(r"^layer[0-9]+", "layer{i}", event), events, 3)
        raise FileFormatError(f"{where}: no event has that name (close: {', '.join(close)})")
    if isinstance(line, str):
        line = {"from": line}
    sources = line.get("from") if isinstance(line, Mapping) else None
    ranks, allowed = tuple(sources) if isinstance(sources, list) else (), {"from", "layout", "axis"}
    if not all(isinstance(own, str) for own in ranks or (sources,)) or line.keys() - allowed:
        raise FileFormatError(
            f'{where}: expected a name, {{ from = "name", layout = "HTD" }} or {{ from = ["rank0/name", '
            f'"rank1/name"], axis = 1 }}, found {brief(line)}'
        )
    axis = line.get("axis")
    if type(axis) is not (int if ranks else type(None)):
        raise FileFormatError(
            f"{where}: axis: expected a whole number for a list of names, found {brief(axis)}"
        )
    layout = line.get("layout", "")
    if "layout" in line and layout not in (OWN, *LAYOUTS):
        raise FileFormatError(f"{where}: expected layout {', '.join((OWN, *LAYOUTS))}, found {brief(layout)}")
    source, index = (ranks[0], ()) if ranks else _source(where, line["from"])
    wrong = [own for own in ranks or (source,) if ("{i}" in event) != ("{i}" in own)]
    if wrong:
        raise FileFormatError(f"{where}: {{i}} must be in both names or in neither, found {brief(wrong[0])}")
    return MapEntry(event, source, index, layout, ranks, axis)


def _source(where: str, text: str) -> tuple[str, Index]:
    """Separate a name from its slice. For instance, "qkv[:, :896]" means the first 896 columns of qkv."""
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


def lines_for(entry: MapEntry, names: Sequence[str]) -> Iterator[MapEntry]:
    """Yield a copy of the line for each matching tensor. The layer number replaces {i}."""
    head, *rest = map(re.escape, entry.source.split("{i}"))
    number = r"(?P<i>[0-9]{1,4})"
    pattern = re.compile(head + "".join((r"(?P=i)" if n else number) + part for n, part in enumerate(rest)))
    exact = [name for name in names if name == entry.source]
    for name in exact or names:
        match = pattern.fullmatch(name) or pattern.fullmatch(without_suffix(name))
        if match or exact:
            event = entry.event.replace("{i}", str(int(match["i"]))) if match and rest else entry.event
            yield replace(entry, event=event, source=name)
