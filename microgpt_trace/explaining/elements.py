"""Find the element that a text names, and describe its place in words. Reads shapes but no values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from ..errors import InputError
from ..formulas.steps import element_name
from ..formulas.traced_element import Element
from ..models.language_model import LanguageModel, TraceInput
from ..plans.kinds import Experts, Linear, Lookup, Norm
from ..plans.plan import Plan, over_tokens
from ..selection.parts import AXES
from ..selection.sites import Site, describe_shape, parse_site
from ..selection.token_names import token_of, token_with_id
from ..text.printable import shown_token
from ..text.wording import abridged

Shapes = Mapping[str, tuple[int, ...]]


def find_element(model: LanguageModel, text: str, shapes: Shapes) -> Element:
    """Return the element that a text names, such as "layer0.attn.q[3,4]". Raises InputError if the text does
    not name exactly one element."""
    site = parse_site(text)
    names = site.names(list(shapes))
    if len(names) > 1:
        raise InputError(
            f"{text}: expected one event, found {len(names)} for {site.selector} ({abridged(names)})"
        )
    name, shape, token = names[0], shapes[names[0]], None
    words: tuple[str, ...] = ()
    if name in model.config.shapes():
        site, words = _of_parameter(model, site, name), AXES[len(shape)]
    elif over_tokens(name):
        token = partial(token_of, model)
    index = site.part(name, shape, token, words).element(shape)
    if index is None:
        example = tuple(min(size - 1, i) for size, i in zip(shape, (1, 2, 0), strict=False))
        expected = f"expected one element, such as {element_name(name, example)}"
        raise InputError(f"{text}: {expected}; {describe_shape(name, shape, words)}")
    return Element(name, index)


def _of_parameter(model: LanguageModel, site: Site, name: str) -> Site:
    """Return the site with an index for each axis. The row of an embedding may be written as a token."""
    texts = site.index or tuple(filter(None, (site.position, site.channel)))
    if texts and name in tables_of_tokens(model.plan) and not re.fullmatch("-?[0-9]{1,9}", texts[0]):
        texts = (str(token_of(model, texts[0])), *texts[1:])
    return replace(site, index=texts)


def tables_of_tokens(plan: Plan) -> dict[str, bool]:
    """Return the parameters whose rows are tokens, with True if the tokens are targets."""
    head = plan.head[0].kind
    assert isinstance(head, Linear)
    return {head.weight: True} | {kind.table: False for kind in plan.kinds(Lookup) if kind.by == "tokens"}


def place_of(model: LanguageModel, element: Element, inputs: TraceInput) -> str:
    """Describe an element's place, such as "head 1, query at position 3 (m), key at position 2 (m)"."""
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
    if over_tokens(element.name):
        return f"after {where}: {token_with_id(model, channel, target=True)}"
    kind = model.plan[element.name].kind
    if isinstance(kind, Linear) and kind.columns:
        first, end = kind.columns
        return f"output of head {first // (end - first)}, {where}, channel {channel}"
    return f"{where}, channel {channel}{_in_head(model.plan, element.name, channel)}"


def _in_head(plan: Plan, name: str, channel: int) -> str:
    """Describe the head of a channel, if the event's channels are heads side by side."""
    if name not in plan.heads:
        return ""
    dim, group = plan.heads[name]
    head, head_channel = divmod(channel, dim)
    if len(set(group)) == len(group):
        return f": channel {head_channel} of head {head}"
    users = ", ".join(str(query) for query, used in enumerate(group) if used == head)
    return f": channel {head_channel} of key-value head {head}, which heads {users} use"


def _place_of_parameter(model: LanguageModel, element: Element) -> str:
    tables, index = tables_of_tokens(model.plan), element.index
    if element.name in tables:
        token = token_with_id(model, index[0], target=tables[element.name])
        return f"a parameter: {token}, channel {index[1]}"
    if any(kind.table == element.name for kind in model.plan.kinds(Lookup)):
        return f"a parameter: position {index[0]}, channel {index[1]}"
    experts = {name for kind in model.plan.kinds(Experts) for name in kind.names}
    if element.name in experts:
        *before, output = index[1:][::-1]
        source = f"from input {before[0]} " if before else ""
        return f"a parameter of expert {index[0]}: {source}to output {output}"
    if any(element.name in kind.names for kind in model.plan.kinds(Norm)) and len(index) == 2:
        return f"a parameter: head {index[0]}, channel {index[1]}"
    if len(index) == 2:
        return f"a parameter: from input {index[1]} to output {index[0]}"
    return f"a parameter: channel {index[0]}"


def position_of(inputs: TraceInput, position: int) -> str:
    """Describe a position, such as "position 3 (m)"."""
    return f"position {position} ({shown_token(inputs.labels[position])})"
