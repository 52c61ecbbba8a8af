"""Parts of events and parameters, as one names them where a whole one may stand: layer0.attn.weights[4].
Knows no values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..architecture.model import LanguageModel
from ..architecture.plans.plan import HEAD_EVENTS
from ..errors import InputError
from ..hooks.sites import Part, Site, parse_site
from .token_names import token_of

AXES = {1: ("index",), 2: ("row", "column")}  # of parameters


def events_named(model: LanguageModel, names: Sequence[str], length: int, rows: Sequence[int]) -> list[str]:
    """The events that names, globs and parts of these mean, in order of computation, for a text of so many
    tokens, of which `rows` have logits. Raises InputError where there is no such event or part."""
    known, found = list(model.hooks.specs), set[str]()
    for site in map(parse_site, names):
        meant = site.names(known)
        for name in meant if site.place else ():
            part_of(model, site, name, length, rows)
        found.update(meant)
    return [name for name in known if name in found]


def part_of(model: LanguageModel, site: Site, name: str, length: int, rows: Sequence[int]) -> Part:
    """What a site means of an event or a parameter. Raises InputError where that has no such place."""
    if name not in model.plan:
        shape = model.config.shapes()[name]
        return site.part(name, shape, words=AXES[len(shape)])
    if name not in HEAD_EVENTS:
        return site.part(name, model.plan.shapes(length)[name])
    part = site.part(name, model.plan.shapes(length)[name], partial(token_of, model))
    for position in part.positions or ():
        if position not in rows:
            raise InputError(f"{site.text}: position {position} is none of those whose {name} are computed")
    return part
