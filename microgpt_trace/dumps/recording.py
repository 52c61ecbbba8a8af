"""Recording: what another run left behind, under the names of our events. Knows no file format."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import field, replace

import numpy as np

from ..architecture.model import LanguageModel, file_order
from ..architecture.plans.plan import HEAD_EVENTS
from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.event import TraceEvent
from ..text.brief import frozen, token_list
from ..text.printable import quoted
from .layouts import OWN, Fitted, Leftover, Recorded, Shape, fit


@frozen(slots=False, eq=False)
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

    def values_of(
        self, name: str, model: LanguageModel, length: int, alone: bool = False
    ) -> tuple[Array, Sequence[int] | None]:
        """An event's values, [T, W], [H, T, S] or [], in the order that the model has, and the positions of
        its rows; None of one row, or one number, that stands for all of `length` positions.

        Where it may stand `alone` the only array serves, whatever its name. Raises InputError where there is
        none of the event, or none that fits.
        """
        recorded = self.tensors.get(name)
        if recorded is None:
            every = [*self.tensors.values(), *(left.recorded for left in self.leftovers)]
            if alone and len(every) == 1:
                return np.asarray(every[0].read()), None
            held = f"has {len(self.tensors):,} events" if self.tensors else "has no array of an event"
            raise InputError(f"{self.origin} {held}, not {name}{self._how_to_save(name)}")
        row = model.plan.shapes(1)[name]  # or one number, as the loss is
        if alone and len(row) < 3 and math.prod(recorded.shape) == math.prod(row):
            return np.asarray(recorded.read()), None
        own = recorded.layout == OWN and len(recorded.shape) > 1
        rows = recorded.shape[-2] if own and name not in HEAD_EVENTS else len(self.tokens or ()) or length
        try:
            fitted = self.fitted(name, recorded, model, model.plan.shapes(rows))
        except InputError as error:
            raise InputError(f"{self.origin}: {error}") from error
        return fitted.array, fitted.positions or range(rows) if fitted.array.ndim else None

    def fitted(
        self, name: str, recorded: Recorded, model: LanguageModel | None, shapes: Mapping[str, Shape]
    ) -> Fitted:
        """A tensor of this dump as the event `name` of the model has it. Raises InputError where it does not
        fit."""
        dim, order = None if model is None else model.config.head_dim, file_order(model, name)
        return fit(name, recorded, shapes, head_dim=dim, order=order, positions=self.positions)

    def _how_to_save(self, name: str) -> str:
        """What saves an event that a trace of ours left out."""
        if not self.kind.endswith("of a trace"):
            return ""
        layer = quoted(re.sub("head[0-9]+$", "head*", name))
        return f"; `microgpt trace` with --layer {layer} --save FILE saves it"


def agreed(what: str, said: Iterable[tuple[str, Sequence[int] | None]]) -> tuple[int, ...] | None:
    """The tokens or positions of which all say the same who say any. Raises InputError where two differ."""
    known = [(who, tuple(value)) for who, value in said if value is not None]
    for who, value in known[1:]:
        if value != known[0][1]:
            first = f"{token_list(known[0][1])} in {known[0][0]}"
            raise InputError(f"other {what}: {first}, {token_list(value)} in {who}")
    return known[0][1] if known else None


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
