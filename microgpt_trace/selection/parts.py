"""Find parts of events and parameters by name, such as layer0.attn.weights[4]. Reads no values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..errors import InputError
from ..models.language_model import LanguageModel
from ..plans.plan import over_tokens
from .sites import Part, Site, parse_site
from .token_names import token_of

# The names of the axes of a parameter, by the number of axes.
AXES = {1: ("index",), 2: ("row", "column"), 3: ("expert", "row", "column")}


def events_named(model: LanguageModel, names: Sequence[str], length: int, rows: Sequence[int]) -> list[str]:
    """Return the events that match names, globs and parts, in order of computation. The text has `length`
    tokens, and `rows` are the positions with logits. Raises InputError if there is no such event or part."""
    events, chosen = list(model.hooks.specs), set[str]()
    for site in map(parse_site, names):
        matches = site.names(events)
        for name in matches if site.place else ():
            part_of(model, site, name, length, rows)
        chosen.update(matches)
    return [name for name in events if name in chosen]


def part_of(model: LanguageModel, site: Site, name: str, length: int, rows: Sequence[int]) -> Part:
    """Return the part of an event or parameter that a site names. Raises InputError if no part matches."""
    if name not in model.plan:
        shape = model.config.shapes()[name]
        return site.part(name, shape, words=AXES[len(shape)])
    if not over_tokens(name):
        return site.part(name, model.plan.shapes(length)[name])
    part = site.part(name, model.plan.shapes(length)[name], partial(token_of, model))
    for position in part.positions or ():
        if position not in rows:
            raise InputError(f"{site.text}: the {name} of position {position} are not computed")
    return part
