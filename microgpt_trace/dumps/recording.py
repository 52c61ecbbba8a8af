"""The tensors of a dump under the names of our events."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError, naming
from ..hooks.event import TraceEvent
from ..models.language_model import LanguageModel, file_order, head_dim
from ..naming.user_map import OWN
from ..plans.plan import over_tokens
from ..text.brief import token_list
from ..text.frozen import frozen
from ..text.printable import quoted
from .layouts import Fitted, Leftover, Recorded, Shapes, fit


class TextBatch(NamedTuple):
    """The tokens of a batch of B texts, [B, t], and the attention mask of all keys so far, [B, S], or None if
    the dump has no mask. `start` is the position of the first row of the first text."""

    ids: Array
    mask: Array | None
    start: int = 0


@frozen(eq=False)
class Texts:
    """The texts of a batch. The recording has the text with the number `chosen`, whose rows in the dump are
    `rows`."""

    count: int
    chosen: int
    rows: tuple[int, ...]


@frozen(slots=False, eq=False)
class Recording:
    """The contents of a dump under the names of our events, without gradients and updates.

    `statistics` contains the events of a JSON document, with or without arrays. `positions` lists the
    position of each row of logits and probs, or is None if the dump lacks this list. `batch` is set if the
    arrays still have all texts of a batch, or padding. `texts` is set after one text was cut out. `starts`
    lists the first position of each pass, if the recording consists of several passes. `again` opens the dump
    once more, with other keywords of `open_recording`, unless its names are always those of events.
    """

    origin: str
    kind: str  # "arrays of a trace", "statistics of a trace", "APRT dumps", ".npy files", ...
    tensors: Mapping[str, Recorded]
    tokens: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    statistics: Mapping[str, TraceEvent] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()
    notes: tuple[str, ...] = ()
    batch: TextBatch | None = None
    starts: tuple[int, ...] = ()
    texts: Texts | None = None
    again: Callable[..., Recording] | None = None
    model: LanguageModel | None = None  # whose names the tensors have
    names_of: str = ""  # see NameMap, or "" if the names are always those of events

    def values_of(
        self, name: str, model: LanguageModel, length: int, alone: bool = False
    ) -> tuple[Array, Sequence[int] | None]:
        """Return an event's values ([T, W], [H, T, S] or []) in the model's order, and the rows' positions.

        The positions are None if one row or number stands for all `length` positions. If `alone` is True and
        the dump contains only one array, the name of the array is ignored. Raises InputError if the event is
        missing or the shape does not fit.
        """
        recorded = self.tensors.get(name)
        if recorded is None:
            every = [*self.tensors.values(), *(left.recorded for left in self.leftovers)]
            if alone and len(every) == 1:
                return np.asarray(every[0].read()), None
            contents = f"{len(self.tensors):,} other events" if self.tensors else "no array of any event"
            raise InputError(f"{self.origin}: expected {name}, found {contents}{self._how_to_save(name)}")
        row = model.plan.shapes(1)[name]  # () for a single number
        if alone and len(row) < 3 and math.prod(recorded.shape) == math.prod(row):
            return np.asarray(recorded.read()), None
        own = recorded.layout == OWN and len(recorded.shape) > 1
        rows = recorded.shape[-2] if own and not over_tokens(name) else len(self.tokens or ()) or length
        with naming(self.origin):
            fitted = self.fitted(name, recorded, model, model.plan.shapes(rows))
        return fitted.array, fitted.positions or range(rows) if fitted.array.ndim else None

    def fitted(self, name: str, recorded: Recorded, model: LanguageModel | None, shapes: Shapes) -> Fitted:
        """Return a tensor in the shape of the event `name`. Raises InputError if the tensor does not fit."""
        dim, order = None if model is None else head_dim(model, name), file_order(model, name)
        return fit(name, recorded, shapes, head_dim=dim, order=order, positions=self.positions)

    def _how_to_save(self, name: str) -> str:
        """Return a hint how to save the event, if this program wrote the dump."""
        if not self.kind.endswith("of a trace"):
            return ""
        layer = quoted(re.sub("head[0-9]+$", "head*", name))
        return f"; save it with `microgpt trace --layer {layer} --save FILE`"


def lost_or_doubled(tokens: Sequence[int], right: Sequence[int], starts: Sequence[int] = ()) -> str:
    """Return a claim if tokens lack one token of the right tokens, or have one token twice, or else "".
    `starts` lists the first position of each pass.

    >>> lost_or_doubled([1, 2, 2, 3], [1, 2, 3], starts=(0, 2))
    'token 2 is doubled at position 2, where a pass begins'
    """
    short, long = sorted([list(tokens), list(right)], key=len)
    at = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if long[:at] + long[at + 1 :] != short or len(long) != len(short) + 1:
        return ""
    if len(tokens) > len(right) and long[at] != long[at - 1]:
        return ""  # another token was added
    what = "lost" if len(tokens) < len(right) else "doubled"
    return f"token {long[at]} is {what} at position {at}{', where a pass begins' * (at in starts)}"


def agreed(what: str, sources: Iterable[tuple[str, Sequence[int] | None]]) -> tuple[int, ...] | None:
    """Return the list on which all sources agree, if any. Raises InputError if two sources differ."""
    values = [(source, tuple(value)) for source, value in sources if value is not None]
    for source, value in values[1:]:
        if value != values[0][1]:
            first = f"{token_list(values[0][1])} in {values[0][0]}"
            change = lost_or_doubled(value, values[0][1])
            change = f"; in {source}, {change}" if change else ""
            raise InputError(f"the {what} differ: {first}, {token_list(value)} in {source}{change}")
    return values[0][1] if values else None


def one_of(
    recordings: Sequence[Recording], join: Callable[[str, dict[int, Recorded]], Recorded | Leftover]
) -> Recording:  # fmt: skip
    """Return one recording of passes or ranks. `join` gets the name of an event, and its tensors by the
    number of the pass or rank. It returns one tensor, or the reason why there is none."""
    tensors, leftovers = dict[str, Recorded](), [own for one in recordings for own in one.leftovers]
    for name in dict.fromkeys(name for one in recordings for name in one.tensors):
        result = join(name, {i: one.tensors[name] for i, one in enumerate(recordings) if name in one.tensors})
        leftovers += [result] if isinstance(result, Leftover) else []
        tensors |= {name: result} if isinstance(result, Recorded) else {}
    left = {own.recorded.source: own for own in leftovers}
    return replace(recordings[0], tensors=tensors, leftovers=tuple(left.values()))


def of_model(recording: Recording, model: LanguageModel) -> Recording:
    """Return the recording with the events of a model. Names are read as the names of the model's
    architecture. If a tensor has candidates, the tensor becomes the first candidate in the model's plan."""
    if recording.again is not None and recording.model is None:
        return recording.again(model=model)

    def candidate(recorded: Recorded) -> str:
        return next((name for name in recorded.candidates if name in model.plan), "")

    tensors = {candidate(recorded) or event: recorded for event, recorded in recording.tensors.items()}
    if len(tensors) < len(recording.tensors):  # two tensors have the same event now: keep the old names
        tensors = dict(recording.tensors)
    placed = [one for one in recording.leftovers if candidate(one.recorded) not in {"", *tensors}]
    tensors |= {candidate(one.recorded): one.recorded for one in placed}
    leftovers = tuple(one for one in recording.leftovers if one not in placed)
    return replace(recording, tensors=tensors, leftovers=leftovers)
