"""From sites to the places that are patched one by one, and what stands there. Knows no run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..architecture.plan import kind_of, layer_of
from ..architecture.sites import Part, Site, parse_site
from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.names import ALIASES
from ..running.token_names import token_of
from .results import Spot

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..architecture.plan import Plan

AFTER_LOGITS = ("probs", "loss")
WHOLE = Part()


@dataclass(frozen=True, slots=True)
class PatchPoint:
    """A part of an event, and what is said of it."""

    spot: Spot
    part: Part

    def change(self, clean: Array) -> Callable[[Array], Array]:
        """What puts the clean value [T, W] or [H, T, T] there."""

        def put(value: Array) -> Array:
            return np.where(self._mask(value), clean, value)

        return put

    def same(self, clean: Array, corrupt: Array) -> bool:
        """Whether both runs have the same there, bit for bit: then nothing changes."""
        mask = self._mask(clean)
        return np.array_equal(clean[mask], corrupt[mask])

    def _mask(self, value: Array) -> Array:
        return self.part.mask(value.shape, range(value.shape[-2]))


def default_sites(model: LanguageModel) -> tuple[str, ...]:
    """The residual stream: what enters the first layer, and what leaves each."""
    entered, *left = model.plan.streams
    return entered, *dict.fromkeys(f"layer*.{kind_of(name)}" for name in left)


def places_of(model: LanguageModel, sites: Sequence[str] | None, length: int) -> list[PatchPoint]:
    """What is patched in prompts of that length: each position of an event, each head as a whole, and
    parts that a site names. Raises InputError for a site that the model does not have."""
    shapes = model.plan.shapes(length)
    whole, parts = set[str](), dict[str, PatchPoint]()
    for site in map(parse_site, default_sites(model) if sites is None else sites):
        for name in _patchable(site, model):
            said = site.text.strip()[len(site.selector) :]
            part = site.part(name, shapes[name], partial(token_of, model) if name == "logits" else None)
            if said:
                parts[name + said] = PatchPoint(_spot_of(name + said, name, part, model.plan), part)
            else:
                whole.add(name)
    if not whole and not parts:
        raise InputError("sites: expected at least one")
    places: list[PatchPoint] = []
    for name in list(model.plan):
        if name in whole:
            places += _of_event(model.plan, name, length)
    return [*places, *parts.values()]


def _patchable(site: Site, model: LanguageModel) -> list[str]:
    """The events that a site names. Raises InputError, with the reason, for what cannot be patched."""
    names, exact = list(model.plan), site.selector
    parameters = [name for name in model.config.shapes() if name in model.hooks.specs or name not in ALIASES]
    if exact in parameters:
        event = f" (the event is {ALIASES[exact][0]})" if exact in ALIASES else ""
        raise InputError(f"{exact} is a parameter, which both runs share: nothing to patch{event}")
    found = site.names(names)
    patchable = [name for name in found if name not in AFTER_LOGITS]
    if not patchable:
        raise InputError(f"{' and '.join(found)}: computed after the logits that are compared")
    return patchable


def _spot_of(site: str, name: str, part: Part, plan: Plan) -> Spot:
    """A part of an event; of a head with the head, and the position where the site names one of it."""
    head = _head_of(name, plan) if part.heads is None else _only(part.heads)
    return Spot(site, name, layer_of(name), head, None if head is None else _only(part.positions))


def _head_of(name: str, plan: Plan) -> int | None:
    return plan.sums_of[name].parts.index(name) if name in plan.sums_of else None


def _only(places: Sequence[int] | None) -> int | None:
    return places[0] if places is not None and len(places) == 1 else None


def _of_event(plan: Plan, name: str, length: int) -> list[PatchPoint]:
    if (head := _head_of(name, plan)) is not None:
        return [PatchPoint(Spot(name, name, layer_of(name), head, None), WHOLE)]
    return [
        PatchPoint(
            Spot(f"{name}@{position}", name, layer_of(name), None, position), Part(positions=(position,))
        )
        for position in range(length)
    ]
