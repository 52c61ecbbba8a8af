"""Which element is meant, and where it stands, in words. Knows shapes, no values."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..architecture.formulas.steps import element_name
from ..architecture.formulas.traced_element import Element
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plans.kinds import Linear, Lookup
from ..architecture.plans.plan import HEAD_EVENTS, Plan
from ..errors import InputError
from ..hooks.sites import Site, describe_shape, parse_site
from ..running.token_names import token_of, token_with_id
from ..text.printable import shown_token

Shapes = Mapping[str, tuple[int, ...]]


def find_element(model: LanguageModel, text: str, shapes: Shapes) -> Element:
    """The element that a text names. Raises InputError where that is none, or several."""
    site = parse_site(text)
    names = site.names(list(shapes))
    if len(names) > 1:
        some = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        raise InputError(f"{text}: {site.selector} means {len(names)} events ({some}): name one of them")
    name = names[0]
    shape = shapes[name]
    parameter = name in model.config.shapes()
    if len(site.index or ((site.position, site.channel) if site.position else ())) not in (0, len(shape)):
        raise InputError(f"{text}: {_asked_for(name, shape, parameter)}")
    if parameter:
        index = _of_parameter(model, site, name, shape)
    else:
        part = site.part(name, shape, (lambda t: token_of(model, t)) if name in HEAD_EVENTS else None)
        index = part.element(shape)
    if index is None:
        raise InputError(f"{text}: {_asked_for(name, shape, parameter)}")
    return Element(name, index)


def _asked_for(name: str, shape: tuple[int, ...], parameter: bool) -> str:
    example = element_name(name, tuple(min(size - 1, i) for size, i in zip(shape, (1, 2, 0), strict=False)))
    if len(shape) == 3:
        example = element_name(name, (min(1, shape[0] - 1), shape[1] - 1, max(0, shape[2] - 2)))
    if parameter and len(shape) == 2:
        described = f"{name} is {list(shape)}, row and column"
    else:
        described = describe_shape(name, shape)
    return f"{described}; one element of it is for example {example}"


def _of_parameter(
    model: LanguageModel, site: Site, name: str, shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Row and column, or the one index of a vector; a row of an embedding may be a token."""
    texts = site.index or tuple(filter(None, (site.position, site.channel)))
    if len(texts) != len(shape):
        return None
    if name in tables_of_tokens(model.plan) and not re.fullmatch("-?[0-9]{1,9}", texts[0]):
        texts = (str(token_of(model, texts[0])), *texts[1:])
    found = []
    for text, size, axis in zip(
        texts, shape, ("row", "column") if len(shape) > 1 else ("index",), strict=True
    ):
        if not re.fullmatch("-?[0-9]{1,9}", text):
            raise InputError(f"{site.text}: expected a {axis} of {name} like 3 or -1, found {text!r}")
        if not -size <= int(text) < size:
            raise InputError(f"{site.text}: {axis} {text} of {name}, which has {size:,}: 0 to {size - 1:,}")
        found.append(int(text) % size)
    return tuple(found)


def tables_of_tokens(plan: Plan) -> dict[str, bool]:
    """The parameters whose rows are tokens, and whether these are such as may follow."""
    head = plan["logits"].kind
    assert isinstance(head, Linear)
    return {head.weight: True} | {kind.table: False for kind in plan.kinds(Lookup) if kind.by == "tokens"}


def place_of(model: LanguageModel, element: Element, inputs: TraceInput) -> str:
    """In words: "head 1, query at position 3 (m), key at position 2 (m)" """
    index = element.index
    if not index:
        return f"the mean over {sum(target is not None for target in inputs.targets)} predictions"
    if element.name not in model.plan:
        return _place_of_parameter(model, element)
    if len(index) == 3:
        query, key = (position_of(inputs, p) for p in index[1:])
        return f"head {index[0]}, query at {query}, key at {key}"
    position, channel = index
    where = position_of(inputs, position)
    if element.name in HEAD_EVENTS:
        return f"after {where}: {token_with_id(model, channel, target=True)}"
    kind = model.plan[element.name].kind
    if isinstance(kind, Linear) and kind.columns:
        first, end = kind.columns
        return f"the share of head {first // (end - first)}, {where}, channel {channel}"
    return f"{where}, channel {channel}{_in_head(model.plan, element.name, channel)}"


def _in_head(plan: Plan, name: str, channel: int) -> str:
    """Which head a channel belongs to, of what has heads side by side."""
    if name not in plan.heads:
        return ""
    dim, group = plan.heads[name]
    head, own = divmod(channel, dim)
    if len(set(group)) == len(group):
        return f": head {head}, its channel {own}"
    users = ", ".join(str(query) for query, of in enumerate(group) if of == head)
    return f": key-value head {head} (of heads {users}), its channel {own}"


def _place_of_parameter(model: LanguageModel, element: Element) -> str:
    tables, index = tables_of_tokens(model.plan), element.index
    if element.name in tables:
        named = token_with_id(model, index[0], target=tables[element.name])
        return f"a parameter: {named}, channel {index[1]}"
    if any(kind.table == element.name for kind in model.plan.kinds(Lookup)):
        return f"a parameter: position {index[0]}, channel {index[1]}"
    if len(index) == 2:
        return f"a parameter: from input {index[1]} to output {index[0]}"
    return f"a parameter: channel {index[0]}"


def position_of(inputs: TraceInput, position: int) -> str:
    """ "position 3 (m)" """
    return f"position {position} ({shown_token(inputs.labels[position])})"
