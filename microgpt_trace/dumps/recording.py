"""Recording: the tensors that another run left behind, as plain data, and how its notes are written. Knows
no file format."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace

from ..arrays.stats import Array
from ..hooks.event import TraceEvent
from ..text.brief import brief, one_line

OWN = "own"  # a layout: shape and order are those of our events


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Recorded:
    """A tensor of a recording, which nothing has been read of before `read()`.

    `layout` is OWN, letters where a map says them ("HTD", "THD", "CT", "TC", "last"), or empty: to be
    found out from the shapes. `beside` names the events whose rows lie side by side in the stored rows,
    this one among them (apr's qkv). `adjacent` says that rows of q and k may come in GGUF's order. Of
    several `candidates` it is the first that a model has.
    """

    source: str  # for messages: "Qcur-0.npy", "layer-0/ffn_up.bin"
    shape: tuple[int, ...]  # as stored
    read: Callable[[], Array]  # float32 or float64, of that shape
    layout: str = ""
    beside: tuple[str, ...] = ()
    adjacent: bool = False
    candidates: tuple[str, ...] = ()

    __repr__ = one_line


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Leftover:
    """A tensor that stands for no event of ours, and why. Of one that is not `readable` the dump has no
    numbers, or some of a type that is not read: `read()` raises InputError."""

    recorded: Recorded
    reason: str
    readable: bool = True

    __repr__ = one_line


@dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """What a dump holds, under the names of our events (gradients and updates are left out).

    `statistics` are the events of a JSON document, which has no arrays. `positions` are those that
    logits and probs have, None where the dump does not say.
    """

    origin: str
    kind: str  # "arrays of a trace", "statistics of a trace", "APRT dumps", ".npy files", ...
    tensors: Mapping[str, Recorded]
    tokens: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    statistics: Mapping[str, TraceEvent] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()
    notes: tuple[str, ...] = ()

    __repr__ = one_line


def of_model(recording: Recording, events: Container[str]) -> Recording:
    """The same beside a model that has these events, which decide between candidates."""

    def meant(recorded: Recorded) -> str:
        return next((name for name in recorded.candidates if name in events), "")

    own = {meant(recorded) or event: recorded for event, recorded in recording.tensors.items()}
    if len(own) < len(recording.tensors):  # one of them is there by its own name too
        own = dict(recording.tensors)
    freed = [left for left in recording.leftovers if meant(left.recorded) not in {"", *own}]
    own |= {meant(left.recorded): left.recorded for left in freed}
    left = tuple(one for one in recording.leftovers if one not in freed)
    return replace(recording, tensors=own, leftovers=left)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Fitted:
    """A recorded tensor as our event has it: [T, W], [H, T, S] or [].

    `positions` are those of its rows, None where it has all of them; `note` says what was done to it.
    """

    array: Array
    positions: tuple[int, ...] | None = None
    note: str = ""

    __repr__ = one_line


def readable(text: str) -> str:
    """A file's own words, on one line whatever they are."""
    return text if text.isprintable() else brief(text)
