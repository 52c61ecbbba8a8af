"""The points to patch: parts of events, with their descriptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.names import ALIASES
from ..models.language_model import LanguageModel
from ..plans.kinds import Add, Norm, Scale
from ..plans.plan import Operation, Plan, kind_of, layer_of, over_tokens
from ..selection.sites import Part, Site, parse_site
from ..selection.token_names import token_of
from ..text.frozen import frozen
from .patch_results import Spot

AFTER_LOGITS = ("probs", "loss")
WHOLE = Part()


@frozen
class PatchPoint:
    """A part of an event that is patched, and its description."""

    spot: Spot
    part: Part

    def change(self, clean: Array) -> Callable[[Array], Array]:
        """Return a function that puts the clean value [T, W] or [H, T, T] in this part."""

        return lambda value: np.where(self._mask(value), clean, value)

    def same(self, clean: Array, corrupt: Array) -> bool:
        """Return True if both runs are equal in this part, so that patching changes nothing."""
        mask = self._mask(clean)
        return np.array_equal(clean[mask], corrupt[mask])

    def _mask(self, value: Array) -> Array:
        return self.part.mask(value.shape, range(value.shape[-2]))


def points_of(model: LanguageModel, sites: Sequence[str] | None, length: int) -> list[PatchPoint]:
    """List the parts that are patched in prompts of this length: each position of an event, each head as a
    whole, and each part that a site names. Raises InputError if the model has no such site."""
    shapes, (entered, *left) = model.plan.shapes(length), model.plan.streams
    streams = (entered, *dict.fromkeys(f"layer*.{kind_of(name)}" for name in left))
    whole, parts = set[str](), dict[str, PatchPoint]()
    for site in map(parse_site, streams if sites is None else sites):
        for name in _patchable(site, model):
            part = site.part(name, shapes[name], partial(token_of, model) if over_tokens(name) else None)
            if site.place:
                parts[name + site.place] = point_of(model.plan, name, part, site.place)
            else:
                whole.add(name)
    if not whole and not parts:
        raise InputError("sites: expected at least one, found none")
    events = [_of_event(model.plan, name, length) for name in model.plan if name in whole]
    return [*chain.from_iterable(events), *parts.values()]


def _patchable(site: Site, model: LanguageModel) -> list[str]:
    """Return the events that a site names. Raises InputError if no such event can be patched."""
    names, exact = list(model.plan), site.selector
    parameters = [name for name in model.config.shapes() if name in model.hooks.specs or name not in ALIASES]
    if exact in parameters:
        event = f" (the event is {ALIASES[exact][0]})" if exact in ALIASES else ""
        raise InputError(f"{exact} is a parameter, which both runs share: nothing to patch{event}")
    matches = site.names(names)
    patchable = [name for name in matches if name not in AFTER_LOGITS]
    if not patchable:
        raise InputError(f"{' and '.join(matches)}: expected an event before the logits that are compared")
    return patchable


def point_of(plan: Plan, name: str, part: Part, place: str = "") -> PatchPoint:
    """Describe a part of an event. If the part belongs to one head, the description has the head, and if it
    also belongs to one position, the position."""
    if part.heads is not None:
        head = _only(part.heads)
    else:
        head = plan.sums_of[name].parts.index(name) if name in plan.sums_of else None
    position = None if head is None else _only(part.positions)
    return PatchPoint(Spot(name + place, name, layer_of(name), head, position), part)


def _only(places: Sequence[int] | None) -> int | None:
    return places[0] if places is not None and len(places) == 1 else None


def _of_event(plan: Plan, name: str, length: int) -> list[PatchPoint]:
    whole = point_of(plan, name, WHOLE)
    if whole.spot.head is not None:
        return [whole]
    return [
        PatchPoint(replace(whole.spot, site=f"{name}@{position}", position=position), Part(None, (position,)))
        for position in range(length)
    ]


def passes_on(row: Operation) -> bool:
    """Return True if a row only passes on the writes of other rows to the logits."""
    return over_tokens(row.name) or isinstance(row.kind, Add | Norm | Scale)
